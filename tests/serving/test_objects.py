"""Cases as DICOM objects: anonymous, or with the attributes that are kept; final when signed."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bcd.config.disclaimer import DISCLAIMER
from bcd.data.matching import Match
from bcd.serving.engine.sites import Way
from bcd.serving.records.store import Records
from bcd.serving.reports import objects
from bcd.serving.reports.objects_content import answer_of, patient_of, source_of
from tests.helpers.dicom import identified, make_dicom
from tests.helpers.validating import dicom_errors, items, read_again
from tests.serving.making import SIDE, no_smear, smear
from tests.serving.running import Running, running

UIDS = "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,SOPClassUID"
KEEP = f"PatientID,IssuerOfPatientID,StudyTime,{UIDS}"
TRUE_COLOUR = "1.2.840.10008.5.1.4.1.1.7.4"  # several frames
PICTURES = ("heatmap.dcm", "heatmap.dcm?form=segmentation", "capture.dcm")


def pixels(number: int = 0) -> Any:
    return np.asarray(Image.open(io.BytesIO(smear(number))))


def opened(served: Running, *files: bytes) -> tuple[str, list[str]]:
    """A case with images, which a person has looked at, and their ids."""
    case = served.all.post("/v1/cases", json={"label": "Müller"}).json()["id"]
    sent = [("images", (f"Müller {number}", file)) for number, file in enumerate(files)]
    added = served.all.post(f"/v1/cases/{case}/images", files=sent)
    assert added.status_code == 201, added.text
    ids = [one["id"] for one in added.json()["images"]]
    for image in ids:
        review = {"finding": "Unidentified", "remark": "Müller again"}
        path = f"/v1/cases/{case}/images/{image}/review"
        assert served.all.post(path, json=review).status_code == 204
    return case, ids


def of_patient(picture: Any, number: str, issuer: str = "", **kind: Any) -> bytes:
    """A DICOM file of a patient."""

    def name(file: Any) -> None:
        file.PatientID = number
        if issuer:
            file.IssuerOfPatientID = issuer

    return make_dicom(picture, change=name, **kind).data


def sign(served: Running, case: str) -> None:
    version = served.all.get(f"/v1/cases/{case}").json()["version"]
    signed = served.all.post(f"/v1/cases/{case}/sign", json={"version": version})
    assert signed.status_code == 204


def fetched(served: Running, path: str) -> bytes:
    got = served.all.get(path)
    assert got.status_code == 200, got.text
    assert got.headers["content-type"] == "application/dicom"
    assert got.headers["x-disclaimer"] == DISCLAIMER
    return bytes(got.content)


@pytest.fixture(scope="module")
def keeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server that keeps what files DICOM objects."""
    with running(tmp_path_factory.mktemp("keeping"), f"dicom.keep=[{KEEP}]") as app:
        yield app


def test_objects_of_uploads_name_nobody(served: Running, tmp_path: Path) -> None:
    file, values = identified(make_dicom(pixels()).data)
    case, (image, _) = opened(served, file, no_smear())
    here = f"/v1/cases/{case}"
    paths = [f"{here}/report.dcm", f"{here}/images/{image}/image.dcm"]
    paths += [f"{here}/images/{image}/{name}" for name in PICTURES]
    uids = set()
    for path in paths:
        data = fetched(served, path)
        assert dicom_errors(data, tmp_path) == [] and fetched(served, path) == data
        assert not [value for value in (*values, "Müller") if value.encode() in data]
        made = read_again(data)
        assert made.PatientID == case and not made.PatientName
        uids.add(made.StudyInstanceUID)
    assert len(uids) == 1


def test_references_lead_to_the_image(served: Running) -> None:
    case, (image,) = opened(served, smear(1))
    here = f"/v1/cases/{case}/images/{image}"
    own = read_again(fetched(served, f"{here}/image.dcm"))
    assert np.array_equal(own.pixel_array, pixels(1))
    report = read_again(fetched(served, f"/v1/cases/{case}/report.dcm"))
    ((_, referred),) = items(report, "IMAGE")
    assert referred.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == own.SOPInstanceUID
    capture = read_again(fetched(served, f"{here}/capture.dcm"))
    assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == own.SOPInstanceUID
    density = read_again(fetched(served, f"{here}/heatmap.dcm"))
    assert (density.Rows, density.Columns) == (SIDE, SIDE)


