"""An exported file as a model for predicting; computed by onnxruntime, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.environment import core_count
from bcd.config.input_views import WHOLE, InputView
from bcd.data.input_views import definition, packed_shape, views_to_read
from bcd.errors import BcdError
from bcd.evaluation.decision import Decisions
from bcd.evaluation.predictions import NOT_FINITE, UNCALIBRATED
from bcd.inference.model import ModelFacts
from bcd.inference.signature import read_verified
from bcd.storage import typed_path

FORMAT = 1  # the newest that this version reads
SUFFIX = ".onnx"

# The outputs that are read, with their types and numbers of dimensions.
_OUTPUTS = {
    "probabilities": ("tensor(double)", 2),
    "malignant": ("tensor(bool)", 1),
    "refer": ("tensor(bool)", 1),
    "reasons": ("tensor(bool)", 2),
    "prediction_set": ("tensor(bool)", 2),
    "ood_score": ("tensor(double)", 1),
}
_INPUTS = {"graph": "images", "predictor": "packed"}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class ExportedModel:
    """An exported file that decides about images; see `Model`.

    Args:
        file: The file.
        uncalibrated: Whether to accept a file without a decision policy.
        device: `cpu`, `cuda`, or `auto` for CUDA if this onnxruntime has it, else the CPU.
        verify: A public key with which the file's signature is checked first; None for no check.
        data: The file's bytes from `read_exported`; None: it is read now.

    Attributes:
        content: What the file says about itself, as `bcd.export.metadata` writes it.

    Raises:
        BcdError: There is no such file or device, onnxruntime is not installed, the file is
            damaged, was not signed, was not written by `bcd export`, or has no decision policy.
    """

    def __init__(
        self,
        file: str | Path,
        uncalibrated: bool,
        device: str,
        verify: str | None = None,
        data: bytes | None = None,
    ) -> None:
        self._given = f"model={file}"
        self._session = _start(self._given, data or read_exported(file, verify), device)
        try:
            metadata = self._session.get_modelmeta().custom_metadata_map
            content = self.content = _content(self._given, metadata)
            self._reasons = tuple(map(str, content["reasons"]))
            self._decides = bool(content["decides_malignant"])
            self._preprocessing = str(content["preprocessing"])
            self._input = _INPUTS[self._preprocessing]
            self.facts = _facts(content, card := json.loads(metadata["card"]))
            views = self.facts.input_views
            _check_views(self._given, views, card["views"], self._preprocessing)
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise _damaged(self._given) from error
        self._check_shapes()
        if not self.facts.calibrated and not uncalibrated:
            raise BcdError(
                f"{self._given}: uncalibrated: it has no decision policy: export best.ckpt of a "
                "run that ended, or give uncalibrated=true to predict every image and refer it"
            )
        on_cpu = self._session.get_providers()[0] == _PROVIDERS["cpu"]
        self.device = "cpu" if on_cpu else "cuda"
        # On a CPU each call has one thread; see `bcd.features.engines`.
        self.threads = core_count() if on_cpu else 1
        self.batch: int | None = 4 if on_cpu else None

    def answer(self, packed: NDArray[np.uint8]) -> Decisions:
        """Decides about n images; see `Model`.

        Raises:
            BcdError: What the file computes is not an answer.
        """
        found = self.forward(packed)
        self._check(len(packed), *found)
        probabilities, malignant, _, reasons, sets, scores = found
        always = () if self.facts.calibrated else (UNCALIBRATED,)
        named = [
            (*(name for name, why in zip(self._reasons, row, strict=True) if why), *always)
            for row in reasons
        ]
        decided: list[bool | None] = [None] * len(packed)
        if self._decides:
            pairs = zip(malignant, named, strict=True)
            decided = [None if NOT_FINITE in why else bool(value) for value, why in pairs]
        return Decisions(probabilities, decided, named, sets, scores)

    def forward(self, packed: NDArray[np.uint8]) -> list[NDArray[Any]]:
        """The outputs for n images, unchecked.

        Raises:
            BcdError: The file cannot be computed.
        """
        try:
            found: list[NDArray[Any]] = self._session.run(list(_OUTPUTS), {self._input: packed})
        except Exception as error:
            raise self._failed(error) from error
        return found

    def refuse_match(self) -> None:
        """Refuses to match images where the file would cover the matched corner again.

        Raises:
            BcdError: It would.
        """
        if self.facts.mask_scale_bar and self._preprocessing == "graph":
            raise BcdError(
                f"site.profile: {self._given} covers the scale bar itself, after images are "
                "matched: give the checkpoint it was exported from, as ckpt="
            )

    def _check(
        self,
        n: int,
        probabilities: NDArray[np.float64],
        malignant: NDArray[np.bool_],
        refer: NDArray[np.bool_],
        reasons: NDArray[np.bool_],
        sets: NDArray[np.bool_],
        scores: NDArray[np.float64],
    ) -> None:
        """Refuses answers that contradict themselves."""
        each = (n, len(self.facts.classes))
        shapes = [each, (n,), (n,), (n, len(self._reasons)), each, (n,)]
        given = (probabilities, malignant, refer, reasons, sets, scores)
        found = [one.shape for one in given]
        if found != shapes:
            raise self._failed(ValueError(f"shapes {found} instead of {shapes}"))
        odd = reasons[:, self._reasons.index(NOT_FINITE)]
        sums = np.abs(probabilities.sum(1) - 1) < 1e-6  # NaN is not
        if not np.array_equal(refer, reasons.any(1)) or not (sums | odd).all():
            raise self._failed(ValueError("its outputs contradict each other"))

    def _failed(self, error: Exception) -> BcdError:
        from bcd.config.check import first_line

        return BcdError(f"{self._given}: gives no answers ({first_line(error)}): export it again")

    def _check_shapes(self) -> None:
        """Refuses a file whose inputs and outputs are not as its metadata says."""
        inputs = {one.name: one for one in self._session.get_inputs()}
        shape = (None, *packed_shape(views_to_read(self.facts.input_views)))
        if self._preprocessing == "graph":
            shape = (None, None, None, 3)
        given = inputs.get(self._input)
        fits = (
            len(inputs) == 1
            and given is not None
            and given.type == "tensor(uint8)"
            and len(given.shape) == len(shape)
            and all(
                b is None or a == b or isinstance(a, str | None)
                for a, b in zip(given.shape, shape, strict=True)
            )
        )
        outputs = {one.name: (one.type, len(one.shape)) for one in self._session.get_outputs()}
        if not fits or any(outputs.get(name) != kind for name, kind in _OUTPUTS.items()):
            raise _damaged(self._given)
        if NOT_FINITE not in self._reasons:
            raise _damaged(self._given)


def read_exported(file: str | Path, verify: str | None) -> bytes:
    """Reads an exported file; arguments and errors are those of `ExportedModel`."""
    given, file = f"model={file}", typed_path(str(file))
    if file.suffix.lower() != SUFFIX:
        raise BcdError(f"{given}: not an exported model (*{SUFFIX}): give a checkpoint as ckpt=")
    if verify is not None:
        return read_verified(file, typed_path(verify))
    try:
        return file.read_bytes()
    except OSError as error:
        raise BcdError(f"{given}: cannot be read ({error.strerror})") from error


def _start(given: str, data: bytes, device: str) -> Any:
    """A session of onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise BcdError(
            f"{given}: needs the package onnxruntime: pip install onnxruntime"
        ) from error

    onnxruntime.disable_telemetry_events()  # Windows builds send them whatever the environment says
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised too
    providers = _providers(device, onnxruntime.get_available_providers())
    try:
        session = onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:
        from bcd.config.check import first_line

        raise BcdError(f"{given}: damaged, or not an ONNX file ({first_line(error)})") from error
    if device == "cuda" and session.get_providers()[0] != _PROVIDERS["cuda"]:
        raise BcdError("device=cuda: onnxruntime cannot use it on this machine: try device=cpu")
    return session


