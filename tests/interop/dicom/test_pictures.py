"""Heat maps and captures as DICOM objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import highdicom as hd
import numpy as np
import pytest
from highdicom.pm.sop import pmread
from pydicom.dataset import Dataset

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.dicom.capture import capture, image_object
from bcd.interop.dicom.heatmap import parametric_map, segmentation
from bcd.interop.dicom.making import encoded
from bcd.interop.dicom.source import Source, source_of_file
from tests.helpers.validating import dicom_errors, read_again
from tests.interop.dicom.making import (
    ANONYMOUS,
    AT,
    COLUMNS,
    DENSITY,
    EVIDENCE,
    KEPT,
    OF_FILE,
    PIXELS,
    PRODUCER,
    ROWS,
    SOURCES,
)

Make = Callable[[Source], Dataset]

MASK = DENSITY > 0.9
MAKERS: dict[str, Make] = {
    "parametric": lambda s: parametric_map(PRODUCER, s, EVIDENCE, DENSITY, AT),
    "segmentation": lambda s: segmentation(PRODUCER, s, EVIDENCE, MASK, 0.1, AT),
    "nowhere": lambda s: segmentation(PRODUCER, s, EVIDENCE, np.zeros_like(MASK), 0.1, AT),
    "no evidence": lambda s: parametric_map(PRODUCER, s, EVIDENCE, DENSITY * 0, AT),
    "capture": lambda s: capture(PRODUCER, s, EVIDENCE, PIXELS, AT),
    "image": lambda s: image_object(PRODUCER, s, PIXELS, AT),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_it_is_valid_and_the_same_again(make: Make, source: Source, tmp_path: Path) -> None:
    data = encoded(make(source))
    assert encoded(make(source)) == data
    assert dicom_errors(data, tmp_path) == []


def test_uids_tell_objects_apart() -> None:
    made = [make(source) for make in MAKERS.values() for source in SOURCES.values()]
    assert len({one.SOPInstanceUID for one in made}) == len(made)
    image = MAKERS["image"](ANONYMOUS)
    assert image.SOPInstanceUID == ANONYMOUS.sop_uid  # what the others refer to
    assert {one.StudyInstanceUID for one in made} == {s.study_uid for s in SOURCES.values()}
    # A file whose patient was corrected: one UID must not be two patients' objects.
    other = replace(OF_FILE, attributes={**OF_FILE.attributes, "IssuerOfPatientID": "other"})
    again = [make(other) for name, make in MAKERS.items() if name != "image"]
    assert not {one.SOPInstanceUID for one in again} & {one.SOPInstanceUID for one in made}


def test_a_parametric_map_has_the_values_and_says_what_they_are() -> None:
    data = encoded(MAKERS["parametric"](OF_FILE))
    read = pmread(BytesIO(data))
    assert isinstance(read, hd.pm.ParametricMap)
    again = read_again(data)
    assert np.array_equal(again.pixel_array.reshape(ROWS, COLUMNS), DENSITY)
    shared = again.SharedFunctionalGroupsSequence[0]
    (mapping,) = shared.RealWorldValueMappingSequence
    assert mapping.RealWorldValueSlope == 1 and mapping.RealWorldValueIntercept == 0
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.01, 0.02]
    assert "occlusion" in again.ContentDescription and again.ContentQualification == "RESEARCH"
    (derivation,) = again.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence
    (source,) = derivation.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == KEPT["SOPInstanceUID"]
    assert source.ReferencedSOPClassUID == KEPT["SOPClassUID"]
    assert source.ReferencedFrameNumber == 3


def test_an_unknown_size_of_pixels_is_told() -> None:
    made = MAKERS["parametric"](ANONYMOUS)
    assert made.ContentDescription.startswith("Size of pixels unknown")
    wrong = source_of_file(KEPT | {"PixelSpacing": "0\\x"}, ROWS, COLUMNS, None, "s", "p")
    assert MAKERS["parametric"](wrong).ContentDescription == made.ContentDescription


def test_a_smaller_map_covers_the_same_place() -> None:
    half = np.ones((ROWS // 2, COLUMNS // 2), np.float32)
    made = parametric_map(PRODUCER, OF_FILE, EVIDENCE, half, AT)
    spacing = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    assert [float(one) for one in spacing] == pytest.approx([0.02, 0.04])


def test_a_segmentation_marks_the_mask() -> None:
    read = hd.seg.segread(BytesIO(encoded(MAKERS["segmentation"](OF_FILE))))
    assert np.array_equal(read.pixel_array.reshape(ROWS, COLUMNS).astype(bool), MASK)
    segment = read.get_segment_description(1)
    assert segment.SegmentLabel.startswith("10%")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert PRODUCER.sha256 in algorithm.AlgorithmParameters
    nothing = read_again(encoded(MAKERS["nowhere"](OF_FILE)))
    assert nothing.NumberOfFrames == 1 and not nothing.pixel_array.any()


@pytest.mark.parametrize("flag", ["YES", "NO", ""])
def test_a_capture_has_the_picture_unchanged_and_text_below_it(flag: str) -> None:
    source = source_of_file(KEPT | {"BurnedInAnnotation": flag}, ROWS, COLUMNS, 3, "s", "p")
    made = read_again(encoded(MAKERS["capture"](source)))
    shown = made.pixel_array
    assert np.array_equal(shown[:ROWS], PIXELS) and shown[ROWS:].any()
    assert made.get("BurnedInAnnotation", "") == flag
    assert DISCLAIMER in made.DerivationDescription and made.ImageType[0] == "DERIVED"
    (item,) = made.SourceImageSequence
    assert item.ReferencedFrameNumber == 3


def test_an_image_has_its_pixels_and_every_object_the_disclaimer() -> None:
    image = read_again(encoded(MAKERS["image"](ANONYMOUS)))
    assert np.array_equal(image.pixel_array, PIXELS)
    for make in MAKERS.values():
        assert make(ANONYMOUS).ImageComments == DISCLAIMER
