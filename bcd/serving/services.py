"""What requests are answered with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from bcd.config.sites import Site, read_sites

if TYPE_CHECKING:
    from bcd.config.serve import ServeConfig
    from bcd.serving.accounts.store import Accounts
    from bcd.serving.engine.queue import Engine
    from bcd.serving.records.store import Records


@dataclass(frozen=True)
class Services:
    """What requests are answered with.

    Attributes:
        cfg: The configuration.
        engine: Answers images.
        records: What was answered, reviewed and signed.
        accounts: Who may do what.
    """

    cfg: ServeConfig
    engine: Engine
    records: Records
    accounts: Accounts

    @cached_property
    def sites(self) -> dict[str, Site]:
        """The server's sites by name, its own first."""
        return read_sites(self.cfg)
