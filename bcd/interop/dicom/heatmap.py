"""Heat maps of where the evidence for a class is: a parametric map, or a segmentation."""

from __future__ import annotations

from datetime import datetime

import highdicom as hd
import numpy as np
from highdicom.pm import ParametricMap, RealWorldValueMapping
from highdicom.seg import (
    SegmentAlgorithmTypeValues,
    Segmentation,
    SegmentationTypeValues,
    SegmentDescription,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DS

from bcd.interop.codes import EVIDENCE, MOST_EVIDENCE
from bcd.interop.dicom.content import Evidence, Producer, derived_uid
from bcd.interop.dicom.making import algorithm, coded, equipment, finish, method_name, one_line
from bcd.interop.dicom.source import Source, content_sha256, header, refer, series_of

FORMS = ("parametric", "segmentation")
_EVIDENCE_SERIES = {"parametric": 9001, "segmentation": 9002}


def parametric_map(
    producer: Producer,
    source: Source,
    evidence: Evidence,
    density: NDArray[np.float32],
    at: datetime,
) -> Dataset:
    """A heat map as Parametric Map, float32.

    The object needs a frame of reference and a size of pixels. The frame is that of this picture
    alone. If the size is unknown, it is stated as 1 mm, and the content description says that it
    is not calibrated.

    Args:
        producer: The model.
        source: The picture.
        evidence: What the map shows.
        density: In the picture's frame, (rows, columns): 1 everywhere if the evidence were spread
            evenly.
        at: When it was made.

    Raises:
        ObjectError: The patient or the study of the source cannot be written.
    """
    known = _placed(source, density.shape)
    unknown = "" if source.spacing else "Size of pixels unknown. "
    mapping = RealWorldValueMapping(
        lut_label="EVIDENCE",
        lut_explanation=_described(evidence),
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, float(density.max())),
        slope=1,
        intercept=0,
        quantity_definition=coded(EVIDENCE),
    )
    most = max(float(density.max()), 1.0)
    made = ParametricMap(
        source_images=[known],
        pixel_array=np.ascontiguousarray(density, np.float32),
        series_instance_uid=series_of(source, "parametric", producer.sha256),
        series_number=_EVIDENCE_SERIES["parametric"],
        sop_instance_uid=_own_uid("parametric", source, producer, evidence, density),
        instance_number=1,
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[
            hd.VOILUTTransformation(window_center=most / 2, window_width=most)
        ],
        content_label="EVIDENCE",
        content_description=one_line(f"{unknown}{_described(evidence)}"),
        **equipment(producer),
    )
    finish(made, source, at)
    refer(made, [source])
    return made


def segmentation(
    producer: Producer,
    source: Source,
    evidence: Evidence,
    mask: NDArray[np.bool_],
    share: float,
    at: datetime,
) -> Dataset:
    """The places with the most evidence as binary Segmentation.

    Args:
        producer: The model.
        source: The picture.
        evidence: What the map shows.
        mask: In the picture's frame, (rows, columns); may be empty.
        share: Of the picture that is marked at most.
        at: When it was made.

    Raises:
        ObjectError: The patient or the study of the source cannot be written.
    """
    known = header(source)
    known.Rows, known.Columns = mask.shape
    segment = SegmentDescription(
        segment_number=1,
        segment_label=one_line(f"{share:.0%} with most evidence for {evidence.target}"),
        segmented_property_category=codes.cid7150.SpatialAndRelationalConcept,
        segmented_property_type=coded(MOST_EVIDENCE),
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm(producer, evidence),
        tracking_uid=derived_uid("segment", source.key, producer.sha256, *_words(evidence)),
        tracking_id="evidence",
    )
    made = Segmentation(
        source_images=[known],
        pixel_array=mask.astype(np.uint8),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=series_of(source, "segmentation", producer.sha256),
        series_number=_EVIDENCE_SERIES["segmentation"],
        sop_instance_uid=_own_uid("segmentation", source, producer, evidence, mask),
        instance_number=1,
        content_label="EVIDENCE",
        content_description=_described(evidence),
        omit_empty_frames=False,
        **equipment(producer),
    )
    finish(made, source, at)
    refer(made, [source])
    return made


def _placed(source: Source, shape: tuple[int, ...]) -> Dataset:
    """The header of the source in a frame of reference of its own, with the size of the map."""
    known = header(source)
    rows, columns = shape
    high, wide = source.spacing or (1.0, 1.0)
    known.PixelSpacing = [
        DS(value, auto_format=True)
        for value in (high * source.rows / rows, wide * source.columns / columns)
    ]
    known.Rows, known.Columns = rows, columns
    known.FrameOfReferenceUID = derived_uid("frame of reference", source.key)
    known.PositionReferenceIndicator = ""
    known.ImagePositionPatient, known.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    known.SliceThickness = 1
    return known


def _described(evidence: Evidence) -> str:
    return one_line(f"{method_name(evidence)}: evidence for {evidence.target}")


def _words(evidence: Evidence) -> tuple[str, str]:
    return evidence.target, evidence.method


def _own_uid(
    kind: str, source: Source, producer: Producer, evidence: Evidence, values: NDArray[np.generic]
) -> str:
    content = content_sha256(np.ascontiguousarray(values).tobytes())
    words = (producer.sha256, producer.card_sha256, *_words(evidence), str(values.shape), content)
    return derived_uid(kind, source.study_uid, *source.patient, source.key, *words)