def _providers(device: str, offered: list[str]) -> list[str]:
    if device not in ("auto", *_PROVIDERS):
        raise BcdError(f"device={device}: an exported model runs on cpu or cuda")
    if device == "cuda" and _PROVIDERS["cuda"] not in offered:
        raise BcdError(
            "device=cuda: the installed onnxruntime has no CUDA: pip install onnxruntime-gpu "
            "instead of onnxruntime, or set device=cpu"
        )
    wanted = ("cpu",) if device == "cpu" else ("cuda", "cpu")
    return [name for one in wanted if (name := _PROVIDERS[one]) in offered]


def _content(given: str, metadata: Mapping[str, str]) -> Mapping[str, Any]:
    """What the file says about itself.

    Raises:
        BcdError: It was not written by `bcd export`, or by a newer version.
        ValueError: It is damaged.
    """
    if "bcd" not in metadata:
        raise BcdError(f"{given}: not a model that bcd export wrote")
    content = json.loads(metadata["bcd"])
    if int(content["format"]) != FORMAT:
        raise BcdError(
            f"{given}: has format {content['format']}, written by bcd {content['bcd_version']}, "
            f"and this version reads format {FORMAT}: use that version, or export again with this"
        )
    if hashlib.sha256(metadata["card"].encode("utf-8")).hexdigest() != content["card_sha256"]:
        raise ValueError("the card was changed")
    return dict(content)


def _facts(content: Mapping[str, Any], card: Mapping[str, Any]) -> ModelFacts:
    for name in ("classes", "benign", "mask_scale_bar", "appearance", "recalibration"):
        if content[name] != card[name]:
            raise ValueError(f"the card has other {name}")
    if bool(content["calibrated"]) != (card["policy"] is not None):
        raise ValueError("calibrated without a policy")
    return ModelFacts(
        list(map(str, content["classes"])),
        content["benign"],
        tuple(InputView(str(view[0]), int(view[1]), *view[2:]) for view in content["views"]),
        bool(content["mask_scale_bar"]),
        content["appearance"],
        content["recalibration"],
        bool(content["calibrated"]),
        str(content["card_sha256"]),
        card["policy"],
        card.get("release") is not None,
    )


def _check_views(given: str, views: tuple[InputView, ...], made: Any, preprocessing: str) -> None:
    """Refuses input views that this version makes otherwise, or cannot make."""
    if [definition(view) for view in views] != made:
        raise BcdError(
            f"{given}: its input views were made as {made}, and this version makes them "
            "otherwise: use the version it was exported with, or export again"
        )
    if preprocessing == "graph" and len(views) > 1:
        raise _damaged(given)
    missing = [one for one in ("skimage", "scipy") if find_spec(one) is None]
    if missing and any(view.roi != WHOLE for view in views):
        raise BcdError(f"{given}: finding white cells needs pip install scikit-image scipy")


def _damaged(given: str) -> BcdError:
    return BcdError(f"{given}: damaged: it is not as bcd export wrote it")
