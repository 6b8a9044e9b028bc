"""Trains a classifier: the same as `bcd train`."""

from bcd.__main__ import main

if __name__ == "__main__":
    main("train")
