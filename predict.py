"""Predicts the class of images: the same as `bcd predict`."""

from bcd.__main__ import main

if __name__ == "__main__":
    main("predict")
