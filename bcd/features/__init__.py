"""Cached features: the output of the frozen prefix is computed once and reused."""
