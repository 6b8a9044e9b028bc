"""Shorthands on the command line, and the errors of keys that Hydra refuses; fast to import."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bcd.errors import ConfigError
from bcd.storage import typed_path

_RESUME, _RUN_DIR = "resume=", "hydra.run.dir="
_SITE_KEY = {
    "eval": re.compile(r"sites\.[^.]+\.\w+"),
    "serve": re.compile(r"sites(\.[^.]+(\.\w+)?)?"),
}
LAST = Path("checkpoints") / "last.ckpt"


def checkpoint_to_resume(resume: str) -> Path | None:
    """The checkpoint that `resume=` names: a file, or the last checkpoint of a run folder.

    Returns:
        None if there is none, or the file is not in the folder `checkpoints` of a run.
    """
    path = typed_path(resume).absolute()
    if path.is_dir():
        path = path / LAST
    return path if path.is_file() and path.parent.name == LAST.parent.name else None


def go_on_in_place(arguments: Sequence[str]) -> list[str]:
    """Sets the run folder of a resumed run, because Hydra would make a new one.

    Args:
        arguments: The command line.

    Raises:
        ConfigError: Another run folder is given.
    """
    given = list(arguments)
    resume = _value_of(_RESUME, given)
    file = checkpoint_to_resume(resume) if resume and resume != "null" else None
    if file is None or not {"-m", "--multirun"}.isdisjoint(given):
        return given  # errors are reported later
    own, named = file.parent.parent, _value_of(_RUN_DIR, given)
    if named is None:
        return [*given, f"{_RUN_DIR}{own}"]
    if typed_path(named).absolute() != own:
        raise ConfigError(
            f"{_RUN_DIR}{named}: a resumed run continues in its own folder, {own}; leave it out"
        )
    return given


def _value_of(start: str, arguments: Sequence[str]) -> str | None:
    found = [a.removeprefix(start) for a in arguments if a.startswith(start)]
    if not found or os.path.lexists(typed_path(found[-1])):
        return found[-1] if found else None
    return found[-1].strip("'\"")


def refused_key(message: str) -> str | None:
    """The key that Hydra refuses in an error message; None for other messages."""
    match = re.search(r"Could not (?:override|append to config|delete).*?'([^']+)'", message)
    return match.group(1) if match else None


def with_plus(
    arguments: Sequence[str], message: str, config_name: str, conf: Path
) -> list[str] | None:
    """Adds a `+` before an argument that the files do not list but something takes.

    That is a `_target_` class, or a site of `bcd eval` or `bcd serve`, whose names are the user's.

    Args:
        arguments: The command line.
        message: Hydra's error.
        config_name: Name of the primary YAML file in `conf`.
        conf: Folder of the configuration.

    Returns:
        The new command line; None if the key is not such an argument.
    """
    from omegaconf import OmegaConf

    key = refused_key(message)
    spots = [i for i, text in enumerate(arguments) if text.partition("=")[0] == key]
    if key is None or not spots:
        return None
    site = _SITE_KEY.get(config_name)
    mark = "++" if key == "sites" else "+"  # which is there already, without sites
    plus = [f"{mark}{text}" if i in spots else text for i, text in enumerate(arguments)]
    if site is not None and site.fullmatch(key):
        return plus
    cfg, parent = _composed(arguments, config_name, conf), key.rpartition(".")[0]
    if not parent or key not in _signature_keys(OmegaConf.select(cfg, parent), parent):
        return None
    return plus


def unknown_key(key: str, arguments: Sequence[str], config_name: str, conf: Path) -> str:
    """Describes an unknown key: the override that has it, and the nearest valid key."""
    from omegaconf import OmegaConf

    from bcd.config.check import nearest

    override = next((a for a in arguments if a.lstrip("+~").startswith(key)), key)
    cfg, parent = _composed(arguments, config_name, conf), key.rpartition(".")[0]
    holder: Any = OmegaConf.select(cfg, parent) if parent else cfg
    if key.rpartition(".")[2] in (holder or {}):
        return f"{override}: '{key}' exists already: leave out the +"
    siblings = [f"{parent}.{name}" if parent else str(name) for name in (holder or {})]
    everywhere = [*siblings, *_signature_keys(holder, parent), *(str(k) for k in cfg)]
    plain: Any = OmegaConf.to_container(cfg, resolve=False)
    everywhere += [
        f"{k}.{key}" for k, node in plain.items() if isinstance(node, dict) and key in node
    ]
    return f"{override} (command line): unknown key '{key}'{nearest(key, everywhere)}"


def _composed(arguments: Sequence[str], config_name: str, conf: Path) -> Any:
    """The configuration with the chosen groups and otherwise default values."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    chosen = [choice for a in arguments if (choice := _first_choice(a, conf)) is not None]
    with initialize_config_dir(str(conf), version_base="1.3"):
        return compose(config_name, overrides=chosen)


def _first_choice(argument: str, conf: Path) -> str | None:
    """An override that chooses files of a group, the first of a sweep's values; else None."""
    key, _, value = argument.partition("=")
    several = value.startswith("[")
    names = value.strip("[]").split(",") if several else value.split(",")[:1]
    there = all((conf / key.lstrip("+") / f"{name.strip()}.yaml").is_file() for name in names)
    if not there:
        return None
    return argument if several else f"{key}={names[0]}"


def _signature_keys(holder: object, parent: str) -> list[str]:
    """The arguments of the class that a `_target_` mapping names, as keys."""
    from hydra.utils import get_object
    from omegaconf import DictConfig

    if not isinstance(holder, DictConfig) or "_target_" not in holder:
        return []
    parameters = inspect.signature(get_object(holder["_target_"])).parameters.values()
    named = [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
    return [f"{parent}.{name}" for name in named]
