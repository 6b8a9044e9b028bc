"""DICOM files made of pixels, in any transfer syntax and colours, and ones full of names."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import get_encoder
from pydicom.sequence import Sequence
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
    generate_uid,
)

Pixels = NDArray[np.uint8]
Change = Callable[[Dataset], object]

MICROSCOPIC = "1.2.840.10008.5.1.4.1.1.77.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"

SYNTAXES = {
    "implicit": ImplicitVRLittleEndian, "explicit": ExplicitVRLittleEndian,
    "big endian": ExplicitVRBigEndian, "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless, "jpeg": JPEGBaseline8Bit, "jpeg extended": JPEGExtended12Bit,
    "jpeg lossless": JPEGLosslessSV1,
    "jpeg-ls": JPEGLSLossless, "jpeg-ls near": JPEGLSNearLossless, "jpeg 2000": JPEG2000Lossless,
    "jpeg 2000 lossy": JPEG2000, "htj2k": HTJ2KLossless, "htj2k lossy": HTJ2K,
}  # fmt: skip
NATIVE = ("implicit", "explicit", "big endian", "deflated")
LOSSLESS = (*NATIVE, "rle", "jpeg lossless", "jpeg-ls", "jpeg 2000", "htj2k")


@dataclass(frozen=True)
class Made:
    """A DICOM file.

    Attributes:
        data: Its bytes.
        shown: What its pictures look like, RGB, (frames, height, width, 3), if it is lossless.
    """

    data: bytes
    shown: Pixels


def make_dicom(
    pixels: NDArray[Any],
    syntax: str = "explicit",
    colours: str = "RGB",
    *,
    planar: int = 0,
    bits: int = 8,
    kind: str = MICROSCOPIC,
    change: Change | None = None,
) -> Made:
    """Makes a DICOM file.

    Args:
        pixels: RGB, (height, width, 3) or (frames, height, width, 3). For grey, the green samples
            are taken. Values have `bits` bits.
        syntax: One of `SYNTAXES`. With `jpeg`, frames are what `jpeg_of` gives.
        colours: Photometric interpretation.
        planar: Planar configuration of native samples.
        bits: Bits stored.
        kind: UID of the SOP class.
        change: Changes the data set before it is written.
    """
    frames = pixels[None] if pixels.ndim == 3 else pixels
    dataset = empty(syntax, kind)
    dataset.Rows, dataset.Columns = frames.shape[1:3]
    if len(frames) > 1:
        dataset.NumberOfFrames = len(frames)
    dataset.BitsAllocated, dataset.BitsStored = (8 if bits <= 8 else 16), bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.PhotometricInterpretation = colours
    stored, shown = _stored(frames, colours, bits, dataset)
    dataset.SamplesPerPixel = 3 if stored.ndim == 4 else 1
    if stored.ndim == 4:
        dataset.PlanarConfiguration = planar
    _put_pixels(dataset, frames if syntax == "jpeg" and stored.ndim == 4 else stored, syntax)
    if change is not None:
        change(dataset)
    return Made(written(dataset), shown)


def empty(syntax: str, kind: str = MICROSCOPIC) -> Dataset:
    """A data set with meta information and UIDs, and nothing else."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = SYNTAXES[syntax]
    return dataset


