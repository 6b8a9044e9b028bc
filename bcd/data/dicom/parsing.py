"""Parses DICOM files into what is needed to decode their pictures.

Reasons have nothing of the file's attributes but sizes, and names that the standard gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from bcd.data.dicom.elements import (
    DEFLATED,
    MOST_ELEMENTS,
    PIXEL_DATA,
    Element,
    File,
    elements,
    open_file,
    read_elements,
)
from bcd.data.dicom.header import SEVERAL, UNCERTAIN, Header
from bcd.data.files import ImageError, UnreadableError

# What is read: pictures of one or three samples, of a microscope, a camera or a screen.
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
SOP_CLASSES = (
    "1.2.840.10008.5.1.4.1.1.7",  # Secondary Capture
    "1.2.840.10008.5.1.4.1.1.7.1",  # multi-frame, single bit
    "1.2.840.10008.5.1.4.1.1.7.2",  # multi-frame, greyscale byte
    "1.2.840.10008.5.1.4.1.1.7.3",  # multi-frame, greyscale word
    "1.2.840.10008.5.1.4.1.1.7.4",  # multi-frame, true colour
    "1.2.840.10008.5.1.4.1.1.77.1.2",  # VL Microscopic
    "1.2.840.10008.5.1.4.1.1.77.1.3",  # VL Slide-Coordinates Microscopic
    "1.2.840.10008.5.1.4.1.1.77.1.4",  # VL Photographic
)

_NEEDED = (
    "SpecificCharacterSet", "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "WindowCenter", "WindowWidth",
    "RescaleIntercept", "RescaleSlope", "VOILUTFunction", "PresentationLUTShape",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)  # fmt: skip
MISSING = "DICOM needs a package: pip install 'bcd[dicom]'"
_LONGEST_TEXT = 1000  # characters of an attribute that is kept
_PROSE = ("LT", "ST", "UT")  # VRs of texts of several lines
_ONLY_7_BITS = (b"(", b"$B", b"$(")  # after ESC: of sets for bytes below 128
_RESET = re.compile(rb"[\r\n\t\f^=\\]")  # here the first character set holds again
_ITEM = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # begins what is in a sequence
_BINARY = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")  # control characters but ESC
_MODALITY_LUT, _VOI_LUT = 0x00283000, 0x00283010
_OFFSETS = (0x7FE00001, 0x7FE00002)  # of frames, which may be many
_LONGEST_OFFSETS = 1 << 26
_MOST_INFLATED = 1 << 31  # bytes of a deflated file, which is inflated for each of its pictures


@cache
def import_pydicom() -> Any:
    """Imports pydicom, and has it log and warn of nothing: what it says has attributes in it.

    Raises:
        UnreadableError: It is not installed.
    """
    try:
        import pydicom
    except ImportError as error:
        raise UnreadableError(MISSING) from error
    for name in ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "rle"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    # For good, as `catch_warnings` does not keep threads apart.
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
    return pydicom


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """Makes every exception of the block an `ImageError` without what is in the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("cannot be decoded (takes too much memory)") from None
    except Exception as error:  # parsers raise anything
        raise ImageError(f"cannot be decoded (DICOM, {type(error).__name__})") from None


class OtherKindError(ImageError):
    """A DICOM file of another kind than those that were asked for."""


@dataclass(frozen=True)
class Parsed:
    """A DICOM file whose header was read.

    Attributes:
        file: Its bytes.
        header: What it says.
        dataset: The attributes that are needed, as pydicom's data set.
        pixels: Where the pixels are.
        others: Elements in front of them that pydicom has not read, by tag.
    """

    file: File
    header: Header
    dataset: Any
    pixels: Element
    others: dict[int, Element]


def parse(
    data: bytes,
    keep: Sequence[str] = (),
    kinds: Sequence[str] = SOP_CLASSES,
    also: Sequence[str] = (),
    most: int = MOST_ELEMENTS,
) -> Parsed:
    """Reads the header of a DICOM file.

    Args:
        data: The file, or as much of it as has the header.
        keep: Keywords of attributes to keep.
        kinds: UIDs of the SOP classes that are taken.
        also: Keywords of more attributes that the data set has.
        most: Number of elements in the header, with those in sequences.

    Raises:
        ImageError: It is damaged, of another kind, or has no pixels.
    """
    pydicom = import_pydicom()
    with guarded():
        file = open_file(data)
        tags = {pydicom.datadict.tag_for_keyword(keyword) for keyword in (*_NEEDED, *keep, *also)}
        found, others, pixels = [], {}, None
        for element in elements(file, most):
            if element.tag == _MODALITY_LUT:
                raise ImageError("its values are measurements and no picture (modality LUT)")
            if element.tag == _VOI_LUT and element.end != element.value:
                raise ImageError("is to be shown through a table (VOI LUT)")
            if element.tag == PIXEL_DATA:
                pixels = element
            elif element.tag in tags:
                found.append(element)
            else:
                others[element.tag] = element
        dataset = read_elements(file, [e for e in found if e.tag not in _OFFSETS])
        dataset.update(
            read_elements(file, [e for e in found if e.tag in _OFFSETS], _LONGEST_OFFSETS)
        )
        _check_kind(str(dataset.get("SOPClassUID") or file.kind), kinds, pydicom)
        if pixels is None:
            raise ImageError("no pixels in this DICOM file (cut off, or of another kind)")
        return Parsed(file, _header(dataset, file, keep, pydicom), dataset, pixels, others)


