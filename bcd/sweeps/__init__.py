"""Sweeps: trials grouped into configurations, compared with the best, and ranked in a table."""
