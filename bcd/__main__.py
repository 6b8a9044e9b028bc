"""The `bcd` command: `bcd <verb> …`, the same as `python -m bcd <verb> …`.

Each verb is a module in `bcd/commands/`. Only the module of the given verb is imported, so that
help and errors on the command line are printed at once.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import NamedTuple, NoReturn

from bcd.cli.app import run, run_plain
from bcd.config.compose import CONF
from bcd.errors import foreseen


class Verb(NamedTuple):
    """A verb: what it does, its module in `bcd.commands`, and its file in `conf/` if it has one."""

    about: str
    module: str
    config: str = ""


VERBS = {
    "train": Verb("train and test a classifier, or run a sweep (-m)", "train", "train"),
    "eval": Verb("evaluate a checkpoint", "evaluate", "eval"),
    "predict": Verb("predict the class of images", "predict", "predict"),
    "export": Verb("write a checkpoint as one file that needs no torch", "export", "export"),
    "serve": Verb("answer over HTTP, with pages for staff", "serve", "serve"),
    "slide": Verb("predict the tiles of a whole-slide file", "slide", "slide"),
    "audit": Verb("check the quality of images and of their split", "audit", "audit"),
    "site": Verb("measure what images of a site look like", "site", "site"),
    "cells": Verb("find and measure the white cells of images", "cells", "cells"),
    "compare": Verb("compare two checkpoints on the same images", "compare", "compare"),
    "reference": Verb("what a new model version changes on a frozen set", "reference", "reference"),
    "sweep": Verb("rank the finished trials of a sweep", "sweep"),
    "models": Verb("list the networks", "models"),
    "cache": Verb("list, verify and remove cached results", "cache"),
}

# The first word after `serve` may name a command of its own, with its module in `bcd.commands`.
SERVE_COMMANDS = {
    **dict.fromkeys(
        ("verify", "backup", "restore", "erase", "expire", "models", "key"), "serve_records"
    ),
    **dict.fromkeys(("user", "token"), "serve_accounts"),
    "outbox": "serve_outbox",
}

_COMPLETION = ("-sc", "--shell-completion")  # Hydra's option


def main(name: str | None = None) -> NoReturn:
    """Runs a verb and exits with its status.

    Args:
        name: The verb; None if it is the first argument.
    """
    typed = name is None
    if name is None:
        name = _take_verb()
    verb = VERBS[name]
    if name == "serve" and len(sys.argv) > 1 and sys.argv[1] in SERVE_COMMANDS:
        verb = Verb(verb.about, SERVE_COMMANDS[sys.argv[1]])
    try:
        module = import_module(f"bcd.commands.{verb.module}")
    except ModuleNotFoundError as error:
        known = foreseen(error)
        if known is None:
            raise
        print(f"error: {known}", file=sys.stderr)  # noqa: T201
        sys.exit(known.status)
    if {"--help", "-h"}.isdisjoint(sys.argv):
        getattr(module, "prepare", lambda: None)()
    if not verb.config:
        run_plain(module.main)
    trial = getattr(module, "trial", None)
    run(module.main, verb.config, CONF, trial, verb=name if typed else "")


def _take_verb() -> str:
    """Removes the verb from the command line and returns it, or exits if there is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h"):
        print(_help())  # noqa: T201
        sys.exit(0)
    if name == "--version":
        from bcd import __version__

        print(__version__)  # noqa: T201
        sys.exit(0)
    if name in _COMPLETION:
        return _verb_to_complete()
    if name not in VERBS:
        from bcd.config.check import nearest

        line = f"error: {name}: unknown command{nearest(name, VERBS)}; see bcd --help"
        print(line, file=sys.stderr)  # noqa: T201
        sys.exit(2)
    del sys.argv[1]
    return name


def _verb_to_complete() -> str:
    """Returns the verb on the line that the shell completes, or prints the verbs and exits.

    Hydra completes the rest of the line; it does not know the verb, so this removes it.
    """
    if not sys.argv[-1].startswith("query="):
        return "train"  # installs or removes the completion of every verb
    program, *words = os.environ.get("COMP_LINE", "").split(" ")
    if len(words) < 2:
        print(" ".join(VERBS))  # noqa: T201
        sys.exit(0)
    name, *rest = words
    if name not in VERBS or not VERBS[name].config:
        sys.exit(0)
    os.environ["COMP_LINE"] = " ".join([program, *rest])
    return name


def _help() -> str:
    verbs = "\n".join(f"  {name:<10}{verb.about}" for name, verb in VERBS.items())
    return (
        f"usage: bcd <verb> …\n\n{verbs}\n\n"
        "bcd <verb> --help describes a verb and its configuration.\n"
        'Tab completion in bash: eval "$(bcd -sc install=bash)"'
    )


if __name__ == "__main__":
    main()
