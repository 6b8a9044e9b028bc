"""What a run's report is written from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bcd.audit.checks import Check
from bcd.config.training import TrainConfig
from bcd.data.catalog import Catalog
from bcd.data.splits.split import Split
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.results import Result
from bcd.evaluation.robustness_table import Rows
from bcd.reporting.document import Block, Section


@dataclass(frozen=True)
class Facts:
    """The facts that a report presents."""

    cfg: TrainConfig
    catalog: Catalog
    split: Split
    results: Mapping[str, Result]
    policy: DecisionPolicy
    checks: Sequence[Check]
    corruptions: Rows
    tested: str
    epochs: int
    warnings: Sequence[str] = ()
    examples: Sequence[Block] = ()
    more: Sequence[Section] = ()

    @property
    def test(self) -> dict[str, Any]:
        """Figures of the test set."""
        return self.results["test"].metrics
