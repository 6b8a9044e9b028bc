"""Schema of the `decision` group."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import within


@dataclass
class DecisionConfig:
    """The decision policy: what is fitted on the val set for answering other images."""

    coverage: float
    sensitivity: float
    confidence: float
    low_confidence: float
    ood: float
    refer: float | None
    prevalence: float | None
    prior_correction: bool

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        within("decision.coverage", self.coverage, 0.5, 0.999)
        within("decision.sensitivity", self.sensitivity, 0.5, 1)
        within("decision.confidence", self.confidence, 0.5, 0.999)
        within("decision.low_confidence", self.low_confidence, 0, 0.5)
        within("decision.ood", self.ood, 0, 0.5)
        if self.refer is not None:
            within("decision.refer", self.refer, 0, 0.5)
        if self.prevalence is not None:
            within("decision.prevalence", self.prevalence, 0, 1)
