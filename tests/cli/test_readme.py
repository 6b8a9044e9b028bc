"""The commands in the README and the docs are valid."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from bcd.__main__ import SERVE_COMMANDS, VERBS
from bcd.cli.paths import mapped_path, quote_paths
from bcd.config.check import check_config
from bcd.config.programs import (
    AuditConfig,
    CellsConfig,
    CompareConfig,
    EvalConfig,
    PredictConfig,
    SiteProfileConfig,
)
from bcd.config.reference import ReferenceConfig
from bcd.config.serve import ServeConfig
from bcd.config.slide import SlideConfig
from bcd.config.training import TrainConfig
from bcd.release.members import member_config, member_words, read_release
from tests.helpers.harness import CONF, ROOT

SCHEMAS: dict[str, type] = {
    "train": TrainConfig,
    "eval": EvalConfig,
    "predict": PredictConfig,
    "audit": AuditConfig,
    "compare": CompareConfig,
    "reference": ReferenceConfig,
    "site": SiteProfileConfig,
    "cells": CellsConfig,
    "serve": ServeConfig,
    "slide": SlideConfig,
}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> Iterator[str]:
    for page in PAGES:
        inside = False
        for line in page.read_text(encoding="utf-8").splitlines():
            inside ^= line.startswith("```")
            if inside and re.match(r"python (train|eval|predict)\.py|bcd (\w+)", line):
                yield line


@pytest.mark.parametrize("line", sorted(set(commands())))
def test_a_command_composes_and_passes_the_checks(line: str) -> None:
    words = shlex.split(re.sub(r"<[^>]*>", "x", line), comments=True)
    name = words[1].removesuffix(".py")
    if name not in SCHEMAS or (name == "serve" and words[2:3] and words[2] in SERVE_COMMANDS):
        assert name in VERBS
        return
    overrides = [word for word in words[2:] if not word.startswith("-")]
    single = []
    for override in OverridesParser.create().parse_overrides(quote_paths(overrides, name)):
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        text = f"{override.key_or_group}={next(iter(values))}" if values else override.input_line
        assert text is not None
        # Names of sites are the user's, so the program adds the +.
        single.append(f"+{text}" if name == "serve" and text.startswith("sites") else text)
    released = "experiment=release" in words  # its jobs are the folds
    if "-m" in words and not released and not any(word.startswith("sweep=") for word in words):
        assert single != overrides
    with initialize_config_dir(str(CONF), version_base="1.3"):
        common = [] if name == "serve" else ["run_dir=x"]
        cfg = compose(name, overrides=[*common, *single])
        if released:
            members = member_words(single, read_release(cfg), None)
            assert member_config(members, 0, Path("x")).split.folds == cfg.split.folds
            return
    if "--help" not in words:
        if name not in ("train", "audit", "site", "cells", "serve") and "ckpt=x" not in single:
            assert any(word.startswith(("ckpt=", "ckpts=", "model=")) for word in words)
        if name in ("predict", "reference", "serve", "slide"):
            cfg.model = mapped_path(cfg.model)
        check_config(cfg, SCHEMAS[name])


def test_tests_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(r"`(tests/[\w/.]+)`", page.read_text("utf-8")):
            assert (ROOT / name).exists(), (page.name, name)


def test_make_knows_every_target_of_the_pages() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        t for p in PAGES for t in re.findall(r"(?:^|`)make ([a-z-]+)", p.read_text("utf-8"), re.M)
    }
    assert {"demo", "test", "help"} <= named <= targets


def test_modules_that_are_named_have_the_options_that_are_named() -> None:
    lines = [line for p in PAGES for line in re.findall(r"python -m [^`\n]+", p.read_text("utf-8"))]
    seen = set()
    for line in lines:
        name, *words = shlex.split(line.partition("  ")[0], comments=True)[2:]
        spec = importlib.util.find_spec(name)
        assert spec is not None, line
        if name == "pynetdicom":  # its programs are modules of their own
            spec = importlib.util.find_spec(f"pynetdicom.apps.{words[0]}.{words[0]}")
        elif spec.submodule_search_locations:
            spec = importlib.util.find_spec(f"{name}.__main__")
        assert spec is not None and spec.origin is not None, line
        source = Path(spec.origin).read_text(encoding="utf-8")
        for option in (word for word in words if word.startswith("--")):
            assert f'"{option}"' in source, line
        seen.add(name)
    assert {"bench.seeds", "bench.overlaps", "tests.promises"} <= seen


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.strip().lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_and_image_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target
    if page.name == "README.md":
        assert len(page.read_text(encoding="utf-8").splitlines()) < 200
