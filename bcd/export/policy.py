"""The decision policy within an exported graph: `bcd.evaluation.decision`, in torch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bcd.evaluation import decision
from bcd.evaluation.decision import DecisionPolicy
from bcd.evaluation.predictions import NOT_FINITE

# Reasons for referral, in the order of the output `reasons`.
REASONS = (
    NOT_FINITE,
    decision.LOW_CONFIDENCE,
    decision.UNDECIDED,
    decision.OOD,
    decision.DISAGREES,
    decision.MEMBERS_DISAGREE,
)
OUTPUTS = (
    "probabilities",
    "prediction_set",
    "malignant",
    "refer",
    "reasons",
    "ood_score",
    "disagreement",
)


def thresholds(policy: DecisionPolicy, members: int) -> dict[str, float]:
    """The inputs of a graph that can be changed after export, by name, with their defaults.

    Args:
        policy: Of the checkpoint.
        members: Number of members of the ensemble; 1 for a single model.
    """
    found = {
        "set_threshold": policy.set_threshold,
        "confidence_threshold": policy.confidence_threshold,
    }
    if policy.benign is not None and policy.malignant_threshold is not None:
        found["malignant_threshold"] = policy.malignant_threshold
    if policy.subspace is not None:
        found["ood_limit"] = policy.subspace.limit
    if members > 1:
        found["disagreement_limit"] = policy.disagreement_limit
    return {name: float(found[name]) for name in sorted(found)}


class PolicyGraph(nn.Module):
    """Decides as a `DecisionPolicy` does, in float64.

    Args:
        policy: Of the checkpoint.
        classes: Number of classes.
    """

    def __init__(self, policy: DecisionPolicy, classes: int) -> None:
        super().__init__()
        self.benign = policy.benign
        self.register_buffer("temperature", torch.tensor(policy.temperature, dtype=torch.float64))
        priors = policy.priors or (1.0,) * classes
        self.register_buffer("priors", torch.tensor(priors, dtype=torch.float64))
        self.knows_own = policy.subspace is not None
        if policy.subspace is not None:
            mean, basis = policy.subspace.mean, policy.subspace.basis
            self.register_buffer("mean", torch.from_numpy(mean).double())
            self.register_buffer("basis", torch.from_numpy(basis).double().T.contiguous())  # (d, k)

    def forward(
        self,
        logits: Tensor,
        descriptors: Tensor,
        disagreement: Tensor,
        limits: Mapping[str, Tensor],
    ) -> tuple[Tensor, ...]:
        """Maps outputs of a network to the `OUTPUTS`.

        With a limit that is not a number, images are malignant and referred.

        Args:
            logits: (N, classes).
            descriptors: (N, d).
            disagreement: (N,).
            limits: By the names of `thresholds`, each of shape ().
        """
        known = torch.isfinite(logits).all(1)
        probabilities = self._probabilities(logits, known)
        familiar = torch.isfinite(descriptors).all(1)
        score = self._ood_score(descriptors, familiar, limits)
        finite = known & familiar
        malignant = torch.zeros_like(known)
        disagrees = torch.zeros_like(known)
        if "malignant_threshold" in limits:
            malignant = ~(1 - probabilities[:, self.benign] < limits["malignant_threshold"])
            disagrees = malignant != (probabilities.argmax(1) != self.benign)
        own = probabilities * self.get_buffer("priors")
        undecided = own.amax(1) - own.amin(1) <= 1e-6 * own.amax(1)
        differ = torch.zeros_like(known)
        if "disagreement_limit" in limits:
            differ = ~(disagreement.double() <= limits["disagreement_limit"])
        reasons = torch.stack(
            [
                ~finite,
                finite & ~(probabilities.amax(1) >= limits["confidence_threshold"]),
                finite & undecided,
                finite & ~(score <= 1),
                finite & disagrees,
                finite & differ,
            ],
            1,
        )
        nothing = torch.full_like(probabilities, float("nan"))
        return (
            torch.where(finite[:, None], probabilities, nothing),
            finite[:, None] & (probabilities >= limits["set_threshold"]),
            finite & malignant,
            reasons.any(1),
            reasons,
            torch.where(familiar, score, nothing[:, 0]),
            disagreement.double(),
        )

    def _probabilities(self, logits: Tensor, known: Tensor) -> Tensor:
        usable = torch.where(known[:, None], logits, torch.zeros_like(logits)).double()
        scaled = usable / self.get_buffer("temperature") - self.get_buffer("priors").log()
        return torch.softmax(scaled, 1)

    def _ood_score(
        self, descriptors: Tensor, familiar: Tensor, limits: Mapping[str, Tensor]
    ) -> Tensor:
        if not self.knows_own:
            return descriptors[:, 0].double() * 0
        usable = torch.where(familiar[:, None], descriptors, torch.zeros_like(descriptors))
        centred = usable.double() - self.get_buffer("mean")
        inside = centred @ self.get_buffer("basis")
        rest = centred.square().sum(1) - inside.square().sum(1)
        return rest.clamp(min=0).sqrt() / limits["ood_limit"].clamp(min=1e-12)
