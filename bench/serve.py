"""Measures `bcd serve` over loopback, beside the bare predictor with the same encoded images.

python -m bench.serve speed model=<export> images=<folder> [clients=32] [seconds=60] [rounds=3]
python -m bench.serve memory model=<export> images=<folder> [clients=32] [requests=20000]
python -m bench.serve case model=<export> images=<folder> [count=1000]

`speed` alternates between server and predictor, one idle while the other works. Clients are in one
process that sends an image as the body of each request over connections that stay open.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from bcd.data.items import Item
from bcd.data.load import expand_inputs
from bcd.inference.predictor import Predictor, load_any
from bench.measure import machine
from bench.serve_clients import Result, ask, images_of

_WARM = 100  # images before anything is measured
_SAMPLES = 10  # of memory


def main() -> None:
    """Measures what is asked for."""
    mode, *words = sys.argv[1:]
    asked = dict(word.split("=", 1) for word in words)
    if mode == "bare":
        _bare(asked)
        return
    print(machine())
    with tempfile.TemporaryDirectory() as folder, _server(asked["model"], Path(folder)) as server:
        {"speed": _speed, "memory": _memory, "case": _case}[mode](server, asked)


class Server:
    """A running server.

    Attributes:
        port: On loopback.
        token: Of a user who may submit images.
        pid: Of its process.
    """

    def __init__(self, port: int, token: str, pid: int) -> None:
        self.port, self.token, self.pid = port, token, pid

    def clients(self, asked: dict[str, str], seconds: float = 1e9, requests: int = 0) -> Any:
        """Starts the process of the clients."""
        words = [f"port={self.port}", f"token={self.token}", f"images={asked['images']}",
                 f"clients={asked.get('clients', 32)}", f"seconds={seconds}",
                 f"requests={requests}"]  # fmt: skip
        command = [sys.executable, "-m", "bench.serve_clients", *words]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def memory(self) -> tuple[float, float]:
        """Resident memory in MB of the server, and of its reading processes together."""
        own, *readers = _family(self.pid)
        return _resident(own), sum(map(_resident, readers))

    def processor(self) -> float:
        """Processor seconds of the server and its reading processes so far."""
        return sum(map(_processor, _family(self.pid)))


def _family(pid: int) -> list[int]:
    """A process and those that it started."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(one) for file in children for one in file.read_text().split())]


