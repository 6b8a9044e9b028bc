"""Answers as Structured Report: what comes out is what went in."""

from __future__ import annotations

import time
from io import BytesIO
from pathlib import Path
from typing import Any

import highdicom as hd
import pytest
from pydicom.dataset import Dataset

from bcd.config.disclaimer import DISCLAIMER
from bcd.interop.codes import LOCAL, LOCAL_UID, OVERRIDDEN, class_concept, probability_concept
from bcd.interop.dicom.content import Answer, ObjectError, Signed
from bcd.interop.dicom.making import encoded
from bcd.interop.dicom.source import Source, source_of_file, source_of_picture, valid_uid
from bcd.interop.dicom.structured_report import Reported, report
from tests.helpers.validating import dicom_errors, items, read_again
from tests.interop.dicom.making import (
    ANONYMOUS,
    AT,
    CLASSES,
    KEPT,
    ODD,
    OF_FILE,
    PRODUCER,
    SOURCES,
    answer,
    no_answer,
)


def made(*answers: Answer, source: Source = ANONYMOUS, **options: Any) -> bytes:
    images = [Reported(source, one) for one in answers]
    return encoded(report(PRODUCER, images, AT, key="1", **options))


def filed(**changes: str) -> Source:
    """A source whose file has other attributes than `KEPT`."""
    return source_of_file(KEPT | changes, 10, 10, None, "study", "picture")


def codes_of(dataset: Dataset) -> list[tuple[str, str]]:
    """Name and code value of each coded item."""
    return [(name, item.ConceptCodeSequence[0].CodeValue) for name, item in items(dataset, "CODE")]


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("signed", [None, Signed("ädä^\\=x", AT)], ids=["unsigned", "signed"])
def test_it_is_valid(source: Source, signed: Signed | None, tmp_path: Path) -> None:
    data = made(answer(), answer(number=2, finding="Benign"), source=source, signed=signed)
    assert dicom_errors(data, tmp_path) == []


def test_a_report_without_any_answer_is_valid(tmp_path: Path) -> None:
    data = made(no_answer())
    assert dicom_errors(data, tmp_path) == []
    dataset = read_again(data)
    assert ("No answer by the model", "cannot be decoded") in [
        (name, item.TextValue) for name, item in items(dataset, "TEXT")
    ]
    assert not list(items(dataset, "NUM"))


def test_it_says_what_the_answer_says() -> None:
    given = answer(finding="Benign", overridden=True)
    dataset = read_again(made(given))
    numbers = {name: item.MeasuredValueSequence[0] for name, item in items(dataset, "NUM")}
    for name, value in zip(CLASSES, given.probabilities, strict=True):
        meaning = probability_concept(name).meaning.replace("\\", "/")
        assert float(numbers[meaning].NumericValue) == value
        assert numbers[meaning].MeasurementUnitsCodeSequence[0].CodeValue == "1"
    assert len(numbers) == len(CLASSES) + 1  # and the out-of-distribution score
    said = codes_of(dataset)
    assert ("Class given by the model", class_concept("Pre-B").code) in said
    members = [code for name, code in said if name.startswith("Class in the conformal")]
    assert members == [class_concept(name).code for name in given.prediction_set]
    assert ("Referred to a person", "373066001") in said  # yes
    assert len([name for name, _ in said if name.startswith("Reason for")]) == len(given.reasons)
    assert ("Finding of a person", class_concept("Benign").code) in said
    assert (OVERRIDDEN.meaning, "373066001") in said
    empty = codes_of(read_again(made(answer(prediction_set=()))))
    assert [code for name, code in empty if name.startswith("Class in the")] == ["empty-set"]
    texts = [item.TextValue for _, item in items(dataset, "TEXT")]
    assert DISCLAIMER in texts and given.sha256 in texts
    assert f"model_sha256={PRODUCER.sha256}" in texts and PRODUCER.version in texts


def test_another_reader_finds_groups_and_measurements() -> None:
    read = hd.sr.srread(BytesIO(made(answer(), no_answer(number=2))))
    assert isinstance(read.content, hd.sr.MeasurementReport)
    groups = read.content.get_image_measurement_groups()
    assert [len(group.get_measurements()) for group in groups] == [len(CLASSES) + 1, 0]
    assert [group.tracking_identifier for group in groups] == ["Image 1", "Image 2"]


