"""Backbones: built, cut into blocks, and loaded with weights."""
