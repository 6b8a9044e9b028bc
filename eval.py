"""Evaluates a checkpoint: the same as `bcd eval`. Tab completion (@hydra.main): see train.py."""

from bcd.__main__ import main

if __name__ == "__main__":
    main("eval")