def test_what_the_match_of_a_site_cuts_off_has_no_evidence(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(served.services.engine.ways, "", Way(Match(2.0, None)))
    case, (image,) = opened(served, smear(5))
    density = read_again(fetched(served, f"/v1/cases/{case}/images/{image}/heatmap.dcm"))
    found = density.pixel_array.copy()
    seen = slice(SIDE // 4, SIDE - SIDE // 4)
    assert found[seen, seen].any()
    found[seen, seen] = 0
    assert not found.any()


def test_kept_attributes_file_objects_with_the_upload(keeping: Running) -> None:
    file, _ = identified(make_dicom(pixels()).data)
    source = read_again(file)
    case, (image,) = opened(keeping, file)
    for path in ("report.dcm", f"images/{image}/heatmap.dcm"):
        made = read_again(fetched(keeping, f"/v1/cases/{case}/{path}"))
        assert made.StudyInstanceUID == source.StudyInstanceUID
        assert made.PatientID == source.PatientID and not made.PatientName
        assert str(source.SOPInstanceUID).encode() in fetched(keeping, f"/v1/cases/{case}/{path}")
    # It is in the PACS already.
    assert keeping.all.get(f"/v1/cases/{case}/images/{image}/image.dcm").status_code == 409


def test_images_without_an_id_are_of_the_patient_of_the_others(
    keeping: Running, tmp_path: Path
) -> None:
    named = identified(make_dicom(pixels()).data)[0]
    unnamed = make_dicom(pixels(1)).data
    case, (png, *_) = opened(keeping, smear(2), unnamed, b"no image", named)
    data = fetched(keeping, f"/v1/cases/{case}/report.dcm")
    assert dicom_errors(data, tmp_path) == []
    report, source = read_again(data), read_again(named)
    assert report.PatientID == source.PatientID
    assert report.StudyInstanceUID == source.StudyInstanceUID
    image = read_again(fetched(keeping, f"/v1/cases/{case}/images/{png}/image.dcm"))
    assert image.PatientID == source.PatientID
    assert image.StudyInstanceUID != source.StudyInstanceUID
    first = next(item for _, item in items(report, "IMAGE"))
    assert first.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID


@pytest.mark.parametrize("other", [("P-2", "A"), ("P-1", "B")])
def test_images_of_two_patients_name_neither_for_the_others(
    other: tuple[str, str], keeping: Running
) -> None:
    files = [of_patient(pixels(), "P-1", "A"), of_patient(pixels(1), *other)]
    case, (_, _, png) = opened(keeping, *files, smear(2))
    refused = keeping.all.get(f"/v1/cases/{case}/report.dcm")
    assert refused.status_code == 409 and "different patients" in refused.text
    for name in ("image.dcm", "capture.dcm"):
        made = read_again(fetched(keeping, f"/v1/cases/{case}/images/{png}/{name}"))
        assert (made.PatientID, "IssuerOfPatientID" in made) == (case, False)


def test_a_file_without_an_id_is_not_put_under_another_one_in_its_study(keeping: Running) -> None:
    file = make_dicom(pixels(3), change=lambda made: setattr(made, "AccessionNumber", "ACC1")).data
    source, found = read_again(file), []
    for _ in range(2):
        case, (image,) = opened(keeping, file)
        here = f"/v1/cases/{case}/images/{image}"
        found.append([read_again(fetched(keeping, f"{here}/{name}")) for name in PICTURES])
        found[-1].append(read_again(fetched(keeping, f"/v1/cases/{case}/report.dcm")))
        assert {made.PatientID for made in found[-1]} == {case}
        assert len({made.StudyInstanceUID for made in found[-1]}) == 1
    assert not any(made.AccessionNumber for made in found[0])
    studies = [one[0].StudyInstanceUID for one in found]
    assert len({*studies, source.StudyInstanceUID}) == 3, "of two cases and of the file"
    uids = {made.SOPInstanceUID for made in (*found[0], *found[1])}
    assert len(uids) == 8
    added = keeping.all.post(
        f"/v1/cases/{case}/images", files=[("images", ("n", of_patient(pixels(), "P-1")))]
    )
    assert added.status_code == 201
    later = [read_again(fetched(keeping, f"{here}/{name}")) for name in PICTURES]
    assert {made.PatientID for made in later} == {"P-1"}
    assert not {made.SOPInstanceUID for made in later} & uids


def test_an_image_of_another_name_is_not_of_the_patient_of_the_others(keeping: Running) -> None:
    case = keeping.services.records.case(opened(keeping, smear(2))[0])
    number, doe = {"PatientID": "P-1"}, {"PatientID": "P-1", "PatientName": "Doe"}
    unread = {"PatientName": "M\ufffdller"}  # Müller or Möller
    for others, name, expected in (
        ((number, doe), {}, "P-1"),
        ((number, doe), {"PatientName": "Doe"}, "P-1"),
        ((number, doe), {"PatientName": "Roe"}, case.id),
        ((number,), {"PatientName": "Roe"}, case.id),
        ((doe, number | {"PatientName": "Roe"}), {}, case.id),
        ((number | unread,), unread, case.id),
    ):
        one, *named = (replace(case.images[0], attributes=kept) for kept in (name, *others))
        for order in permutations([one, *named]):
            source = source_of(case, one, patient_of(order), 1, 1)
            assert source.attributes["PatientID"] == expected


def test_references_name_the_frame_of_a_file_of_several(keeping: Running) -> None:
    two = of_patient(np.stack([pixels(), pixels(1)]), "P-1", kind=TRUE_COLOUR)
    case, images = opened(keeping, two)
    report = read_again(fetched(keeping, f"/v1/cases/{case}/report.dcm"))
    referred = [item.ReferencedSOPSequence[0] for _, item in items(report, "IMAGE")]
    assert len(images) == 2
    assert [one.get("ReferencedFrameNumber") for one in referred] == [1, 2]


def test_reports_of_records_that_differ_have_uids_of_their_own(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, _ = opened(served, smear(2))
    records, path = served.services.records, f"/v1/cases/{case}/report.dcm"
    # The number alone is that of another record in another database, or after a restore.
    assert records.version_of(records.case(case)) == records.head()
    uids = {read_again(fetched(served, path)).SOPInstanceUID for _ in range(2)}
    monkeypatch.setattr(Records, "version_of", lambda self, case: f"{case.version}:{'0' * 64}")
    uids.add(read_again(fetched(served, path)).SOPInstanceUID)
    assert len(uids) == 2


def test_settings_of_a_site_are_those_of_the_answer(served: Running) -> None:
    case = served.services.records.case(opened(served, smear(2))[0])
    given = replace(case.images[0].answer, threshold=0.25, profile="ab" * 32)
    said = answer_of(replace(case, site="north"), replace(case.images[0], answer=given))
    assert said.settings == {
        "site": "north", "site_threshold": "0.25", "site_profile_sha256": "ab" * 32,
    }  # fmt: skip
    assert "site's threshold" in said.note and "site's profile" in said.note
    plain = answer_of(case, case.images[0])
    assert not plain.note and set(plain.settings) <= {"site"}


def test_a_report_is_final_when_the_case_is_signed(served: Running) -> None:
    case, _ = opened(served, smear(2), b"no image")
    before = read_again(fetched(served, f"/v1/cases/{case}/report.dcm"))
    sign(served, case)
    after = read_again(fetched(served, f"/v1/cases/{case}/report.dcm"))
    assert (before.VerificationFlag, after.VerificationFlag) == ("UNVERIFIED", "VERIFIED")
    assert before.SOPInstanceUID != after.SOPInstanceUID
    assert before.SeriesInstanceUID == after.SeriesInstanceUID
    # A person's finding about an image without an answer overrides nothing, as in FHIR.
    differs = [item for name, item in items(after, "CODE") if name.startswith("Finding of a")][1::2]
    values = [item.ConceptCodeSequence[0].CodeMeaning for item in differs]
    assert values == ["Yes", "No"]
    assert str(after.VerifyingObserverSequence[0].VerifyingObserverName).rstrip("^") == "all"


def test_what_cannot_be_made_is_refused(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    case, (image, unread) = opened(served, smear(3), b"no image")
    here = f"/v1/cases/{case}"

    def status(path: str) -> int:
        return int(served.all.get(f"{here}/{path}").status_code)

    assert status(f"images/{unread}/heatmap.dcm") == 422
    assert status(f"images/{unread}/image.dcm") == 404  # nothing of it is kept
    assert status("images/none/capture.dcm") == 404
    assert status(f"images/{image}/heatmap.dcm?form=pdf") == 422
    with monkeypatch.context() as patch:
        patch.setattr(objects, "MOST", 1)
        assert status("report.dcm") == 422
    with monkeypatch.context() as patch:
        patch.setattr(objects, "installed", lambda: False)
        assert status("report.dcm") == 503
    with objects._one_of_few(), objects._one_of_few():
        assert status("report.dcm") == status(f"images/{image}/capture.dcm") == 429
    served.all.post(f"{here}/erase", json={"reason": "asked"})
    assert status("report.dcm") == status(f"images/{image}/image.dcm") == 409
    empty = served.all.post("/v1/cases", json={"label": "a"}).json()["id"]
    assert served.all.get(f"/v1/cases/{empty}/report.dcm").status_code == 409


def test_pages_lead_to_the_objects(served: Running) -> None:
    case, (image,) = opened(served, smear(4))
    assert f'href="/v1/cases/{case}/report.dcm"' in served.all.get(f"/cases/{case}").text
    page = served.all.get(f"/cases/{case}/images/{image}").text
    assert all(f'href="/v1/cases/{case}/images/{image}/{name}' in page for name in PICTURES)