def written(dataset: Dataset) -> bytes:
    """A data set as the bytes of a file."""
    meta = dataset.file_meta
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def jpeg_of(pixels: Pixels, **options: Any) -> bytes:
    """A JPEG file of RGB or grey pixels."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **({"quality": 90} | options))
    return stream.getvalue()


def _stored(
    frames: NDArray[Any], colours: str, bits: int, dataset: Dataset
) -> tuple[NDArray[Any], Pixels]:
    """Samples as stored, and how they look."""
    if colours in ("RGB", "YBR_RCT", "YBR_ICT"):
        return frames, (frames >> bits - 8).astype(np.uint8)
    if colours.startswith("YBR_FULL"):
        ycc = np.stack([np.asarray(Image.fromarray(one).convert("YCbCr")) for one in frames])
        if colours == "YBR_FULL_422":
            ycc[:, :, 1::2, 1:] = ycc[:, :, ::2, 1:]
        images = [Image.fromarray(one, "YCbCr").convert("RGB") for one in ycc]
        return ycc, np.stack([np.asarray(image) for image in images])
    if colours == "PALETTE COLOR":
        first = Image.fromarray(frames[0]).quantize(200)
        images = [
            Image.fromarray(one).quantize(palette=first, dither=Image.Dither.NONE) for one in frames
        ]
        table = np.zeros((256, 3), np.uint8)
        known = np.array(first.getpalette(), np.uint8).reshape(-1, 3)
        table[: len(known)] = known
        for name, values in zip(("Red", "Green", "Blue"), table.T, strict=True):
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            words = (values.astype("<u2") << 8).astype(_order(dataset))
            setattr(dataset, f"{name}PaletteColorLookupTableData", words.tobytes())
        stored = np.stack([np.asarray(image) for image in images])
        return stored, table[stored]
    grey = frames[..., 1]
    seen = (grey >> max(bits - 8, 0)).astype(np.uint8)  # not stretched, if there are fewer bits
    if colours == "MONOCHROME1":
        return (1 << bits) - 1 - grey, np.repeat(seen[..., None], 3, 3)
    return grey, np.repeat(seen[..., None], 3, 3)


def _order(dataset: Dataset) -> str:
    return "<u2" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">u2"


def _put_pixels(dataset: Dataset, stored: NDArray[Any], syntax: str) -> None:
    if syntax not in NATIVE:
        frames = [_encoded(one, syntax, dataset) for one in stored]
        dataset.PixelData = encapsulate(frames)
        dataset["PixelData"].VR = "OB"
        return
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        luma = stored[..., 0].reshape(*stored.shape[:2], -1, 2)
        stored = np.concatenate([luma, stored[:, :, ::2, 1:]], axis=3)
    elif stored.ndim == 4 and dataset.PlanarConfiguration == 1:
        stored = stored.transpose(0, 3, 1, 2)
    wide = stored.dtype.itemsize > 1
    data = (stored.astype(_order(dataset)) if wide else stored).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OW" if wide or syntax == "implicit" else "OB"


def _encoded(frame: NDArray[Any], syntax: str, dataset: Dataset) -> bytes:
    if syntax in ("jpeg", "jpeg extended"):
        return jpeg_of(frame.astype(np.uint8))
    if syntax in ("rle", "jpeg-ls", "jpeg-ls near"):
        options = {
            "rows": frame.shape[0], "columns": frame.shape[1], "number_of_frames": 1,
            "samples_per_pixel": 3 if frame.ndim == 3 else 1, "planar_configuration": 0,
            "photometric_interpretation": dataset.PhotometricInterpretation,
            "bits_allocated": dataset.BitsAllocated, "bits_stored": dataset.BitsStored,
            "pixel_representation": 0, "jls_error": 2 if syntax == "jpeg-ls near" else 0,
        }  # fmt: skip
        plugin = "pydicom" if syntax == "rle" else "pyjpegls"
        encoder = get_encoder(SYNTAXES[syntax])
        return bytes(encoder.encode(frame, encoding_plugin=plugin, **options))
    import imagecodecs

    bits, frame = dataset.BitsStored, np.ascontiguousarray(frame)
    if syntax == "jpeg lossless":
        return bytes(imagecodecs.ljpeg_encode(frame, bitspersample=bits))
    if syntax.startswith("htj2k"):
        return bytes(imagecodecs.htj2k_encode(frame, reversible=syntax == "htj2k"))
    reversible = syntax == "jpeg 2000"
    mct = dataset.PhotometricInterpretation in ("YBR_RCT", "YBR_ICT")
    return bytes(imagecodecs.jpeg2k_encode(
        frame, level=0 if reversible else 40, reversible=reversible, codecformat="j2k", mct=mct,
        bitspersample=bits,
    ))  # fmt: skip


_IDENTIFYING = [
    "PatientName", "PatientID", "OtherPatientNames", "PatientBirthName",
    "PatientMotherBirthName", "PatientBirthDate", "PatientBirthTime", "PatientAddress",
    "PatientTelephoneNumbers", "PatientComments", "IssuerOfPatientID", "MilitaryRank",
    "EthnicGroup", "Occupation", "AdditionalPatientHistory", "MedicalRecordLocator",
    "PatientReligiousPreference", "PatientInsurancePlanCodeSequence", "AccessionNumber",
    "StudyID", "StudyDescription", "SeriesDescription", "StudyDate", "SeriesDate", "StudyTime",
    "ContentDate", "AcquisitionDateTime", "InstitutionName", "InstitutionAddress",
    "InstitutionalDepartmentName", "ReferringPhysicianName", "ReferringPhysicianAddress",
    "ReferringPhysicianTelephoneNumbers", "PhysiciansOfRecord", "PerformingPhysicianName",
    "OperatorsName", "RequestingPhysician", "RequestingService", "StationName",
    "DeviceSerialNumber", "DeviceUID", "SoftwareVersions", "ProtocolName", "ImageComments",
    "RequestAttributesSequence", "ReferencedStudySequence", "OriginalAttributesSequence",
    "ContainerIdentifier", "SpecimenDescriptionSequence", "AdmissionID",
    "CurrentPatientLocation", "FrameOfReferenceUID", "SynchronizationFrameOfReferenceUID",
]  # fmt: skip


def identified(data: bytes) -> tuple[bytes, list[str]]:
    """Adds attributes that name a person or a place to a DICOM file, each with its own value.

    There are more than fifty, also in nested sequences, in private tags and in the file's meta
    information.

    Returns:
        The file, and all values, to be searched for.
    """
    dataset = dcmread(io.BytesIO(data))
    values: list[str] = []
    for number, keyword in enumerate(_IDENTIFYING):
        if keyword.endswith("Sequence"):
            setattr(dataset, keyword, [_named_item(number, values)])
        else:
            setattr(dataset, keyword, _value(keyword, number, values))
    block = dataset.private_block(0x0009, "leak-private-creator-qzxv", create=True)
    values.append("leak-private-creator-qzxv")
    for offset, vr in enumerate(("LO", "UT", "UN")):
        values.append(f"leak-private-{offset}-qzxv")
        block.add_new(offset, vr, values[-1].encode() if vr == "UN" else values[-1])
    block.add_new(9, "SQ", Sequence([_named_item(90, values)]))
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        values.append(str(getattr(dataset, keyword)))
    dataset.file_meta.SourceApplicationEntityTitle = "LEAKSOURCEQZXV"
    dataset.preamble = b"leak-preamble-qzxv".ljust(128, b"\0")
    values += ["LEAKSOURCEQZXV", "leak-preamble-qzxv"]
    assert len(values) == len(set(values)) > 50
    return written(dataset), values


def _named_item(number: int, values: list[str]) -> Dataset:
    """An item with a name, and one in a sequence of it."""
    inner, outer = Dataset(), Dataset()
    inner.PersonName = f"Leak{number}Inner^Qzxv"
    outer.PatientName = f"Leak{number}Outer^Qzxv"
    outer.PersonIdentificationCodeSequence = Sequence([inner])
    values += [str(inner.PersonName), str(outer.PatientName)]
    return outer


def _value(keyword: str, number: int, values: list[str]) -> str:
    made = {
        "PN": f"Leak{number}Name^Qzxv", "SH": f"leak-{number}-qzxv", "DA": f"18{number:02d}1231",
        "TM": f"2359{number:02d}.{number:02d}7391", "DT": f"18{number:02d}1130235959.{number:02d}7",
        "UI": f"1.2.826.0.1.3680043.8.498.{number}7391",
    }  # fmt: skip
    values.append(made.get(dictionary_VR(keyword), f"leak-{number}-{keyword[:20]}-qzxv"))
    return values[-1]
