"""Checks a composed configuration, and instantiates the objects that it names."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, Union

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bcd.errors import ConfigError

Schema = TypeVar("Schema")

# Scheduler arguments that are set to the run's number of steps if the configuration has null.
FILLED_IN = ("total_steps", "T_max")


def nearest(word: str, choices: Iterable[str]) -> str:
    """Returns `; did you mean 'x'?` for the choice nearest to a word, or an empty string."""
    close = difflib.get_close_matches(word, [str(c) for c in choices], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def check_config(cfg: DictConfig, schema: type[Schema]) -> Schema:
    """Checks a composed configuration against its schema and the classes that it names.

    Args:
        cfg: As composed by Hydra.
        schema: The dataclass of the command's configuration.

    Returns:
        The configuration as an instance of `schema`, interpolations resolved.

    Raises:
        ConfigError: An unknown key, a wrong type or a value out of range; one line that names the
            key, where it came from and the nearest valid key.
    """
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "?"
        raise ConfigError(f"{key} {source_of(key)}: {first_line(error)}") from error
    assert isinstance(plain, dict)
    made = _to_schema({str(k): v for k, v in plain.items()}, schema, "")
    return typing.cast(Schema, made)


def instantiate(node: Mapping[str, Any], **kwargs: Any) -> Any:
    """Makes the object that a `_target_` dict describes, with `kwargs` as further arguments."""
    from hydra.utils import instantiate as hydra_instantiate

    # Through a partial, because Hydra copies objects that are passed to it as arguments.
    make = hydra_instantiate(dict(node), _convert_="all", _partial_=True)
    return make(**kwargs)


def first_line(error: BaseException) -> str:
    """The first line of an exception's message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def source_of(key: str) -> str:
    """Returns where a key's value was set, as `(command line: …)` or `(conf/model/x.yaml)`."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return "(configuration)"
    hydra = HydraConfig.get()
    choices = dict(hydra.runtime.choices)
    folders = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    for text in hydra.overrides.task:
        name, _, value = text.lstrip("+~").partition("=")
        several = value.startswith("[") and any((folder / name).is_dir() for folder in folders)
        if several or choices.get(name) == value:
            continue  # it chooses a file, which sets the key
        if key == name or key.startswith(f"{name}.") or name.startswith(f"{key}."):
            return f"(command line: {text})"
    group, _, rest = key.partition(".")
    for folder in folders:
        # For a group that takes several files, Hydra does not record which were chosen.
        of_group = [choices[group]] if group in choices else _stems(folder / group)
        places = [(f"experiment/{choices.get('experiment')}", key)]
        # Some files set keys of several groups, by their full names.
        places += [(f"{group}/{choice}", inner) for choice in of_group for inner in (rest, key)]
        for place, inner in [*places, (str(hydra.job.config_name), key)]:
            file = folder / f"{place}.yaml"
            if file.is_file() and _holds(file, inner):
                return f"({folder.name}/{place}.yaml)"
    return "(configuration)"


def command_line() -> dict[str, str]:
    """The overrides on the command line, as typed, by key or group; empty outside of Hydra."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return {}
    texts = HydraConfig.get().overrides.task
    return {text.lstrip("+~").partition("=")[0]: text for text in texts}


def _stems(folder: Path) -> list[str]:
    return sorted(file.stem for file in folder.glob("*.yaml"))


def _holds(file: Path, key: str) -> bool:
    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    for part in key.split("."):
        if isinstance(content, list) and part.isdigit() and int(part) < len(content):
            content = content[int(part)]
        elif isinstance(content, dict) and part in content:
            content = content[part]
        else:
            return False
    return True


