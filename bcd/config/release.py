"""The configuration of `experiment=release`, beside that of the members' training."""

from __future__ import annotations

from dataclasses import dataclass

from bcd.config.values import at_least, one_of, within
from bcd.errors import ConfigError

TEST_TIME_VIEWS = ("d4", "flips", "scales")

# `from` is a keyword of Python.
RELEASE_KEYS = ("recipe", "members", "tta", "curve", "from")


@dataclass
class ReleaseConfig:
    """How the members of a release are trained and put together."""

    name: str
    recipe: str
    members: int | None
    tta: str | None
    curve: bool
    old: str | None
    folds: int
    refer: float

    def __post_init__(self) -> None:
        """Checks values beyond their types."""
        if self.recipe == "release":
            raise ConfigError("recipe=release: give the experiment that trains each member")
        if self.members not in (None, 1):
            raise ConfigError(
                f"members={self.members}: null averages the members of all folds, 1 trains one "
                "model on all images; split.folds sets the number of folds"
            )
        at_least("split.folds", self.folds, 3)
        if self.tta is not None:
            one_of("tta", self.tta, TEST_TIME_VIEWS)
        within("decision.refer", self.refer, 0, 0.5)
