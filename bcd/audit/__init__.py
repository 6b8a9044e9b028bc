"""The audit of data and split: duplicates, leaks, shortcuts; checks with a verdict."""
