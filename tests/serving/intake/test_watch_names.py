"""What a watch folder takes whatever its name is."""

from __future__ import annotations

from pathlib import Path

from bcd.data.synthetic.smears import draw_smear
from tests.helpers.dicom import make_dicom
from tests.serving.intake.following import Following, case_labelled
from tests.serving.running import running


def test_dicom_files_are_told_by_their_content(tmp_path: Path) -> None:
    """Modalities and archives name them IM000000, or by their UID."""
    with running(tmp_path / "app", "jobs.poll_seconds=0.05") as app:
        folder = Following(app.app.state.services, tmp_path / "scans")
        names = ("IM000000", "1.2.276.0.7230010.3.1.4.1")
        for number, name in enumerate(names):
            pixels = draw_smear("Benign", slide=number, index=8, size=96)
            folder.put(f"exported/{name}", make_dicom(pixels).data)
        folder.put("exported/DICOMDIR", bytes(128) + b"DICM")
        folder.until_moved(*(f"done/exported/{name}" for name in names), "failed/exported/DICOMDIR")
        images = case_labelled(app.services, "exported").images
        assert sorted(image.name for image in images) == sorted(names)
        assert all(image.answer.predicted is not None for image in images)
        assert "type" in (folder.folder / "failed/exported/DICOMDIR.txt").read_text()
        late = folder.put("exported/late", bytes(300))  # its place is taken before it is written
        for _ in range(50):
            folder.step()
        assert late.exists()
        late.write_bytes(make_dicom(draw_smear("Benign", slide=3, index=8, size=96)).data)
        folder.until_moved("done/exported/late")
        folder.put("exported/empty", b"")
        folder.until_moved("failed/exported/empty")
