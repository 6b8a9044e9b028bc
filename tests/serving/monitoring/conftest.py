"""Services of the dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bcd.serving.accounts.store import Accounts
from bcd.serving.records.database import database_url
from bcd.serving.records.store import open_records
from bcd.serving.services import Services
from tests.serving.making import serve_config
from tests.serving.monitoring.making import EXPECTED, PEER, WINDOW, engine_that_says


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    cfg = serve_config(
        tmp_path, f"monitoring.window={WINDOW}", f"proxy.trusted=[{PEER}]",
        "proxy.user_header=X-Bcd-User", "proxy.roles_header=X-Bcd-Roles",
    )  # fmt: skip
    engine = engine_that_says({"expectation": EXPECTED.to_plain()})
    with open_records(database_url(None, str(tmp_path)), cfg.images) as records:
        accounts = Accounts(records.engine, cfg)
        yield Services(cfg, engine, records, accounts)
