"""One simulation for each statistical promise of README, docs and docstrings.

`python -m tests.promises` prints the table of docs/promises.md.
"""
