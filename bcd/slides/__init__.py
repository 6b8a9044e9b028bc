"""Whole-slide files: tiles with smear, their answers, and a heat map."""