def _to_schema(values: dict[str, Any], schema: type, prefix: str) -> object:
    """Makes an instance of a schema, checking each key and nested schemas."""
    hints = typing.get_type_hints(schema)
    late = {f.name for f in dataclasses.fields(schema) if f.metadata.get("check") == "late"}
    needs = {
        f.name: f.metadata["needs"] for f in dataclasses.fields(schema) if "needs" in f.metadata
    }
    made = {}
    for name in sorted(values, key=lambda name: list(hints).index(name) if name in hints else -1):
        key, value = f"{prefix}{name}", values[name]
        if name not in hints:
            raise ConfigError(f"{key} {source_of(key)}: unknown key{nearest(name, hints)}")
        inner = _inner_schema(hints[name])
        if inner is not None and isinstance(value, dict):
            made[name] = _to_schema(value, inner, f"{key}.")
        elif inner is not None and fits(None, hints[name]) and value is None:
            made[name] = None
        else:
            made[name] = _typed(value, hints[name], key, needs.get(name, ""))
            if name not in late:
                check_targets(value, key)
    for name in hints:
        if name not in made:
            raise ConfigError(f"{prefix}{name} is missing: give {prefix}{name}=…")
    return schema(**made)


def _inner_schema(hint: Any) -> type | None:
    for option in (hint, *typing.get_args(hint)):
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            return option
    return None


def _typed(value: Any, hint: Any, key: str, needs: str) -> Any:
    if value == "???":
        raise ConfigError(f"{key} is missing: give {key}=…")
    if not fits(value, hint):
        needs = needs or f"needs {describe(hint)}"
        raise ConfigError(f"{key}={value} {source_of(key)}: {needs}")
    return float(value) if hint is float else value


def check_targets(value: Any, key: str) -> None:
    """Checks every `_target_` dict inside a value against its class's signature."""
    if isinstance(value, dict):
        if "_target_" in value:
            _check_target(value, key)
        for name, inner in value.items():
            check_targets(inner, f"{key}.{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            check_targets(inner, f"{key}.{number}")


def _check_target(node: dict[str, Any], key: str) -> None:
    from hydra.errors import InstantiationException
    from hydra.utils import get_object

    try:
        target = get_object(str(node["_target_"]))
    except (InstantiationException, ImportError, ValueError) as error:
        raise ConfigError(
            f"{key}._target_ {source_of(f'{key}._target_')}: no such class: {node['_target_']}"
        ) from error
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    hints = _hints(target)
    for name, value in node.items():
        if name.startswith("_"):
            continue
        full = f"{key}.{name}"
        if name not in parameters and not takes_any:
            raise ConfigError(f"{full} {source_of(full)}: unknown key{nearest(name, parameters)}")
        if name in FILLED_IN and value is None:
            continue
        if name in hints and not fits(value, hints[name]):
            raise ConfigError(f"{full}={value} {source_of(full)}: needs {describe(hints[name])}")


def _hints(target: Any) -> dict[str, Any]:
    function = vars(target).get("__init__", target) if isinstance(target, type) else target
    try:
        return typing.get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):
        return {}


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a value from YAML matches a type annotation."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, TypeVar):
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, option) for option in args)
    if origin is typing.Literal:
        return value in args
    if origin is typing.Annotated:
        return fits(value, args[0])
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, bool):
        return hint is bool
    kind = origin or hint
    if isinstance(value, dict) and "_target_" in value:
        return True
    if isinstance(value, list) and kind in (list, tuple, Sequence, Iterable):
        return all(fits(v, args[0]) for v in value) if kind is list and args else True
    allowed: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,), str: (str,)}
    if kind in allowed:
        return isinstance(value, allowed[kind])
    return kind in (dict, Mapping) and isinstance(value, dict)


def describe(hint: Any) -> str:
    """Describes the values that an annotation allows."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(describe(option) for option in args))
    if origin is typing.Literal:
        return " or ".join(repr(a) for a in args)
    words = {float: "a number", int: "a whole number", str: "text", bool: "true or false"}
    words |= {list: "a list", tuple: "a list", dict: "a mapping", type(None): "null"}
    return words.get(origin or hint, getattr(hint, "__name__", str(hint)))
