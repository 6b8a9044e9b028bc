"""Benchmarks: whole processes timed side by side, in one go, on the same images."""
