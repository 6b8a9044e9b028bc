"""Requests that try to break the server, drawn from a seed."""

from __future__ import annotations

import io
import json
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.helpers.fuzzing import mutate, png, seeds, zeros
from tests.serving.making import smear

SCRIPT = "<script>alert(1)</script>"
TEMPLATE = "{{1234*4321}}${1234*4321}<%=1234*4321%>"
TEXTS = (
    SCRIPT, TEMPLATE, "'; DROP TABLE records; --", '" OR 1=1 --', "../../etc/passwd", "\x00",
    "\r\n\r\n",
    "%00", "\u202egnp.exe", "\ud83d\ude00" * 50, "ﷺ" * 200, "a" * 5000, "=HYPERLINK(1)", "-1",
    "NaN", "1e999",
    "null", "🩸", "'\"><img src=x onerror=alert(1)>", "\\\\host\\share\\x.png", "file:///etc/passwd",
    "//[", "http://[", "${jndi:ldap://x}", "x\n[error] forged line", "{}", "[]", "true", "", " ",
)  # fmt: skip
NAMES = (
    "../../../etc/passwd", "..\\..\\windows\\win.ini", "/etc/shadow", "\\\\host\\share\\a.png",
    "C:\\a.png",
    "a.png\x00.exe", "%2e%2e%2fa.png", "con.png", ".png", "." * 300, "a" * 10_000 + ".png",
    SCRIPT + ".png",
    "\u202egnp.a", "a;b.png", "a\r\nX-Injected: 1.png", '"; name="other', "",
)  # fmt: skip
PATHS = (
    "/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/app.py", "/static/..%2f..%2fapp.py",
    "/static/..\\..\\app.py", "/static//etc/passwd", "/static/%00", "/static/serve.css%00.html",
    "//host/share",
    "/%5c%5chost%5cshare", "/v1/cases/../../etc", "/v1/cases/%2e%2e%2f%2e%2e", "/v1/cases/%00",
    "/v1/cases/%ff%fe",
    "/v1//cases", "/v1/cases/", "/v1/cases/'%20OR%201=1", "/cases/%3Cscript%3E",
    "/login?next=//evil.example", "/login?next=//%5B", "/login?next=http://%5B",
    "/v1/cases?limit=-1", "/v1/cases?limit=1e9", "/v1/cases?before=nan", "/v1/cases?before=1e400",
    "/v1/cases?status=%00", "/v1/cases?limit=1&limit=2", "/v1/openapi.json/..", "/.env",
    "/.git/config",
    "/V1/PREDICT", "/v1/predict%20", "/v1/predict;x=1", "/healthz/../users",
    "/dashboard?days=-1&days=1e9",
    "/dashboard?since=%00", "/cases?before=1e999", "/cases?before=nan", "/cases?status=%00",
    "/users/%2e%2e", "/users/%00", "/users/" + "a" * 1000,
)  # fmt: skip
METHODS = ("PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND", "HEAD", "GET")
TARGETS = ("predict", "explain", "add_images")


@dataclass
class Hostile:
    """A request.

    Attributes:
        method: Of HTTP.
        path: With its query; `{case_id}` and `{image_id}` stand for ids that exist.
        options: Of the client.
    """

    method: str
    path: str
    options: dict[str, Any] = field(default_factory=dict)


