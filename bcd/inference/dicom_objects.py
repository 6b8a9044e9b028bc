"""Writes DICOM objects about predicted images: report, heat maps and an image with the evidence."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bcd.config.programs import PredictConfig
from bcd.console import say
from bcd.data.items import Item
from bcd.data.sandbox import Readers
from bcd.data.shown import WHOLE, Picture, reduced
from bcd.errors import BcdError, ConfigError
from bcd.evaluation.predictions import Prediction
from bcd.explain.overlay import TOP, draw_overlay, top_pixels
from bcd.explain.placing import density_in_image
from bcd.inference.batch.inputs import input_that_lists
from bcd.inference.batch.kept import may_have_header
from bcd.inference.batch.second_reading import SecondReading
from bcd.inference.batch.tally import Tally
from bcd.inference.dicom_content import answer_of, producer_of
from bcd.inference.evidence import find_evidence
from bcd.inference.predictor import Predictor
from bcd.interop.dicom.content import installed
from bcd.interop.settings import site_settings
from bcd.storage import file_sha256, replacing, typed_path

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from bcd.interop.dicom.content import Answer
    from bcd.interop.dicom.source import Source

Pixels = NDArray[np.uint8]
Each = Callable[[Prediction], object]

SIDE = 2048  # pixels of the longer side of heat maps and captures at most
_SHOWN = 3  # failures that are told one by one
_KINDS = ("report", "parametric", "segmentation", "capture", "image")


@dataclass(frozen=True)
class _Seen:
    """An image, with what its objects refer to."""

    source: Source
    pixels: Pixels
    answer: Answer


class DicomObjects:
    """Writes the objects of each predicted image into a folder of its own.

    An object that cannot be made is told and costs no row; so are all of an image that is no longer
    the one that was predicted.

    Args:
        cfg: With an output and objects.
        predictor: Gives the answers.
        tally: Counts the images of which objects are missing.
        continued: Whether the same command can continue: it then ends if the disk is full.

    Attributes:
        written: Number of objects.
    """

    def __init__(
        self, cfg: PredictConfig, predictor: Predictor, tally: Tally, continued: bool
    ) -> None:
        assert cfg.dicom.output is not None
        self._folder = typed_path(cfg.dicom.output)
        self._objects = tuple(cfg.dicom.objects)
        self._predictor, self._checkpoint = predictor, cfg.ckpt is not None
        self._tally, self._continued = tally, continued
        self._method = cfg.explain if isinstance(cfg.explain, str) else "auto"
        self._producer = producer_of(cfg, predictor)
        self._settings: dict[str, str] = {}
        self._note = ""
        if cfg.site.profile is not None:
            profile = file_sha256(typed_path(cfg.site.profile))
            self._settings["site_profile_sha256"] = profile
            self._note = site_settings(profile, None)
        self._readers = Readers(predictor.wanted, 1)
        self._images = SecondReading()
        self.written = self._told = 0

    def noting(self, items: Iterator[Item]) -> Iterator[Item]:
        """Passes items on; `write` gets their predictions in this order."""
        return self._images.first(items)

    def write(self, prediction: Prediction) -> None:
        """Writes the objects about the next image.

        Raises:
            BcdError: They cannot be written, and the same command can do it later.
        """
        item, sha256 = self._images.take()
        folder = self._folder_of(prediction.path)
        try:
            _remove_objects(folder)
            for kind, made in self._made(item, sha256, prediction):
                _save(folder / f"{kind}.dcm", made)
                self.written += 1
        except Exception as error:
            if self._continued and isinstance(error, OSError):
                raise BcdError(f"dicom.output={self._folder}: {_reason(error)}") from error
            self._tally.without_objects += 1
            self._told += 1
            if self._told <= _SHOWN:
                say(f"warning: {prediction.path}: not all DICOM objects: {_reason(error)}")

    def close(self) -> None:
        """Ends the reading process."""
        self._readers.close()

    def tell(self) -> None:
        """Tells what was written."""
        say(f"DICOM objects: {self.written} in {self._folder}")

    def _folder_of(self, path: str) -> Path:
        """Where the objects about an image are."""
        own = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:8]
        # Systems bound names by bytes.
        name = Path(path).name.encode("utf-8", "replace")[-80:].decode("utf-8", "ignore")
        return self._folder / f"{name}-{own}"

    def _made(
        self, item: Item, sha256: str, prediction: Prediction
    ) -> Iterator[tuple[str, Dataset]]:
        from bcd.interop.dicom.capture import image_object
        from bcd.interop.dicom.structured_report import Reported, report

        if prediction.error:  # there is no picture to refer to
            return
        now = datetime.now().astimezone()
        item = self._images.read(item, sha256)
        seen = self._look(item, sha256, prediction)
        if not seen.source.exists:
            yield "image", image_object(self._producer, seen.source, seen.pixels, now)
        if "report" in self._objects:
            key = f"{seen.source.key} {seen.answer}"
            yield (
                "report",
                report(self._producer, [Reported(seen.source, seen.answer)], now, key=key),
            )
        if set(self._objects) - {"report"} and prediction.best is not None:
            yield from self._pictures(item, seen, prediction.best, now)

    def _look(self, item: Item, sha256: str, prediction: Prediction) -> _Seen:
        """Decodes an image once more, whole, and reads the header of a DICOM file."""
        from bcd.interop.dicom.source import KEYWORDS, source_of_file, source_of_picture

        pixels = _got(self._readers.submit(replace(item, picture=Picture(WHOLE))).result())
        rows, columns = pixels.shape[:2]
        if may_have_header(item):
            header = _got(self._readers.header(replace(item, picture=None), KEYWORDS).result())
            own = f"{sha256}#{item.frame or 1}"
            source = source_of_file(header.kept, rows, columns, item.frame, sha256, own)
        else:
            attributes = {"PatientID": sha256[:16]}
            source = source_of_picture(sha256, sha256, rows, columns, attributes)
        answer = answer_of(prediction, self._producer.classes, sha256)
        return _Seen(source, pixels, replace(answer, settings=self._settings, note=self._note))

    def _pictures(
        self, item: Item, seen: _Seen, target: int, now: datetime
    ) -> Iterator[tuple[str, Dataset]]:
        from bcd.interop.dicom.capture import capture
        from bcd.interop.dicom.content import Evidence
        from bcd.interop.dicom.heatmap import parametric_map, segmentation

        packed = _got(self._readers.submit(replace(item, picture=None)).result())
        found, method = find_evidence(
            self._predictor.model, packed, target, checkpoint=self._checkpoint, method=self._method
        )
        evidence = Evidence(self._producer.classes[target], method)
        shown = reduced(seen.pixels, SIDE)
        rows, columns = shown.shape[:2]
        density = density_in_image(found, rows, columns, self._predictor.match)
        about = (self._producer, seen.source, evidence)
        if "parametric" in self._objects:
            yield "parametric", parametric_map(*about, density, now)
        if "segmentation" in self._objects:
            yield "segmentation", segmentation(*about, top_pixels(density), TOP, now)
        if "capture" in self._objects:
            yield "capture", capture(*about, draw_overlay(shown, density), now)


@contextmanager
def writing_objects(
    cfg: PredictConfig,
    predictor: Predictor,
    items: Iterator[Item],
    each: Each | None,
    tally: Tally,
    continued: bool = False,
) -> Iterator[tuple[Iterator[Item], Each | None]]:
    """Has DICOM objects written, if they are asked for, about images that are predicted meanwhile.

    Args:
        cfg: The configuration.
        predictor: Gives the answers.
        items: The images.
        each: Called with every prediction, in order.
        tally: Counts the images of which objects are missing.
        continued: Whether the same command can continue.

    Returns:
        The images and the function to use instead.
    """
    if cfg.dicom.output is None:
        yield items, each
        return
    objects = DicomObjects(cfg, predictor, tally, continued)

    def both(prediction: Prediction) -> None:
        objects.write(prediction)
        if each is not None:
            each(prediction)

    try:
        yield objects.noting(items), both
        objects.tell()
    finally:
        objects.close()


def check_writable(output: str, inputs: Sequence[str]) -> None:
    """Refuses to begin if no objects can be written; makes their folder.

    Args:
        output: As typed.
        inputs: As typed; objects among them would be images of patients for the next run.

    Raises:
        BcdError: highdicom is not installed, or the output cannot be such a folder.
        ConfigError: It is inside an input.
    """
    if not installed():
        raise BcdError("dicom.output: needs the package highdicom: pip install 'bcd[dicom]'")
    folder = typed_path(output)
    if (text := input_that_lists(folder, inputs)) is not None:
        raise ConfigError(f"dicom.output={output}: inside input={text}: give another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        why = "not a folder" if folder.is_file() else error.strerror or "cannot be written"
        raise BcdError(f"dicom.output={output}: {why}: give another folder") from error


def _remove_objects(folder: Path) -> None:
    """Removes the objects of an earlier run, which may be about another image of that name."""
    for kind in _KINDS:
        (folder / f"{kind}.dcm").unlink(missing_ok=True)
    with suppress(OSError):  # there is none, or it has other files
        folder.rmdir()


def _save(file: Path, made: Dataset) -> None:
    from bcd.interop.dicom.making import encoded

    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file, durable=True) as stream:
        stream.write(encoded(made))


def _got(read: object) -> Any:
    """What was read; raises BcdError with the reason if nothing was."""
    if isinstance(read, str):
        raise BcdError(read)
    return read


def _reason(error: Exception) -> str:
    """Why an object is missing, without a value of an attribute."""
    from bcd.interop.dicom.content import ObjectError

    if isinstance(error, BcdError | ObjectError):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or "cannot be written"
    return f"cannot be made ({type(error).__name__})"
