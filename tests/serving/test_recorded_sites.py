"""Sites that records and commands know, and a server does not have."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from bcd.commands.serve_accounts import main
from bcd.errors import ConfigError
from bcd.serving import start
from bcd.serving.records.database import database_url
from bcd.serving.records.sites import STARTED
from bcd.serving.records.store import Records, open_records
from bcd.serving.sites import check_recorded
from tests.serving.making import IDENTITY, serve_config

PROXY = ("proxy.trusted=[192.0.2.1]", "proxy.user_header=X-User", "proxy.roles_header=X-Roles")


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    """With a case of a server without a name, and one of the east."""
    images = serve_config(tmp_path).images
    with open_records(database_url(None, str(tmp_path)), images) as opened:
        for site in ("", "east"):
            opened.open_case("ada", "", IDENTITY, 1, site)
        yield opened


def test_a_site_taken_away_does_not_open_its_cases_to_strangers(
    records: Records, tmp_path: Path
) -> None:
    cfg = serve_config(tmp_path, "site=main", *PROXY)
    nothing = cast(Any, None)  # it is refused before anything else is used
    with pytest.raises(ConfigError, match=r"the sites east: give proxy\.site_header"):
        start._run(cfg, nothing, nothing, records, nothing)
    check_recorded(serve_config(tmp_path, "site=main", *PROXY, "proxy.site_header=X-Site"), records)
    check_recorded(serve_config(tmp_path, "site=east", *PROXY), records)  # all are its own


@pytest.mark.parametrize(
    ("given", "missing"),
    [(["site=main"], ["(no name)", "east"]), (["+sites.east.threshold=0.3"], None)],
)
def test_cases_that_take_no_more_images_are_a_warning(
    records: Records, tmp_path: Path, given: list[str], missing: list[str] | None
) -> None:
    with capture_logs() as logged:
        check_recorded(serve_config(tmp_path, *given), records)
    assert [line["sites"] for line in logged] == ([] if missing is None else [missing])


def test_a_misspelled_site_is_a_warning(
    records: Records, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add = ["user", "add", "--roles", "review", "--no-password", "--folder", str(tmp_path)]
    assert main([*add, "early", "--site", "esat"]) == 0  # before the first start
    assert "warning" not in capsys.readouterr().err
    records.event("", STARTED, {"sites": {"main": {}, "east": {}}})
    assert main([*add, "ada", "--site", "east"]) == 0
    assert "warning" not in capsys.readouterr().err
    assert main(["user", "site", "ada", "esat", "--folder", str(tmp_path)]) == 0
    assert "has no site esat; its sites: east, main" in capsys.readouterr().err
