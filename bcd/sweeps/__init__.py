"""Sweeps: what trials left, folded into settings, compared with the best, and told in a table."""
