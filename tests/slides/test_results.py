"""What `bcd slide` leaves if it ends early, and what it tells about its limit."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bcd.errors import BcdError
from bcd.slides.run import run_slide
from bcd.slides.tally import Tally
from tests.slides.making import asked

pytest.importorskip("tiffslide")


@pytest.mark.usefixtures("stub")
def test_rows_so_far_remain_if_the_run_ends_early(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: Iterator[int] = iter(range(2))
    add = Tally.add

    def interrupted(self: Tally, *given: Any) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        add(self, *given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Tally, "add", interrupted)
        run_slide(asked(slides / "slide.tif", tmp_path, mpp=2.0, batch_size=2))
    (part,) = tmp_path.glob("tiles.csv.*.part")
    assert len(part.read_text(encoding="utf-8").splitlines()) == 1 + 4
    assert not (tmp_path / "slide.json").exists()
    # What a process left that is gone is removed when the results are there.
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           stdout=subprocess.PIPE, check=True)  # fmt: skip
    gone, running = (part.with_name(f"tiles.csv.{number}.part")
                     for number in (int(ended.stdout), os.getppid()))  # fmt: skip
    part.rename(gone)
    running.touch()
    for file in (gone, running):
        os.utime(file, (0, 0))
    run_slide(asked(slides / "slide.tif", tmp_path, mpp=2.0, limit=3))
    assert [*tmp_path.glob("tiles.csv.*.part")] == [running]


@pytest.mark.usefixtures("stub")
def test_results_of_two_runs_are_never_mixed(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def run(**settings: Any) -> None:
        run_slide(asked(slides / "slide.tif", tmp_path, mpp=4.0, **settings))

    run()
    before = files()
    fails = OSError(errno.EFBIG, "File too large", str(tmp_path / "tiles.csv"))
    for place, left in (
        ("bcd.storage.GrowingFile.append", before.keys()),
        ("bcd.slides.run.HeatMap.save", {"tiles.csv"}),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(place, Mock(side_effect=fails))
            told = f"run_dir={tmp_path}: tiles.csv cannot be written (File too large); free"
            with pytest.raises(BcdError, match=re.escape(told)):
                run(limit=3)
        assert files().keys() == left
    run()
    assert files().keys() == before.keys()


@pytest.mark.usefixtures("stub")
@pytest.mark.parametrize("more", [True, False])
def test_a_limit_is_told_if_it_left_out_tiles(
    more: bool, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    count = run_slide(asked(slides / "flat.tif", tmp_path, mpp=4.0)).answered
    assert "limit=" not in capsys.readouterr().err
    limit = count - more
    run_slide(asked(slides / "flat.tif", tmp_path, mpp=4.0, limit=limit))
    told = f"warning: limit={limit}: the slide has more tiles with tissue"
    assert (told in capsys.readouterr().err) is more