class Attacker:
    """Makes hostile requests.

    Args:
        seed: The same requests come of the same seed.
    """

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._bits = np.random.default_rng(seed)
        self._files = [*seeds(), smear(0), smear(1, form="JPEG")]
        self._bombs = list(_bombs())

    def requests(self, count: int) -> Iterator[Hostile]:
        """Yields requests of every kind in turn."""
        kinds: tuple[Callable[[], Hostile], ...] = (
            self._image, self._image, self._form, self._broken_form, self._path, self._text,
            self._page, self._json, self._type, self._headers, self._method,
        )  # fmt: skip
        for number in range(count):
            if number % 100 == 50:  # they take a while
                yield self._upload(self._bombs[number // 100 % len(self._bombs)])
            else:
                yield kinds[number % len(kinds)]()

    def _upload(self, data: bytes) -> Hostile:
        path = self._rng.choice(
            ("/v1/predict", "/v1/explain", "/v1/cases/{case_id}/images", "/cases/{case_id}/images")
        )
        return Hostile("POST", path, {"content": data, "headers": {"Content-Type": "image/png"}})

    def _image(self) -> Hostile:
        data = mutate(self._rng.choice(self._files), self._bits, self._files)
        return self._upload(data if self._rng.random() < 0.8 else _polyglot(data, self._rng))

    def _form(self) -> Hostile:
        count = self._rng.choice((1, 1, 2, 3, 30))
        names = [self._rng.choice(NAMES) for _ in range(count)]
        files = [("images", (name, smear(i % 4), self._text_of())) for i, name in enumerate(names)]
        data = {
            self._text_of() or "x": self._text_of() for _ in range(self._rng.choice((0, 1, 40)))
        }
        return Hostile("POST", self._upload(b"").path, {"files": files, "data": data})

    def _broken_form(self) -> Hostile:
        whole = _form_bytes(smear(0), self._rng.choice(NAMES))
        body = mutate(whole, self._bits, [whole, b"--b\r\n\r\n--b--"])
        kind = self._rng.choice(
            ("multipart/form-data; boundary=b", "multipart/form-data",
            "multipart/form-data; boundary=",
             "multipart/form-data; boundary=" + "b" * 300,
             "multipart/form-data; boundary=b; charset=utf-7")
        )  # fmt: skip
        return Hostile(
            "POST", self._upload(b"").path, {"content": body, "headers": {"Content-Type": kind}}
        )

    def _path(self) -> Hostile:
        method = self._rng.choice(("GET", "GET", "POST"))
        return Hostile(method, self._rng.choice(PATHS))

    def _text(self) -> Hostile:
        path, fields = self._rng.choice(
            (
                ("/v1/cases", ("label",)),
                ("/v1/cases/{case_id}/images/{image_id}/review", ("finding", "remark")),
                ("/v1/cases/{case_id}/sign", ("version", "password")),
                ("/v1/cases/{case_id}/erase", ("reason",)),
            )
        )
        body: dict[str, Any] = {name: self._text_of() for name in fields}
        if self._rng.random() < 0.5:  # only the text is hostile
            body |= {"finding": "Unidentified"} if "finding" in body else {}
            body |= {"version": 1} if "version" in body else {}
        return Hostile("POST", path, {"content": _json_bytes(body), "headers": _JSON})

    def _page(self) -> Hostile:
        path = self._rng.choice(
            ("/cases", "/cases/{case_id}/images/{image_id}/review", "/cases/{case_id}/sign",
             "/login", "/setup", "/account", "/users", "/users/submit/tokens", "/users/x/disable")
        )  # fmt: skip
        names = ("label", "finding", "remark", "version", "password", "again", "reason", "name",
                 "token", "next", "csrf", "seen", "roles", "days")  # fmt: skip
        pairs = [
            (name, self._text_of()) for name in names for _ in range(self._rng.choice((1, 1, 2)))
        ]
        body: dict[str, list[str]] = {}
        for name, value in pairs:
            body.setdefault(name, []).append(value.encode("utf-8", "replace").decode())
        headers = {"Accept": "text/html", "Origin": "http://127.0.0.1"}
        return Hostile("POST", path, {"data": body, "headers": headers})

    def _json(self) -> Hostile:
        body = self._rng.choice(
            (b"", b"{", b"[" * 5000, b'{"label": ' + b"[" * 900 + b"]" * 900 + b"}", b"\xff\xfe",
             b'{"label": 1e999}', b'{"label": "\\ud800"}', b'{"label": "a", "label": "b"}', b"null",
             b'{"version": 99999999999999999999999}', b'{"label": {"$ne": ""}}',
             b'{"__class__": 1}',
             b"9" * 5000, b'{"label": NaN}')
        )  # fmt: skip
        path = self._rng.choice(("/v1/cases", "/v1/cases/{case_id}/sign"))
        return Hostile("POST", path, {"content": body, "headers": _JSON})

    def _type(self) -> Hostile:
        kinds = ("text/html", "image/svg+xml", "application/xml",
                 "application/x-www-form-urlencoded",
                 "image/", "\x7f", "a" * 2000, "multipart/mixed; boundary=b",
                 "application/json")  # fmt: skip
        data = self._rng.choice(
            (b"<svg onload=alert(1)>", smear(0), b"", b"a=" * 1000, b"%PDF-1.4")
        )
        headers = {"Content-Type": self._rng.choice(kinds)}
        return Hostile("POST", self._upload(b"").path, {"content": data, "headers": headers})

    def _headers(self) -> Hostile:
        headers = self._rng.choice(
            (
                {"X-Large": "a" * 50_000},
                {f"X-{i}": "a" for i in range(200)},
                {"Host": "evil.example"},
                {"Content-Length": "-1"},
                {"Content-Length": "9" * 30},
                {"Cookie": "bcd=" + "a" * 3000},
                {"Accept": "text/html;q=" + "9" * 500},
                {"X-Forwarded-For": "127.0.0.1, ::1", "X-Forwarded-Proto": "javascript"},
                {"X-Remote-User": "all", "Remote-User": "all"},
                {"Authorization": "Basic YWxsOmFsbA=="},
                {"Authorization": "Bearer bcd_" + "a" * 2000},
                {"Authorization": "Bearer \xff\xfe"},
                {"Origin": "null"},
                {"Range": "bytes=0-,0-,0-"},
                {"If-Modified-Since": "x" * 200},
                {"HX-Request": "true", "HX-Current-URL": "javascript:alert(1)"},
                {"HX-Request": "true", "HX-Current-URL": "http://["},
                {"Origin": "http://[", "Referer": "http://["},
                {"Expect": "100-continue"},
                {"Upgrade": "websocket", "Connection": "Upgrade"},
            )
        )
        path = self._rng.choice(("/v1/cases", "/cases", "/", "/static/serve.css", "/v1/model"))
        return Hostile("GET", path, {"headers": headers})

    def _method(self) -> Hostile:
        path = self._rng.choice(
            ("/v1/predict", "/v1/cases", "/cases", "/healthz", "/static/serve.css")
        )
        return Hostile(self._rng.choice(METHODS), path)

    def _text_of(self) -> str:
        return self._rng.choice(TEXTS)


_JSON = {"Content-Type": "application/json"}


def _json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def _form_bytes(image: bytes, name: str) -> bytes:
    head = f'--b\r\nContent-Disposition: form-data; name="images"; filename="{name}"\r\n'
    return (
        head.encode("utf-8", "replace")
        + b"Content-Type: image/png\r\n\r\n"
        + image
        + b"\r\n--b--\r\n"
    )


def _polyglot(image: bytes, rng: random.Random) -> bytes:
    """A file that is also something else."""
    if rng.random() < 0.4:
        return b"GIF89a/*" + image + b"*/=1;" + SCRIPT.encode()
    if rng.random() < 0.5:
        return image + b"<html>" + SCRIPT.encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("../../evil.py", "raise SystemExit")
    return image + stream.getvalue()


def _bombs() -> Iterator[bytes]:
    """Files of a few kilobytes that are enormous when they are decoded."""
    yield png(60_000, 60_000, 8, 2, zeros(1 << 26))
    yield png(2**31 - 1, 2**31 - 1, 8, 2, b"")
    yield png(100, 100, 8, 2, zeros(1 << 27))
    yield png(100, 100, 8, 2, zeros(100 * 301), b"\0\0\0\0tEXt" * 1000)
