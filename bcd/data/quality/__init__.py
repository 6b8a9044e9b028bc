"""Data quality: image statistics, near duplicates and overlaps, the data profile."""
