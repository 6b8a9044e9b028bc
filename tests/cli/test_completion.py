"""Tab completion in bash, as Hydra provides it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.harness import ROOT

# Completes a line as bash does on <tab>, and prints the choices.
_COMPLETE = r"""
eval "$({install})"
COMP_LINE="$1"; COMP_POINT=${#COMP_LINE}
COMP_WORDS=($COMP_LINE); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
[[ "$COMP_LINE" == *" " ]] && COMP_CWORD=$((COMP_CWORD + 1))
hydra_bash_completion
printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `bcd` and `python`, as in an activated environment."""
    folder = tmp_path_factory.mktemp("bin")
    code = f'import sys; sys.path.insert(0, "{ROOT}"); from bcd.__main__ import main; main()'
    for name, body in {"bcd": code, "python": ""}.items():
        file = folder / name
        if body:
            file.write_text(f"#!{sys.executable}\n{body}\n")
        else:
            file.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        file.chmod(0o755)
    return folder


def completed(programs: Path, install: str, line: str) -> set[str]:
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", _COMPLETE.replace("{install}", install), "bash", line],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.skipif(
    shutil.which("bash") is None or sys.platform == "win32", reason="bash is not available"
)
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("bcd au", {"audit"}),
        (
            "bcd train model=mobilenetv",
            {"model=mobilenetv1", "model=mobilenetv2", "model=mobilenetv3_large"},
        ),
        ("bcd train model=cnn split.emb", {"split.embargo="}),
        ("bcd predict unc", {"uncalibrated="}),
        ("bcd cells ma", {"masks="}),
        ("bcd models mob", set()),
        ("python train.py optimizer=ad", {"optimizer=adam", "optimizer=adamw"}),
        ("python eval.py corr", {"corruptions="}),
    ],
)  # fmt: skip
def test_tab_completes_verbs_groups_and_keys(line: str, expected: set[str], programs: Path) -> None:
    script = line.startswith("python")
    install = "python train.py -sc install=bash" if script else "bcd -sc install=bash"
    assert completed(programs, install, line) == expected
