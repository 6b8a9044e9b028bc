"""Files that are made to harm, or happen to: each is a row, none hangs, none takes the memory."""

from __future__ import annotations

import csv
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bcd.config.input_views import InputView
from bcd.data import reader_process
from bcd.data import sandbox as readers
from bcd.data.files import Gate, ImageError, UnreadableError, read_bytes
from bcd.data.items import Item, Wanted
from bcd.data.loading import make_loader
from bcd.data.opening import MAX_PIXELS
from bcd.data.reading import HALVED_ABOVE, decode_image, read_image
from bcd.data.sandbox import read_all
from bcd.data.views import Source
from bcd.errors import ConfigError
from bcd.training.run import train
from tests.helpers import fuzzing
from tests.helpers.harness import ROOT, SMALL, train_config
from tests.helpers.noise import noise, write_image

PLAIN_32 = (InputView("plain", 32),)

posix = pytest.mark.skipif(os.name != "posix", reason="pipes, sockets and devices of POSIX")


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(train_config(folder / "run", *SMALL, f"data.root={folder / 'images'}"))
    return folder / "run" / "checkpoints" / "best.ckpt"


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux tells it")
@pytest.mark.slow
def test_hostile_files_are_rows_in_bounded_time_and_memory(ckpt: Path, tmp_path: Path) -> None:
    """BCD_TEST_FUZZ=5000 asks for as many files."""
    count = fuzzing.write_hostile(tmp_path / "in", int(os.environ.get("BCD_TEST_FUZZ", "150")))
    output = tmp_path / "rows.csv"
    words = ["predict", str(ckpt), str(tmp_path / "in"), str(output)]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "helpers" / "fuzzing.py"), *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600 + count,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    took = json.loads(done.stdout)
    print(took)  # noqa: T201
    with output.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, strict=True))
    assert took["rows"] == len(rows) == count
    assert len({row["path"] for row in rows}) == count
    assert all(bool(row["error"]) != bool(row["prediction"]) for row in rows)
    assert took["failed"] == sum(bool(row["error"]) for row in rows) > count / 4
    # Two readers at once, of which one at a time may read what is large. Time: on a busy machine.
    assert took["main MB"] + took["largest reader MB"] < 1500
    assert took["longest wait"] < 30


@posix
@pytest.mark.parametrize("kind", fuzzing.IRREGULAR)
def test_what_is_no_regular_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    fuzzing.IRREGULAR[kind](file)
    with pytest.raises(ImageError, match=r"not a file but|cannot be read|too large|empty"):
        read_bytes(file)


@posix
def test_a_pipe_that_takes_a_files_place_meanwhile_does_not_hang(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    regular = write_image(tmp_path / "b.png", noise(1)).stat()
    monkeypatch.setattr(Path, "stat", lambda path: regular)
    with pytest.raises(UnreadableError, match="not a file but a pipe"):
        read_bytes(tmp_path / "a.jpg")


def test_other_formats_are_not_even_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import EpsImagePlugin

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_: pytest.fail("started"))
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\n",
                 fuzzing.encoded(noise(1), "GIF"), fuzzing.encoded(noise(1), "PPM")):  # fmt: skip
        with pytest.raises(ImageError, match="not an image"):
            decode_image(data)


@pytest.mark.parametrize("error", [MemoryError, RecursionError, RuntimeError, AssertionError])
def test_whatever_a_parser_raises_is_a_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("bcd.data.reading._to_8_bits", fail)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(fuzzing.encoded(noise(1), "PNG"))


# A reader whose decoder does what the image's name says, and has a second for it.
_BAD = """
import os
from bcd.data import items, reader
reader.DECODING_SECONDS = 1
real = items._decode
def bad(item, gate):
    stem = item.path.stem
    while stem == "endless header":
        pass
    if stem in ("crash", "hang", "hungry"):
        with gate.taking(1):
            if stem == "crash":
                os.abort()
            while stem == "hang":
                pass
            bytearray(4 << 30)
    return real(item, gate)
items._decode = bad
"""


