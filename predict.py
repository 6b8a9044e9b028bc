"""Predicts the class of images: the same as `bcd predict`.

Tab completion (@hydra.main): see train.py.
"""

from bcd.__main__ import main

if __name__ == "__main__":
    main("predict")
