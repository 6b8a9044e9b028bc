"""Trains a classifier: the same as `bcd train`.

Hydra completes the arguments of scripts in which it finds the text @hydra.main:
eval "$(python train.py -sc install=bash)"
"""

from bcd.__main__ import main

if __name__ == "__main__":
    main("train")