@posix
def test_a_decoder_that_crashes_hangs_or_eats_costs_its_own_file_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "crash", "b", "hang", "c", "hungry", "d", "endless header"]
    files = [write_image(tmp_path / f"{name}.png", noise(i)) for i, name in enumerate(names)]
    (tmp_path / "bad.py").write_text(_BAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(reader_process, "_SERVE", "import bad; " + reader_process._SERVE)
    wanted = Wanted(PLAIN_32, False)
    monkeypatch.setattr(readers, "_STARTING_SECONDS", 600.0)
    monkeypatch.setattr(readers, "DECODING_SECONDS", 1)
    started = time.monotonic()
    found = [answer for _, answer in read_all(files, wanted, 2)]
    assert time.monotonic() - started < 200  # 5 to 8 where nothing else runs
    reasons = {n: f for n, f in zip(names, found, strict=True) if isinstance(f, str)}
    assert reasons == {
        "crash": "cannot be decoded (the decoder crashed)",
        "hang": "cannot be decoded (takes longer than 1 s)",
        "hungry": "cannot be decoded (takes too much memory)",
        "endless header": "cannot be decoded (takes longer than 1 s)",
    }
    for file, answer in zip(files, found, strict=True):
        if not isinstance(answer, str):
            np.testing.assert_array_equal(answer, wanted.read(file))


def test_readers_give_what_this_process_reads_whatever_their_number(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", noise(i, size=40 + i)) for i in range(9)]
    files.insert(4, tmp_path / "gone\n.png")
    alone = list(read_all(files, Wanted(PLAIN_32, True), 0))
    assert [name for name, _ in alone] == [str(file) for file in files]
    assert isinstance(alone[4][1], str)
    for workers in (1, 3):
        again = read_all(iter(files), Wanted(PLAIN_32, True), workers)
        for one, other in zip(alone, again, strict=True):
            assert one[0] == other[0]
            np.testing.assert_array_equal(one[1], other[1])


def test_bytes_are_read_as_the_file_that_has_them(tmp_path: Path) -> None:
    files = [write_image(tmp_path / f"{i}.png", noise(i, size=200)) for i in range(3)]
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no image\n")
    files += [tmp_path / "empty.png", tmp_path / "text.png"]
    wanted = Wanted(PLAIN_32, False)
    expected = [answer for _, answer in read_all(files, wanted, 0)]
    members = [Item(f"archive/{file.name}", data=file.read_bytes()) for file in files]
    for workers in (0, 2):
        made = list(read_all(iter(members), wanted, workers))
        assert [name for name, _ in made] == [item.name for item in members]
        for (_, one), other in zip(made, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    assert [answer for answer in expected if isinstance(answer, str)] == [
        "empty file", "not an image (content of another type)"
    ]  # fmt: skip


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_few_items_of_an_endless_stream_are_held(workers: int, tmp_path: Path) -> None:
    data = fuzzing.encoded(noise(1), "PNG")
    taken = 0

    def stream() -> Iterator[Item]:
        nonlocal taken
        for number in itertools.count():
            taken += 1
            yield Item(str(number), data=data)

    answers = read_all(stream(), Wanted(PLAIN_32, False), workers)
    for expected in range(20):
        name, _ = next(answers)
        assert name == str(expected)
        assert taken <= expected + 1 + 4 * workers
    answers.close()  # type: ignore[attr-defined]


def test_a_gate_lets_through_as_much_as_fits() -> None:
    import threading

    gate = Gate(10)
    inside = most = 0
    lock = threading.Lock()

    def work(amount: int) -> None:
        nonlocal inside, most
        with gate.taking(amount):
            with lock:
                inside += min(amount, 10)
                most = max(most, inside)
            with lock:
                inside -= min(amount, 10)

    threads = [threading.Thread(target=work, args=(i % 14,)) for i in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    assert 0 < most <= 10


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_large_images_come_at_half_their_size_and_ordinary_ones_as_they_are(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    pixels = np.stack([np.tile(ramp, (48, 1))] * 3, -1)
    data = fuzzing.encoded(pixels, kind)
    whole = decode_image(data)
    monkeypatch.setattr("bcd.data.reading.MOST_SIDE", 24)
    monkeypatch.setattr("bcd.data.reading.HALVED_ABOVE", 48 * 64)
    np.testing.assert_array_equal(decode_image(data), whole)
    monkeypatch.setattr("bcd.data.reading.HALVED_ABOVE", 48 * 64 - 1)
    half = decode_image(data)
    assert half.shape == (24, 32, 3)
    expected = whole.astype(float).reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(half - expected).max() <= (1 if kind == "PNG" else 4)
    assert HALVED_ABOVE < MAX_PIXELS
    monkeypatch.setattr("bcd.data.reading.MOST_SIDE", 25)
    np.testing.assert_array_equal(decode_image(data), whole)


def test_bands_change_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from PIL import Image

    image = Image.fromarray(noise(1, size=60))
    for mode in ("RGB", "P", "L", "CMYK", "RGBA"):
        image.convert(mode).save(tmp_path / "a.tif")
        whole = read_image(tmp_path / "a.tif")
        with monkeypatch.context() as patch:
            patch.setattr("bcd.data.reading._BAND", 700)
            np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), whole)


class _Large(Source):
    most_pixels = MAX_PIXELS // 3

    def __len__(self) -> int:
        return 1


def test_large_images_have_fewer_workers() -> None:
    assert make_loader(_Large(), [], 4, 8).num_workers == 3  # type: ignore[arg-type]


def test_an_input_size_that_cannot_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.input_size=20000: at most 2048"):
        train_config(tmp_path, "model.input_size=20000")