def _check_kind(uid: str, kinds: Sequence[str], pydicom: Any) -> None:
    if uid in kinds:
        return
    if uid == WHOLE_SLIDE:
        raise OtherKindError("a whole slide: use bcd slide")
    name = pydicom.uid.UID_dictionary.get(uid, ("unknown",))[0]
    wanted = "whole slide" if kinds == (WHOLE_SLIDE,) else "picture of a microscope or camera"
    raise OtherKindError(f"DICOM of another kind ({name}), not a {wanted}")


def _header(dataset: Any, file: File, keep: Sequence[str], pydicom: Any) -> Header:
    frames = int(dataset.get("NumberOfFrames") or 1)
    width, height = (int(dataset.get(side) or 0) for side in ("Columns", "Rows"))
    if frames < 1:
        raise ImageError("damaged DICOM file (number of frames)")
    if file.syntax == DEFLATED and frames > 1 and frames * len(file.data) > _MOST_INFLATED:
        raise ImageError("takes too long (deflated, with many pictures): split the file")
    uid = str(dataset.get("SOPClassUID") or file.kind)
    return Header(
        frames, width, height, pydicom.uid.UID_dictionary[uid][0],
        _hash(dataset.get("SOPInstanceUID")), _hash(dataset.get("StudyInstanceUID")),
        {keyword: text for keyword in keep if (text := _text(dataset, keyword, pydicom))},
    )  # fmt: skip


def _hash(uid: object) -> str:
    return hashlib.sha256(str(uid).encode()).hexdigest() if uid else ""


def _text(dataset: Any, keyword: str, pydicom: Any) -> str:
    """An attribute as one line of text; several values are separated by semicolons.

    Other texts would name other patients, so what cannot be read for certain is U+FFFD: a value of
    another type than the attribute has, or with control characters, as a sequence without a type
    has them (it would bring other attributes along); bytes that are none in the character set or
    have none, characters that cannot be printed, and the end of a text that is cut.
    """
    if keyword not in dataset:
        return ""
    raw = dataset.get_item(keyword)  # before pydicom decodes it
    try:
        element = dataset[keyword]
    except Exception:  # parsers raise anything; the picture may be fine
        return UNCERTAIN
    value = element.value
    kinds = {*pydicom.datadict.dictionary_VR(keyword).split(" or "), "UN"}
    if element.VR not in kinds or raw.VR not in {*kinds, None} or isinstance(value, bytes):
        return UNCERTAIN
    if isinstance(raw.value, bytes) and raw.value.startswith(_ITEM):
        return UNCERTAIN
    if value is None:
        return ""
    several = not isinstance(value, str) and isinstance(value, Sequence)
    text = SEVERAL.join(str(one).strip() for one in (value if several else [value]))
    if element.VR in _PROSE:
        text = " ".join(text.split())
    if _BINARY.search(text):
        return UNCERTAIN
    if len(text) > _LONGEST_TEXT:
        text = text[: _LONGEST_TEXT - 1] + UNCERTAIN
    unknown = _has_unknown(raw, dataset, pydicom)
    return "".join(
        letter if _is_plain(letter) and not (unknown and ord(letter) > 127) else UNCERTAIN
        for letter in text
    )


def _has_unknown(raw: Any, dataset: Any, pydicom: Any) -> bool:
    """Whether an element has bytes of no character set that it names; pydicom makes them Latin-1.

    That may be so also after an escape sequence: it may name a set of 7 bits only, and its effect
    ends with a part of a name, a line or a value.
    """
    content = raw.value if isinstance(raw.value, bytes) else b""
    encodings = pydicom.charset.convert_encodings(dataset.get("SpecificCharacterSet"))
    default = encodings[0] == pydicom.charset.default_encoding  # ASCII, or an unknown one
    first, *escaped = content.split(b"\x1b")
    loose = [part for part in escaped if part.startswith(_ONLY_7_BITS)]
    if default:
        loose += [first, *(after for part in escaped for after in _RESET.split(part, 1)[1:])]
    return not all(map(bytes.isascii, loose))


def _is_plain(letter: str) -> bool:
    return letter.isprintable() or unicodedata.category(letter) == "Zs"  # such as a wide blank
