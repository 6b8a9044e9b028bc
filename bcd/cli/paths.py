"""Quotes paths on the command line, which may hold characters with a meaning in Hydra."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from bcd.storage import typed_path

# Keys whose values are paths.
_PATHS = frozenset(
    {"data.root", "root", "input", "ckpt", "ckpts", "resume", "output", "split.file",
     "model.weights", "recalibrate", "site.profile", "verify", "folder", "tls.certificate",
     "tls.key", "images.key_file", "set", "watch", "fhir.token_file", "dicom.output",
     "dicom.tls_cert", "dicom.tls_key", "dicom.tls_ca", "fhir.ca", "fhir.cert", "fhir.key",
     "sha256"}  # no path, but hexadecimal digits can read as a number
)  # fmt: skip
_SITE_PATH = re.compile(r"sites\.[^.]+\.(?:root|profile|watch)")
# The same, of one command. Hydra looks for a file of the group `model`, unless it gets a mapping.
_MAPPED = {name: frozenset({"model"}) for name in ("predict", "reference", "serve", "slide")}
# Keys whose values may hold `${now:…}` and other interpolations.
_FOLDERS = frozenset({"run_dir", "hydra.run.dir", "hydra.sweep.dir"})

_FUNCTION = re.compile(r"(?:choice|glob|range|interval|shuffle|sort|tag|extend_list)\(.*\)", re.S)


def quote_paths(arguments: Sequence[str], config_name: str = "") -> list[str]:
    """Quotes the values of keys that are paths, so that Hydra reads them as text.

    A value that exists as a file or folder is always quoted. Otherwise these keep their meaning:
    null, quoted values, interpolations, sweep functions, lists in brackets and, in a multirun,
    comma-separated values. The elements of the last two are quoted.

    Args:
        arguments: The command line.
        config_name: Name of the primary YAML file, as commands have keys of their own.
    """
    several = not {"-m", "--multirun"}.isdisjoint(arguments)
    mapped = _MAPPED.get(config_name, frozenset())
    return [_quoted_argument(argument, several, mapped) for argument in arguments]


def mapped_path(value: Any) -> Any:
    """The path in a mapping that `quote_paths` made, for a configuration; else the value."""
    found = value.get("file") if isinstance(value, Mapping) else value
    return _without_interpolation(found) if isinstance(found, str) else found


def _without_interpolation(text: str) -> str:
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _quoted_argument(argument: str, several: bool, mapped: frozenset[str]) -> str:
    key, equals, value = argument.partition("=")
    plain = key.lstrip("+")
    is_path = plain in _PATHS | _FOLDERS | mapped or _SITE_PATH.fullmatch(plain)
    if not equals or not value or not is_path:
        return argument
    form = "{{file:{}}}" if plain in mapped else "{}"
    if not _is_there(value):
        if plain in _FOLDERS and "${" in value:
            return argument
        if value.startswith("[") and value.endswith("]") and plain not in mapped:
            return f"{key}=[{','.join(_elements(value[1:-1]))}]"
        if several and "," in value and not _FUNCTION.fullmatch(value):
            return f"{key}={','.join(map(form.format, _elements(value)))}"
    return f"{key}={form.format(_quoted(value))}"


def _elements(text: str) -> list[str]:
    """Splits a list at its commas, except those in existing paths, and quotes each element."""
    parts = text.split(",") if text.strip() else []
    elements = []
    while parts:
        whole = [n for n in range(len(parts), 1, -1) if _is_one(",".join(parts[:n]))]
        count = whole[0] if whole else 1
        element = ",".join(parts[:count])
        elements.append(_quoted(element if _is_there(element) else element.strip()))
        parts = parts[count:]
    return elements


def _is_one(text: str) -> bool:
    return _is_there(text) or _is_there(text.strip()) or _is_quoted(text.strip())


def _is_there(text: str) -> bool:
    try:
        return os.path.lexists(typed_path(text))
    except ValueError:  # a zero byte
        return False


def _is_quoted(text: str) -> bool:
    return re.fullmatch(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", text, re.S) is not None


def _quoted(value: str) -> str:
    if value in ("", "null") or (_is_quoted(value) and not _is_there(value)):
        return value
    if not _is_there(value) and (_FUNCTION.fullmatch(value) or re.fullmatch(r"\$\{.*\}", value)):
        return value
    if value == "???":  # Hydra's mark of a missing value
        value = f".{os.sep}{value}"
    # Backslashes are escaped only before characters whose meaning they would change.
    text = _without_interpolation(value)
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    text = re.sub(r"(\\+)\Z", r"\1\1", text)
    return f'"{text}"'
