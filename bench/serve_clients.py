"""The clients of `bench.serve`: a process of its own, light enough to leave the cores to others."""

from __future__ import annotations

import asyncio
import http.client
import json
import secrets
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bcd.data.load import expand_inputs

_MOST = 500  # images that are held


@dataclass
class Result:
    """What clients saw.

    Attributes:
        rate: Answers per second.
        errors: Requests that were not answered with 200.
        milliseconds: Of each answer.
        first: The first error's text.
    """

    rate: float = 0.0
    errors: int = 0
    milliseconds: list[float] = field(default_factory=list)
    first: str = ""

    @classmethod
    def from_text(cls, text: str) -> Result:
        """What the process printed."""
        return cls(**json.loads(text))


def images_of(folder: str) -> list[bytes]:
    """Encoded images from all over a folder."""
    files = expand_inputs([folder])
    return [file.read_bytes() for file in files[:: max(1, len(files) // _MOST)][:_MOST]]


class Clients:
    """Clients that send one request after the other until there are enough.

    Args:
        asked: port, token, images, clients, seconds and requests (0: until the time is over).
    """

    def __init__(self, asked: dict[str, str]) -> None:
        self._port, self._count = int(asked["port"]), int(asked["clients"])
        head = (
            "POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nAuthorization: Bearer {}\r\n"
            "Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n"
        )
        images = images_of(asked["images"])
        self._requests = [
            head.format(self._port, asked["token"], len(data)).encode() + data for data in images
        ]
        self._left = int(asked["requests"]) or sys.maxsize
        self._seconds, self._next = float(asked["seconds"]), 0
        self.result = Result()

    async def run(self) -> None:
        """Sends requests."""
        begun = time.perf_counter()
        self._end = begun + self._seconds
        await asyncio.gather(*(self._client() for _ in range(self._count)))
        self.result.rate = len(self.result.milliseconds) / (time.perf_counter() - begun)

    async def _client(self) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while self._left > 0 and time.perf_counter() < self._end:
            self._left -= 1
            self._next += 1
            begun = time.perf_counter()
            writer.write(self._requests[self._next % len(self._requests)])
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            body = await reader.readexactly(length)
            if head.split(b" ", 2)[1] == b"200":
                self.result.milliseconds.append((time.perf_counter() - begun) * 1000)
            else:
                self.result.errors += 1
                self.result.first = self.result.first or body.decode()[:500]
        writer.close()


def ask(
    link: http.client.HTTPConnection,
    method: str,
    path: str,
    headers: dict[str, str],
    body: Any = None,
) -> Any:
    """A request with JSON, or with a list of files as a form; returns the answer's JSON.

    Raises:
        RuntimeError: The answer is an error.
    """
    kind, data = "application/json", None
    if isinstance(body, list):
        border = secrets.token_hex(16)
        kind, data = f"multipart/form-data; boundary={border}", _form(body, border)
    elif body is not None:
        data = json.dumps(body).encode()
    link.request(method, path, data, {**headers, "Content-Type": kind})
    answer = link.getresponse()
    text = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text[:300]!r}")
    return json.loads(text)


def _form(files: list[Path], border: str) -> bytes:
    parts = []
    for file in files:
        head = (
            f'--{border}\r\nContent-Disposition: form-data; name="images"; filename="{file.name}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        parts.append(head.encode() + file.read_bytes() + b"\r\n")
    return b"".join(parts) + f"--{border}--\r\n".encode()


def main() -> None:
    """Runs clients, and prints what they saw as JSON."""
    clients = Clients(dict(word.split("=", 1) for word in sys.argv[1:]))
    asyncio.run(clients.run())
    print(json.dumps(asdict(clients.result)))


if __name__ == "__main__":
    main()