def test_it_is_verified_only_if_signed() -> None:
    open_one, signed = (read_again(made(answer(), signed=s)) for s in (None, Signed("ada", AT)))
    assert (open_one.VerificationFlag, open_one.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "VerifyingObserverSequence" not in open_one
    assert (signed.VerificationFlag, signed.PreliminaryFlag) == ("VERIFIED", "FINAL")
    (observer,) = signed.VerifyingObserverSequence
    assert str(observer.VerifyingObserverName).rstrip("^") == "ada"
    assert observer.VerificationDateTime == AT.strftime("%Y%m%d%H%M%S.%f%z")


def test_equal_contents_give_equal_bytes_and_others_other_uids() -> None:
    assert made(answer()) == made(answer())
    images = [Reported(ANONYMOUS, answer())]
    keys = [report(PRODUCER, images, AT, key=key).SOPInstanceUID for key in ("1", "2", "1")]
    assert keys[0] == keys[2] != keys[1] and all(map(valid_uid, keys))


def test_it_refers_to_frames_of_the_file_and_joins_its_study() -> None:
    second = source_of_file(KEPT, 10, 10, 7, "study", "other")
    images = [Reported(OF_FILE, answer()), Reported(second, answer(number=2))]
    dataset = read_again(encoded(report(PRODUCER, images, AT, key="1")))
    referred = [item.ReferencedSOPSequence[0] for _, item in items(dataset, "IMAGE")]
    assert [one.ReferencedFrameNumber for one in referred] == [3, 7]
    assert {one.ReferencedSOPInstanceUID for one in referred} == {KEPT["SOPInstanceUID"]}
    assert {one.ReferencedSOPClassUID for one in referred} == {KEPT["SOPClassUID"]}
    assert dataset.StudyInstanceUID == KEPT["StudyInstanceUID"]
    assert str(dataset.PatientName) == KEPT["PatientName"]
    assert dataset.StudyDescription == KEPT["StudyDescription"]
    (study,) = dataset.CurrentRequestedProcedureEvidenceSequence
    assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == KEPT["SeriesInstanceUID"]


def test_frames_of_a_class_that_has_only_one_are_referred_to_as_images_of_their_own() -> None:
    """No `ReferencedFrameNumber` is valid then; some writers make such files all the same."""
    microscopic = KEPT | {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.2"}
    sources = [source_of_file(microscopic, 10, 10, 2, "study", f"{n}") for n in range(2)]
    assert not any(source.exists for source in sources)
    assert len({KEPT["SOPInstanceUID"], *(source.sop_uid for source in sources)}) == 3
    assert {source.study_uid for source in sources} == {KEPT["StudyInstanceUID"]}
    assert source_of_file(microscopic, 10, 10, None, "study", "0").exists


def test_times_with_those_of_a_source_are_local(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = source_of_file(KEPT | {"StudyTime": "101112"}, 10, 10, None, "study", "picture")
    monkeypatch.setenv("TZ", "HERE-2")  # two hours before UTC
    time.tzset()
    try:
        zones = [read_again(made(answer(), source=source)) for source in (ANONYMOUS, kept)]
    finally:
        monkeypatch.undo()
        time.tzset()
    assert [one.get("TimezoneOffsetFromUTC") for one in zones] == [AT.strftime("%z"), None]
    hours = [int(one.ContentTime[:2]) for one in zones]
    assert zones[1].StudyTime == "101112" and hours == [AT.hour, AT.hour + 2]


def test_settings_of_a_site_are_parameters_of_the_algorithm() -> None:
    texts = [
        [item.TextValue for _, item in items(read_again(made(one)), "TEXT")]
        for one in (answer(), answer(settings={"site_threshold": "0.25"}, note="Called from 0.25"))
    ]
    added = [text for text in texts[1] if text not in texts[0]]
    assert added == ["site_threshold=0.25", "Called from 0.25"]


def test_no_report_is_about_two_patients() -> None:
    other = source_of_file(KEPT | {"PatientID": "P-18"}, 10, 10, None, "study", "other")
    images = [Reported(OF_FILE, answer()), Reported(other, answer(number=2))]
    with pytest.raises(ObjectError, match="different patients"):
        report(PRODUCER, images, AT, key="1")


def test_a_source_with_wrong_values_is_refused_or_goes_without_them() -> None:
    wrong = KEPT | {"PatientID": "P\n" + "1" * 80}
    source = source_of_file(wrong, 10, 10, None, "study", "picture")
    with pytest.raises(ObjectError) as refused:
        made(answer(), source=source)
    assert "P\n1" not in str(refused.value) and "PatientID" in str(refused.value)
    # As headers are read with two values, with one that is empty, and with unknown characters.
    for uncertain in ("P-17; P-18", "P-17;", "P\ufffd-17"):
        with pytest.raises(ObjectError, match="PatientID"):
            made(answer(), source=filed(PatientID=uncertain))
    assert not read_again(made(answer(), source=filed(PatientName="M\ufffdller"))).PatientName
    described = filed(StudyDescription="smear; blood", PatientName="A^B; C^D")
    dataset = read_again(made(answer(), source=described))
    assert dataset.StudyDescription == "smear; blood" and not dataset.PatientName
    odd = KEPT | {"StudyDate": "yesterday", "SOPInstanceUID": "1.2.x"}
    dataset = read_again(made(answer(), source=source_of_file(odd, 10, 10, None, "s", "p")))
    assert not dataset.StudyDate and dataset.StudyInstanceUID == KEPT["StudyInstanceUID"]
    (image,) = [item for _, item in items(dataset, "IMAGE")]
    assert valid_uid(image.ReferencedSOPSequence[0].ReferencedSOPInstanceUID)


def test_private_codes_are_well_formed_and_tell_classes_apart() -> None:
    dataset = read_again(made(answer(finding=ODD)))
    (scheme,) = dataset.CodingSchemeIdentificationSequence
    assert (scheme.CodingSchemeDesignator, scheme.CodingSchemeUID) == (LOCAL, LOCAL_UID)
    seen = [element for element in dataset.iterall() if element.keyword == "CodeValue"]
    assert seen and all(0 < len(element.value) <= 16 for element in seen)
    names = [*CLASSES, "Pre-B ", "Pro-B", "\\", "/"]
    assert len({probability_concept(name).code for name in names}) == len(names)


def test_an_anonymous_report_has_nothing_of_a_person() -> None:
    source = source_of_picture("case", "image", 10, 10, {"PatientID": "case"})
    dataset = read_again(made(answer(), source=source))
    assert dataset.PatientID == "case"
    named = ("PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyDate")
    assert not any(dataset.get(keyword) for keyword in named)
