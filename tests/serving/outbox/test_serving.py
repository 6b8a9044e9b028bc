"""The outbox in a running server: its task, figures, page, commands and configuration."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from bcd.commands.serve_outbox import main
from bcd.errors import BcdError, ConfigError
from bcd.serving.outbox.sender import check_outbox
from bcd.serving.records.tables import OUTBOX
from tests.serving.making import IDENTITY, serve_config, smear
from tests.serving.outbox.fhir_server import FhirServer, fhir_server
from tests.serving.outbox.making import BASE
from tests.serving.running import Running, running

NOTHING = {"waiting": 0, "failed": 0, "not_erased": 0}


@pytest.fixture(scope="module")
def fhir() -> Iterator[FhirServer]:
    """A FHIR server."""
    with fhir_server() as server:
        yield server


@pytest.fixture(scope="module")
def served(fhir: FhirServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that posts to it at once."""
    folder = tmp_path_factory.mktemp("served")
    given = (f"url={BASE}", f"fhir.url={fhir.url}", "fhir.delay_seconds=0")
    with running(folder, *given) as app:
        yield app


def until(found: object) -> None:
    """Waits until a call returns something that is true."""
    assert callable(found)
    ends = time.monotonic() + 60
    while not found():
        assert time.monotonic() < ends
        time.sleep(0.05)


def figures(served: Running) -> dict[str, float]:
    """What `/metrics` says of the outbox."""
    lines = served.client.get("/metrics").text.splitlines()
    rows = [line.split() for line in lines if line.startswith("bcd_outbox_")]
    return {name.removeprefix("bcd_outbox_"): float(value) for name, value in rows}


def test_a_server_posts_cases_and_shows_those_that_failed(
    served: Running, fhir: FhirServer, capsys: pytest.CaptureFixture[str]
) -> None:
    made = served.all.post("/v1/cases", json={"label": "a label"}).json()
    files = {"images": ("a.png", smear(), "image/png")}
    added = served.all.post(f"/v1/cases/{made['id']}/images", files=files)
    assert added.is_success, added.text
    until(lambda: any(each["status"] == "preliminary" for each in fhir.now("DiagnosticReport")))
    until(lambda: figures(served) == NOTHING)
    assert "Everything is delivered" in served.all.get("/dashboard").text
    fhir.fault = lambda kind: "422" if kind == "transaction" else ""
    served.all.post(f"/v1/cases/{made['id']}/images", files={"images": ("b.png", smear(1))})
    until(lambda: figures(served) == {**NOTHING, "failed": 1})
    assert "Not delivered:" in served.all.get("/dashboard").text
    place = ["--folder", str(served.folder)]
    capsys.readouterr()  # the log of the server in this process
    assert main(["outbox", "list", *place]) == 0
    [listed] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert listed["case"] == made["id"] and "422" in listed["last_error"]
    fhir.fault = lambda _: ""
    assert main(["outbox", "retry", *place]) == 0
    until(lambda: figures(served) == NOTHING)
    [report] = fhir.now("DiagnosticReport")
    assert len(report["result"]) == len(fhir.now("Observation")) == 2
    for command in ("add", "retry", "erased"):
        with pytest.raises(BcdError, match="no cases"):
            main(["outbox", command, "0" * 16, *place])
    assert main(["outbox", "add", "--all", *place]) == 0
    until(lambda: figures(served)["waiting"] == 0)
    assert len(fhir.now("Observation")) == 2
    [device] = fhir.now("Device")
    assert device["version"][0]["value"] == IDENTITY.sha256

    old = "https://old.example.org/r4"  # of `fhir.url`, before it was changed
    until(lambda: figures(served) == NOTHING)
    with served.services.records.engine.begin() as connection:
        connection.execute(update(OUTBOX).values(servers=f"{old}\n{fhir.url}"))
    served.all.post(f"/v1/cases/{made['id']}/erase", json={"reason": "asked"})
    until(lambda: {each["status"] for each in fhir.now("Observation")} == {"entered-in-error"})
    until(lambda: figures(served) == {**NOTHING, "not_erased": 1})
    page = served.all.get("/dashboard").text
    assert f"not on {old}" in page and fhir.url not in page and "Not delivered" not in page
    capsys.readouterr()
    assert main(["outbox", "list", *place]) == 0
    [listed] = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (listed["state"], listed["not_erased_on"]) == ("failed", old)
    assert main(["outbox", "erased", made["id"], *place]) == 0
    assert figures(served) == NOTHING and old not in served.all.get("/dashboard").text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("fhir.url=http://fhir.example.org/r4",), "unencrypted"),
        (("fhir.url=ftp://127.0.0.1/r4",), "address"),
        (("fhir.url=https://a:b@fhir.example.org",), "token_file"),
        (("fhir.url=https://fhir.example.org/r4?a=1",), "address"),
        (("fhir.url=https://fhir.example.org/r4", "url=null"), "identifiers"),
        (("fhir.timeout_seconds=0",), "fhir.timeout_seconds"),
    ],
)
def test_addresses_that_would_lose_or_show_reports_are_refused(
    given: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    quoted = [each.replace("?a=1", "\\?a\\=1") for each in given]
    with pytest.raises(ConfigError, match=said):
        serve_config(tmp_path, f"url={BASE}", *quoted)


def test_a_token_file_without_a_token_is_refused_at_start(tmp_path: Path) -> None:
    token = tmp_path / "token"
    cfg = serve_config(
        tmp_path, f"url={BASE}", "fhir.url=https://fhir.example.org", f"fhir.token_file={token}"
    ).fhir
    for content in (None, "", "two words", "caf\u00e9"):
        if content is not None:
            token.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match="one token"):
            check_outbox(cfg)
    token.write_text("word\n", encoding="utf-8")
    check_outbox(cfg)
