"""One module for each `bcd <verb>`."""
