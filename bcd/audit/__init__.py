"""Whether the data can be trusted: duplicates, leaks, shortcuts; checks with a verdict."""
