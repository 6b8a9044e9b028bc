"""The `bcd` command: `bcd <verb> …`, the same as `python -m bcd <verb> …`.

What a verb does stands in `bcd/commands/`. Only the module of the verb that was asked for is
imported, so that help and mistakes on the command line come at once.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from bcd.cli.app import CONF, run, run_plain


class Verb(NamedTuple):
    """A verb: what it is for, its module in `bcd.commands`, and its file in `conf/` if any."""

    about: str
    module: str
    config: str = ""


VERBS = {
    "train": Verb("train and test a classifier, or a sweep of them (-m)", "train", "train"),
    "eval": Verb("evaluate a checkpoint", "evaluate", "eval"),
    "predict": Verb("predict the class of images", "predict", "predict"),
    "audit": Verb("check whether images and a split can be trusted", "audit", "audit"),
    "compare": Verb("compare two checkpoints on the same images", "compare", "compare"),
    "sweep": Verb("rank the trials of a sweep so far", "sweep"),
    "models": Verb("list the networks", "models"),
    "cache": Verb("list, verify and remove cached results", "cache"),
}


def main(name: str | None = None) -> NoReturn:
    """Runs a verb and exits with its status.

    Args:
        name: The verb; None where it is the first argument.
    """
    if name is None:
        name = sys.argv[1] if len(sys.argv) > 1 else "--help"
        if name in ("--help", "-h"):
            print(_help())  # noqa: T201
            sys.exit(0)
        if name == "--version":
            from bcd import __version__

            print(__version__)  # noqa: T201
            sys.exit(0)
        if name not in VERBS:
            from bcd.config.check import nearest

            line = f"error: {name}: no such command{nearest(name, VERBS)}; see bcd --help"
            print(line, file=sys.stderr)  # noqa: T201
            sys.exit(2)
        del sys.argv[1]
    verb = VERBS[name]
    module = import_module(f"bcd.commands.{verb.module}")
    if not verb.config:
        run_plain(module.main)
    run(module.main, verb.config, CONF, getattr(module, "trial", None))


def _help() -> str:
    verbs = "\n".join(f"  {name:<10}{verb.about}" for name, verb in VERBS.items())
    return f"usage: bcd <verb> …\n\n{verbs}\n\nbcd <verb> --help says more."


if __name__ == "__main__":
    main()
