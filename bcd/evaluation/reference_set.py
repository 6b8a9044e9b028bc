"""A reference set: labelled images by sha256, the answers of one model version, and limits."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bcd.config.reference import ChangeLimits
from bcd.errors import BcdError
from bcd.evaluation.predictions import Prediction
from bcd.storage import digest, write_text

NAME = "reference.json"
_FORMAT = 1


@dataclass(frozen=True)
class FrozenSettings:
    """Settings of the site with which a model answered.

    Attributes:
        profile: sha256 of the site's profile; empty: images were not matched.
        scale: Whether images were rescaled by the profile; false without one.
        colour: How colours were matched by it; `none` without one.
        threshold: Probability from which images were called malignant; None: the policy's.
    """

    profile: str
    scale: bool
    colour: str
    threshold: float | None

    def __str__(self) -> str:
        match = "images as they are"
        if self.profile:
            scale = str(self.scale).lower()
            match = f"profile {self.profile[:12]} (scale {scale}, colour {self.colour})"
        own = "of the model's policy" if self.threshold is None else repr(self.threshold)
        return f"{match}, threshold {own}"


@dataclass(frozen=True)
class FrozenModel:
    """A model version.

    Attributes:
        name: Of its file.
        sha256: Of its file.
        card_sha256: Of its card.
        settings: Of the site.
        trained: Number of images of the set that it was trained or chosen on; None if unknown.
    """

    name: str
    sha256: str
    card_sha256: str
    settings: FrozenSettings
    trained: int | None


@dataclass(frozen=True)
class FrozenAnswer:
    """What the model said about an image; fields as in `Prediction`."""

    probabilities: tuple[float, ...]
    malignant: bool | None
    refer: tuple[str, ...]

    @classmethod
    def of(cls, prediction: Prediction) -> FrozenAnswer:
        """Of a prediction."""
        return cls(prediction.probabilities, prediction.malignant, prediction.refer)

    def prediction(self, path: str) -> Prediction:
        """The prediction for the image at a path."""
        return Prediction(path, "", self.probabilities, refer=self.refer, malignant=self.malignant)


@dataclass(frozen=True)
class ReferenceImage:
    """An image of the set.

    Attributes:
        path: Relative to the root, with forward slashes.
        sha256: Of the file's bytes.
        class_name: Its true class.
        group: Slide or patient; empty if unknown.
        answer: Of the frozen model.
    """

    path: str
    sha256: str
    class_name: str
    group: str
    answer: FrozenAnswer


@dataclass(frozen=True)
class ReferenceSet:
    """A frozen reference set.

    Attributes:
        frozen_at: ISO 8601, UTC.
        bcd_version: That froze it.
        root: Folder that paths are relative to.
        classes: In the order of the probabilities.
        benign: The class that is not cancer; None if there is none.
        limits: For new versions.
        model: That answered.
        images: In the order of their paths.
    """

    frozen_at: str
    bcd_version: str
    root: str
    classes: tuple[str, ...]
    benign: str | None
    limits: ChangeLimits
    model: FrozenModel
    images: tuple[ReferenceImage, ...]

    @property
    def sha256(self) -> str:
        """Of everything in it but the root, to which the images may be moved."""
        plain = {name: value for name, value in asdict(self).items() if name != "root"}
        return digest(json.dumps(plain, sort_keys=True))


def write_set(file: Path, frozen: ReferenceSet) -> None:
    """Writes a set and its sha256; the file is replaced atomically."""
    content = {"format": _FORMAT, "sha256": frozen.sha256, **asdict(frozen)}
    write_text(file, json.dumps(content, indent=1) + "\n")


def read_set(file: Path) -> ReferenceSet:
    """Reads a set.

    Raises:
        BcdError: There is no such file, it is none of `write_set`, or it was edited since.
    """
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version, stated = content.pop("format"), content.pop("sha256")
        if version != _FORMAT:
            raise BcdError(f"set={file}: has format {version}, this version of bcd reads {_FORMAT}")
        images = [
            ReferenceImage(**{**one, "answer": _answer(one["answer"])})
            for one in content.pop("images")
        ]
        frozen = ReferenceSet(
            **{
                **content,
                "classes": tuple(content["classes"]),
                "limits": ChangeLimits(**content["limits"]),
                "model": _model(content["model"]),
                "images": tuple(images),
            }
        )
    except OSError as error:
        raise BcdError(f"set={file}: cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BcdError(f"set={file}: not a reference set of bcd reference") from error
    if frozen.sha256 != stated:
        raise BcdError(f"set={file}: was changed since it was frozen: take the original file")
    return frozen


def _model(plain: dict[str, Any]) -> FrozenModel:
    return FrozenModel(**{**plain, "settings": FrozenSettings(**plain["settings"])})


def _answer(plain: dict[str, Any]) -> FrozenAnswer:
    return FrozenAnswer(
        tuple(map(float, plain["probabilities"])), plain["malignant"], tuple(plain["refer"])
    )
