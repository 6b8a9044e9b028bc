"""docs/serving.md: its examples work, its commands have their options, and what it names exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from bcd.__main__ import SERVE_COMMANDS
from tests.helpers.harness import ROOT
from tests.serving.making import smear
from tests.serving.running import Running

PAGE = ROOT / "docs" / "serving.md"
PAGES = sorted((ROOT / "docs").glob("*.md"))


def lines(start: str | tuple[str, ...], page: Path = PAGE) -> list[str]:
    """Lines of a page's code blocks that begin with a word, or one of several."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if line.startswith(start)]


def example(line: str) -> tuple[str, str, list[str | int]]:
    """The variable that a line of the API's examples sets, its command, and what `jq -r` takes."""
    found = re.fullmatch(r"(\w+)=\$\((curl .*) \| jq -r '?([^\s']+)'?\)", line)
    if found is None:
        return "", line, []
    steps = re.findall(r"\.(\w+)|\[(\d+)\]", found[3])
    assert "".join(f".{name}" if name else f"[{place}]" for name, place in steps) == found[3]
    return found[1], found[2], [name or int(place) for name, place in steps]


def curl(client: TestClient, folder: Path, line: str, known: dict[str, str]) -> Any:
    """Does what curl would do, in this process."""
    filled = re.sub(r"\$(\w+)", lambda name: known[name[1]], line)
    words = iter(shlex.split(filled)[1:])
    headers, files, data, target, url = {}, [], None, None, ""
    for word in words:
        if word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        elif word == "-F":
            name, _, file = next(words).partition("=@")
            files.append((name, (file, (folder / file).read_bytes(), "image/png")))
        elif word == "-d":
            data = next(words)
        elif word == "-o":
            target = next(words)
        elif word == "-s":  # no progress
            continue
        else:
            assert not word.startswith("-"), f"{line}: unknown option {word}"
            url = word
    method = "POST" if files or data is not None else "GET"
    answer = client.request(method, url, headers=headers, files=files or None, content=data)
    assert answer.is_success, (line, answer.status_code, answer.text)
    if target is not None:
        (folder / target).write_bytes(answer.content)
    return answer


def test_the_examples_of_the_api_work_in_their_order(served: Running, tmp_path: Path) -> None:
    (tmp_path / "smear.png").write_bytes(smear(3))
    text = PAGE.read_text("utf-8")
    roles = re.search(r"examples here need one with the roles ([^,]+, [^,]+), of a user", text)
    assert roles is not None
    named = re.findall(r"`(\w+)`", roles[1])
    accounts = served.services.accounts
    accounts.users.add("", "program", "a drawn smear is no patient", named)
    token = accounts.tokens.add("", "program", named, 1)
    known = {"HOST": "http://127.0.0.1", "TOKEN": token}
    asked = []
    for name, line, steps in map(
        example, lines(("curl ", "CASE=", "IMAGE=", "VERSION=", "LATER=", "UPLOAD="))
    ):
        asked.append(line)
        answer = curl(served.client, tmp_path, line, known)
        if name:
            value = answer.json()
            for step in steps:
                value = value[step]
            known[name] = str(value)
        elif answer.url.path == "/v1/predict":
            found = answer.json()["images"]
            assert len(found) == line.count("-F ")
            members = text.partition("An answer of `/v1/predict` has")[2]
            members = members.partition("and for the model")[0]
            assert set(re.findall(r"`(\w+)`", members)) == set(found[0])
    assert served.all.get(f"/v1/cases/{known['CASE']}").json()["status"] == "signed"
    assert (tmp_path / "case.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "evidence.png").read_bytes().startswith(b"\x89PNG")
    routes = {path for path in served.app.openapi()["paths"] if path.startswith("/v1")}
    shown = {re.sub(r"\$HOST|\?.*|\"", "", shlex.split(line)[-1]) for line in asked}
    templates = {re.sub(r"\{\w+\}", "*", route) for route in routes}
    assert {re.sub(r"\$[A-Z]+", "*", path) for path in shown} <= templates


def test_commands_have_the_options_that_are_named() -> None:
    seen = set()
    for line in (line for page in PAGES for line in lines("bcd serve ", page)):
        name, *words = shlex.split(line, comments=True)[2:] or [""]
        if name not in SERVE_COMMANDS:
            assert not name or "=" in name, line
            continue
        seen.add(name)
        source = (ROOT / "bcd" / "commands" / f"{SERVE_COMMANDS[name]}.py").read_text("utf-8")
        source += (ROOT / "bcd" / "commands" / "serve_place.py").read_text("utf-8")
        for word in words:
            assert not word.startswith("--") or f'"{word}"' in source, line
        if name in ("user", "token"):
            assert f'add("{words[0]}"' in source or f'"{words[0]}", _' in source, line
    assert seen == set(SERVE_COMMANDS)


def test_files_that_are_named_exist() -> None:
    for name in re.findall(r"deploy/[\w.-]+\w", PAGE.read_text("utf-8")):
        written = name in ("deploy/secrets", "deploy/.env")
        assert written or (ROOT / name).exists(), name


def test_every_role_is_explained() -> None:
    from bcd.serving.accounts.user import ROLES

    rows = re.findall(r"^\| `(\w+)` \| ", PAGE.read_text("utf-8").partition("## Users")[2], re.M)
    assert rows[: len(ROLES)] == list(ROLES)
