"""Hostile image files: mutations of valid ones, and the kinds that cost others their rows.

`python tests/helpers/fuzzing.py predict <checkpoint> <folder> <output>` predicts a folder and
prints the time and memory it took as JSON.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import resource
import socket
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def encoded(pixels: np.ndarray[Any, Any], kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def png(width: int, height: int, bits: int, colour: int, content: bytes, *more: bytes) -> bytes:
    """A PNG with any header, compressed content, and chunks before it."""
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, bits, colour, 0, 0, 0))
    middle = b"".join(more) + chunk(b"IDAT", content)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IEND", b"")


def zeros(count: int) -> bytes:
    """A zlib stream of that many zeros, a thousandth as long."""
    packer = zlib.compressobj(1)
    block = bytes(1 << 20)
    parts = [packer.compress(block) for _ in range(count >> 20)]
    return b"".join([*parts, packer.compress(bytes(count & (1 << 20) - 1)), packer.flush()])


def tiff(*entries: tuple[int, int, int, int], content: bytes = b"", following: int = 0) -> bytes:
    """A little-endian TIFF with tags (number, type, count, value) and what they point at."""
    packed = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    count = struct.pack("<H", len(entries))
    return b"II*\0" + struct.pack("<L", 8) + count + packed + struct.pack("<L", following) + content


def seeds() -> list[bytes]:
    """Small valid files of every format."""
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 255, (40, 48, 3), dtype=np.uint8)
    alpha = rng.integers(0, 255, (40, 48, 4), dtype=np.uint8)
    deep = rng.integers(0, 4096, (40, 48), dtype=np.uint16)
    frames = [Image.fromarray(np.roll(colour, 5 * i, 0)) for i in range(4)]
    several: dict[str, Any] = {"save_all": True, "append_images": frames[1:]}
    exif = Image.Exif()
    exif[274], exif[271], exif[282] = 6, "a maker of cameras", 72.0
    files = [encoded(colour, kind) for kind in ("JPEG", "PNG", "BMP", "TIFF", "WEBP")]
    files += [encoded(colour, "JPEG", progressive=True, exif=exif)]
    files += [encoded(colour[..., 0], kind) for kind in ("JPEG", "PNG", "BMP", "TIFF")]
    files += [encoded(alpha, kind) for kind in ("PNG", "TIFF", "WEBP")]
    files += [encoded(deep, kind) for kind in ("PNG", "TIFF")]
    files += [encoded(colour, kind, exif=exif) for kind in ("PNG", "TIFF", "WEBP")]
    files += [encoded(colour, kind, **several) for kind in ("PNG", "TIFF", "WEBP")]
    files += [encoded(colour, "WEBP", lossless=True)]
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        files.append(encoded(colour, "TIFF", compression=compression))
    stream = io.BytesIO()
    Image.fromarray(colour).convert("CMYK").save(stream, "JPEG")
    files.append(stream.getvalue())
    stream = io.BytesIO()
    Image.fromarray(colour).convert("P").save(stream, "PNG", transparency=3)
    files.append(stream.getvalue())
    sixteen = np.repeat(deep[..., None], 3, 2).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in sixteen)
    files.append(png(48, 40, 16, 2, zlib.compress(rows)))
    return files


def mutate(data: bytes, rng: np.random.Generator, others: list[bytes]) -> bytes:
    """Damages a file in one of the ways that files are damaged, by accident or on purpose."""
    changed = bytearray(data)
    way = rng.integers(8)
    near = int(rng.integers(min(len(data), 200)))
    place = int(rng.integers(len(data)))
    if way == 0:  # bits flipped anywhere
        for _ in range(int(rng.integers(1, 40))):
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    elif way == 1:  # bytes of the header
        for _ in range(int(rng.integers(1, 6))):
            changed[rng.integers(min(len(changed), 120))] = rng.integers(256)
    elif way == 2:  # cut
        del changed[place:]
    elif way == 3:  # the end of another file
        other = others[rng.integers(len(others))]
        changed[place:] = other[int(rng.integers(len(other))) :]
    elif way == 4:  # a number at its limit
        number = (0, 1, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)[rng.integers(6)]
        form = ("<L", ">L", "<H", ">H")[rng.integers(4)]
        number &= 0xFFFF if form.endswith("H") else 0xFFFFFFFF
        changed[near : near + struct.calcsize(form)] = struct.pack(form, number)
    elif way == 5:  # a piece taken out
        del changed[place : place + int(rng.integers(1, 60))]
    elif way == 6:  # a piece twice, or many times
        piece = changed[place : place + int(rng.integers(1, 200))]
        changed[place:place] = piece * int(rng.integers(1, 50))
    else:  # noise put in
        changed[place:place] = rng.bytes(int(rng.integers(1, 300)))
    return bytes(changed)


def _scans(count: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    data = encoded(np.zeros((2000, 2000, 3), np.uint8), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def _contents() -> dict[str, bytes]:
    """Files whose content alone is hostile, by what they are."""
    small = np.full((40, 40, 3), 200, np.uint8)
    plain = encoded(small, "PNG")
    row, bomb = zeros(41 * 121), zeros(1 << 28)
    same = [(40000 + i % 20000, 7, 50_000_000, 200_000) for i in range(20_000)]
    size = [(256, 3, 1, 40), (257, 3, 1, 40), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    strips = [(273, 4, 30_000_000, 200), (279, 4, 30_000_000, 200), (278, 3, 1, 1)]
    exif = b"II*\0\x08\0\0\0" + struct.pack("<H", 5000)
    exif += b"".join(struct.pack("<HHLL", 1000 + i, 7, 10_000_000, 70_000) for i in range(5000))
    frames = [Image.fromarray(np.full((40, 40, 3), i % 250, np.uint8)) for i in range(2000)]
    many: dict[str, Any] = {"save_all": True, "append_images": frames}
    wide = b"RIFF\xff\xff\0\0WEBPVP8X\x0a\0\0\0\x10\0\0\0\xff\x3f\0\xff\x3f\0" + bytes(2000)
    jpeg = bytearray(encoded(small, "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65500, 65500)
    return {
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n{ } loop\n",
        "pdf": b"%PDF-1.4\n" + bytes(2000),
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "gif": encoded(small, "GIF"),
        "text": b"no image\n",
        "empty": b"",
        "png of 4 terapixels": png(2_000_000, 2_000_000, 8, 2, row),
        "png of 100 megapixels": png(10_000, 10_000, 8, 2, zeros(10_000 * 30_001)),
        "png of 100 deep megapixels": png(10_000, 10_000, 16, 6, row),
        "png with a text of 256 MB": png(40, 40, 8, 2, row, chunk(b"zTXt", b"a\0\0" + bomb)),
        "png with a profile of 256 MB": png(40, 40, 8, 2, row, chunk(b"iCCP", b"a\0\0" + bomb)),
        "png with absurd exif": png(40, 40, 8, 2, row, chunk(b"eXIf", exif + bytes(10_100_000))),
        "png of more than its header says": png(40, 40, 8, 2, bomb),
        "apng of 2000 frames": encoded(small, "PNG", **many),
        "webp of 2000 frames": encoded(small, "WEBP", **many),
        "webp of a huge canvas": wide,
        "tiff of 2000 pages": encoded(small, "TIFF", **many),
        "tiff with tags at one place": tiff(*size, *same, content=bytes(50_000_000)),
        "tiff with 30 million strips": tiff(*size, *strips, content=bytes(120_000_000)),
        "tiff that follows itself": tiff(*size, (273, 4, 1, 90), content=bytes(2000), following=8),
        "jpeg of 4 gigapixels": bytes(jpeg),
        "jpeg of 5000 scans": _scans(5000),
        "jpeg and zip": encoded(small, "JPEG") + b"PK\x05\x06" + bytes(18),
        "bmp of 4 gigapixels": b"BM" + struct.pack("<LLL", 99, 0, 54)
        + struct.pack("<LllHHLLllLL", 40, 65500, 65500, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(500),
        "bmp of runs": b"BM" + struct.pack("<LLL", 99, 0, 1078)
        + struct.pack("<LllHHLLllLL", 40, 9000, 9000, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(1024) + b"\xff\0" * 500_000,
        "the name of another format": plain,
    }  # fmt: skip


def _socket(path: Path) -> None:
    # A socket's path must be short: bind it by a name in its own folder.
    before = Path.cwd()
    os.chdir(path.parent)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as made:
        made.bind(path.name)
    os.chdir(before)


def _sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


IRREGULAR: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": _socket,
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "noise without end": lambda path: path.symlink_to("/dev/urandom"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "kernel messages": lambda path: path.symlink_to("/proc/kmsg"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "folder": lambda path: path.mkdir(),
    "terabyte": _sparse,
}

# File names that break tables, terminals or encodings.
NAMES = (
    b"two\nlines",
    b"return\rhome",
    b'"quoted", with; commas',
    b"Pr\xfcfung",
    b"\x1b[31mred",
    b"=1+1",
    b"n" * 240,
)


def write_hostile(folder: Path, count: int, seed: int = 0) -> int:
    """Writes so many files into a folder: each hostile kind once, and mutations for the rest.

    Returns:
        How many rows they make: one each, but none for the empty folder among them.
    """
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number, (kind, make) in enumerate(IRREGULAR.items()):
        make(folder / f"{kind}{SUFFIXES[number % len(SUFFIXES)]}")
    for number, (kind, data) in enumerate(_contents().items()):
        (folder / f"{kind}{SUFFIXES[number % len(SUFFIXES)]}").write_bytes(data)
    valid = seeds()
    for name in NAMES:
        with open(os.fsencode(folder) + b"/" + name + b".png", "wb") as stream:  # noqa: PTH123
            stream.write(valid[1])
    written = len(IRREGULAR) + len(_contents()) + len(NAMES)
    for number in range(count - written):
        data = valid[int(rng.integers(len(valid)))]
        for _ in range(int(rng.integers(0, 4))):  # none at times: valid ones among them
            data = mutate(data, rng, valid) or b"\0"
        suffix = SUFFIXES[int(rng.integers(len(SUFFIXES)))]
        (folder / f"fuzzed {number:05d}{suffix}").write_bytes(data)
    return count - 1


def _predict(ckpt: str, folder: str, output: str) -> dict[str, Any]:
    from bcd.config.compose import with_defaults
    from bcd.config.programs import PredictConfig
    from bcd.data.sandbox import _Reader
    from bcd.inference.predict import predict

    seconds: dict[str, float] = {}
    read = _Reader.read

    def timed(reader: Any, item: Any) -> Any:
        started = time.monotonic()
        answer = read(reader, item)
        seconds[item.path.name] = time.monotonic() - started
        return answer

    _Reader.read = timed  # type: ignore[method-assign, assignment]
    times = [time.monotonic()]
    config = with_defaults(
        PredictConfig, ckpt=ckpt, input=folder, output=output, device="cpu", num_workers=2
    )
    tally = predict(config, lambda _: times.append(time.monotonic()))
    slowest = max(seconds, key=seconds.__getitem__)
    # Not by getrusage, which counts what the starting process had when it forked.
    own = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {
        "seconds": times[-1] - times[0],
        "rows": len(times) - 1,
        "failed": tally.failed,
        "slowest": (slowest, seconds[slowest]),
        "longest wait": max(b - a for a, b in itertools.pairwise(times)),
        "main MB": own,
        "largest reader MB": reader,
    }


def _lines() -> Iterator[str]:
    yield json.dumps(_predict(*sys.argv[2:]))


if __name__ == "__main__":
    sys.stdout.writelines(_lines())
