"""Sweeps: trials grouped into configurations, ranked on val and compared with the best."""