def _processor(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1e3 if found else 0.0


@contextlib.contextmanager
def _server(model: str, folder: Path) -> Iterator[Server]:
    """Starts a server with a user and a token."""
    token = _token(folder)
    words = [f"model={model}", f"folder={folder}", "port=0", "device=cpu", "log.level=warning",
             "limits.requests_per_minute=100000000", "limits.seconds=120"]  # fmt: skip
    command = [sys.executable, "-m", "bcd", "serve", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = next((line for line in process.stdout if "bcd serves" in line), "")
            found = re.search(r":(\d+)\b", line)
            assert found, "the server did not start"
            yield Server(int(found[1]), token, process.pid)
        finally:
            process.terminate()
            process.wait(30)


def _token(folder: Path) -> str:
    from hydra import compose, initialize_config_dir

    from bcd.config.check import check_config
    from bcd.config.compose import CONF
    from bcd.config.serve import ServeConfig
    from bcd.serving.accounts.store import Accounts
    from bcd.serving.records.database import database_url
    from bcd.serving.records.store import open_records

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(compose("serve", overrides=[f"folder={folder}"]), ServeConfig)
    with open_records(database_url(cfg.records, cfg.folder), cfg.images) as records:
        accounts = Accounts(records.engine, cfg)
        accounts.users.add("", "bench", secrets.token_urlsafe(20), ["submit", "review"])
        return accounts.tokens.add("bench", "bench", ["submit"], 1)


def _speed(server: Server, asked: dict[str, str]) -> None:
    rounds, seconds = int(asked.get("rounds", 3)), float(asked.get("seconds", 60))
    _finished(server.clients(asked, requests=_WARM))
    results, bare, spent = [], [], []
    for _ in range(rounds):
        words = [f"{name}={asked[name]}" for name in ("model", "images")]
        command = [sys.executable, "-m", "bench.serve", "bare", *words]
        done = subprocess.run([*command, f"seconds={seconds / rounds}"], check=True,
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
        bare.append(json.loads(done.stdout))
        before = server.processor()
        results.append(_finished(server.clients(asked, seconds / rounds)))
        count = max(len(results[-1].milliseconds), 1)
        spent.append((server.processor() - before) / count * 1000)
        print(
            f"  predictor {bare[-1][0]:.1f} images/s ({bare[-1][1]:.1f} ms of processor time), "
            f"server {results[-1].rate:.1f} ({spent[-1]:.1f} ms)",
            flush=True,
        )
    milliseconds = np.concatenate([one.milliseconds for one in results])
    p50, p99 = np.percentile(milliseconds, (50, 99))
    rate, (other, own) = float(np.mean([one.rate for one in results])), np.mean(bare, axis=0)
    print(
        f"{len(milliseconds)} requests of {asked.get('clients', 32)} clients in {seconds:g} s, "
        f"{sum(one.errors for one in results)} errors; p50 {p50:.0f} ms, p99 {p99:.0f} ms; "
        f"{rate:.1f} images/s, the bare predictor {other:.1f}: {rate / other:.0%}; "
        f"processor time for an image {np.mean(spent):.1f} ms, of the bare predictor {own:.1f} ms"
    )


def _finished(process: Any) -> Result:
    said, _ = process.communicate()
    result = Result.from_text(said)
    if result.errors:
        print(f"{result.errors} errors, of which the first is {result.first}", flush=True)
    return result


def _bare(asked: dict[str, str]) -> None:
    """Prints the predictor's images per second and processor time, after some that warm it up."""
    predictor = Predictor(load_any(asked["model"], False, "cpu", None))
    items = cycle([Item("", data=data) for data in images_of(asked["images"])])
    seconds, begun, count = float(asked["seconds"]), 0.0, -_WARM
    before = spent = 0.0
    for batch in predictor.batches(items, 32, None):
        count += len(batch)
        if count >= 0 and not begun:
            begun, count, before = time.perf_counter(), 0, _used()
        elif begun and time.perf_counter() - begun > seconds:
            spent = _used()
            break
    print(json.dumps([count / (time.perf_counter() - begun), (spent - before) / count * 1000]))


def _used() -> float:
    return sum(map(_processor, _family(os.getpid())))


def _memory(server: Server, asked: dict[str, str]) -> None:
    requests = int(asked.get("requests", 20000))
    print("| requests | server, MB | reading processes, MB |\n|---:|---:|---:|")
    errors, done = 0, 0
    for part in (_WARM * 5, *[requests // _SAMPLES] * _SAMPLES):
        errors += _finished(server.clients(asked, requests=part)).errors
        done += part
        own, readers = server.memory()
        print(f"| {done} | {own:.1f} | {readers:.1f} |", flush=True)
    print(f"{errors} errors")


def _case(server: Server, asked: dict[str, str]) -> None:
    """Uploads images into one case, 50 at a time, and reads the case."""
    count = int(asked.get("count", 1000))
    link = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    headers = {"Authorization": f"Bearer {server.token}"}
    case = ask(link, "POST", "/v1/cases", headers, {"label": "bench"})["id"]
    files = list(islice(cycle(expand_inputs([asked["images"]])), count))
    begun = time.perf_counter()
    for first in range(0, count, 50):
        some = files[first : first + 50]
        ask(link, "POST", f"/v1/cases/{case}/images", headers, some)
    spent = time.perf_counter() - begun
    begun = time.perf_counter()
    found = ask(link, "GET", f"/v1/cases/{case}", headers)
    read = time.perf_counter() - begun
    print(
        f"{len(found['images'])} images in one case: {spent:.1f} s ({count / spent:.1f} images/s); "
        f"reading the case {read:.2f} s; memory {server.memory()[0]:.0f} MB"
    )


if __name__ == "__main__":
    main()
