"""Heads: linear, MLP, and those fitted by scikit-learn."""
