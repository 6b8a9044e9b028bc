"""Evaluates a checkpoint: the same as `bcd eval`."""

from bcd.__main__ import main

if __name__ == "__main__":
    main("eval")
