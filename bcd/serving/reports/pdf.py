"""A case as PDF."""

from __future__ import annotations

from collections.abc import Mapping

from bcd.serving.answers import ModelIdentity
from bcd.serving.records.cases import Case


def case_pdf(case: Case, model: ModelIdentity | None, pictures: Mapping[str, bytes]) -> bytes:
    """Writes a case as PDF."""
    raise NotImplementedError
