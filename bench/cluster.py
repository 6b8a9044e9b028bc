"""Three `bcd serve` on one PostgreSQL database, of which one is killed every few seconds.

python -m bench.cluster model=<export> images=<folder> [count=5000] [servers=3] [every=20]
    [records=<URL of an empty PostgreSQL database>]

Images are added with `Prefer: respond-async`, an upload id each, by a client that sends a request
again if its server was killed. Without `records`, a PostgreSQL of this machine is started for it.
The exit status is 0 only if each image has one answer with a class, and the chain is whole.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx

from bcd.config.compose import CONF
from bcd.data.load import expand_inputs
from bcd.serving.records.database import connect
from bcd.serving.records.verify import verify
from bench.measure import machine

_OF_A_CASE, _TOGETHER = 100, 20  # images of a case, and of a request
_NAME = "bench"
_KEYS = {"model", "images", "count", "servers", "every", "records"}


class Server:
    """A server that is started again after it was killed.

    Args:
        model: It answers.
        folder: Of its log.
        number: Of the server.
    """

    def __init__(self, model: str, folder: Path, number: int) -> None:
        self._words = [f"model={model}", f"folder={folder / str(number)}", "port=0", "device=cpu"]
        self._log = folder / f"{number}.log"
        self._process: subprocess.Popen[str] | None = None
        self.url = ""  # empty while it does not serve

    def start(self) -> None:
        """Starts it, and waits until it serves."""
        command = [sys.executable, "-m", "bcd", "serve", *self._words, "log.level=warning",
                   "limits.requests_per_minute=1000000"]  # fmt: skip
        with self._log.open("a") as log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        line = next((line for line in self._process.stdout if "bcd serves" in line), "")
        assert line, f"the server did not start: {self._log.read_text()[-2000:]}"
        self.url = line.split()[2]

    def answers(self) -> int:
        """How many answers its process has computed."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(
            int(float(n)) for n in re.findall(r"^bcd_answers_total\{.*\} (\S+)$", text, re.M)
        )

    def stop(self, kill: bool) -> None:
        """Ends it, at once or gracefully."""
        self.url = ""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(60)


class Killer(threading.Thread):
    """Kills one server after the other, and starts it again.

    Args:
        servers: They are killed in turn.
        every: Seconds between two.

    Attributes:
        kills: So many.
        computed: Answers that killed servers had computed when they were last asked.
    """

    def __init__(self, servers: list[Server], every: float) -> None:
        super().__init__(daemon=True)
        self._servers, self._every = itertools.cycle(servers), every
        self.kills = self.computed = 0
        self.ended = threading.Event()

    def run(self) -> None:
        """Goes on until it is told to end; the next one does not wait for a start."""
        starts: list[threading.Thread] = []
        due = time.monotonic()
        while True:
            due += self._every
            if self.ended.wait(max(0.0, due - time.monotonic())):
                break
            server = next(self._servers)
            while not server.url:  # it is still starting
                server = next(self._servers)
            with contextlib.suppress(httpx.HTTPError):
                self.computed += server.answers()
            server.stop(kill=True)
            self.kills += 1
            starts.append(threading.Thread(target=server.start))
            starts[-1].start()
        for start in starts:
            start.join()


class Client:
    """Adds images, at whichever server there is.

    Args:
        servers: One after the other is asked.
        token: Of a user.
    """

    def __init__(self, servers: list[Server], token: str) -> None:
        self._servers = itertools.cycle(servers)
        headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        self._client = httpx.Client(headers=headers, timeout=60)
        self.again = 0  # requests that were sent again

    def post(self, path: str, **what: object) -> httpx.Response:
        """Sends a request until a server takes it."""
        while True:
            server = next(self._servers)
            if not server.url:
                time.sleep(0.05)
                continue
            try:
                given = self._client.post(server.url + path, **what)  # type: ignore[arg-type]
            except httpx.HTTPError:
                self.again += 1
                continue
            if given.is_success:
                return given
            self.again += 1
            assert given.status_code in (429, 503), given.text
            time.sleep(0.2)

    def add(self, files: list[Path], count: int) -> None:
        """Adds so many images, in cases of a hundred; the files are used again if they are few."""
        chosen = itertools.cycle(files)
        for start in range(0, count, _TOGETHER):
            if start % _OF_A_CASE == 0:
                case = self.post("/v1/cases", json={"label": f"case {start}"}).json()["id"]
            some = [next(chosen) for _ in range(min(_TOGETHER, count - start))]
            sent = [("images", (file.name, file.read_bytes())) for file in some]
            ids = {"upload": [secrets.token_urlsafe(12) for _ in some]}
            self.post(f"/v1/cases/{case}/images", files=sent, data=ids)


def _token() -> str:
    from hydra import compose, initialize_config_dir

    from bcd.config.check import check_config
    from bcd.config.serve import ServeConfig
    from bcd.serving.accounts.store import Accounts
    from bcd.serving.records.store import open_records

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = check_config(compose("serve"), ServeConfig)
    with open_records(os.environ["BCD_RECORDS"], cfg.images) as records:
        accounts = Accounts(records.engine, cfg)
        accounts.users.add("", _NAME, secrets.token_urlsafe(20), ["submit"])
        return accounts.tokens.add(_NAME, _NAME, ["submit"], 1)


@contextlib.contextmanager
def _database(given: str | None) -> Iterator[str]:
    if given is not None:
        yield given
        return
    from tests.serving.records.postgres import postgres

    with postgres() as url:
        yield url


def _measure(asked: dict[str, str], folder: Path, url: str) -> None:
    os.environ["BCD_RECORDS"] = url
    count, every = int(asked.get("count", 5000)), float(asked.get("every", 20))
    files = expand_inputs([asked["images"]])
    token = _token()
    servers = [
        Server(asked["model"], folder, number) for number in range(int(asked.get("servers", 3)))
    ]
    engine = connect(url)
    try:
        for server in servers:
            server.start()
        killer, client = Killer(servers, every), Client(servers, token)
        begun = time.monotonic()
        killer.start()
        client.add(files, count)
        added = time.monotonic() - begun
        while True:
            with engine.connect() as connection:
                waiting = connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar_one()
            if not waiting:
                break
            time.sleep(0.2)
        seconds = time.monotonic() - begun
        killer.ended.set()
        killer.join()
        computed = killer.computed + sum(server.answers() for server in servers)
    finally:
        for server in servers:
            server.stop(kill=False)
    with engine.connect() as connection:
        answers, uploads, classed = connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT upload), count(predicted) FROM answers"
        ).one()
        payloads = connection.exec_driver_sql(
            "SELECT payload FROM records JOIN answers ON record = number WHERE predicted IS NULL"
        ).scalars().all()  # fmt: skip
    engine.dispose()
    found = verify(url)
    print(
        f"{count} images added in {added:.1f} s, answered after {seconds:.1f} s "
        f"({count / seconds:.1f} images/s); {killer.kills} servers killed, "
        f"{client.again} requests sent again\n"
        f"{answers} answers recorded, of {uploads} uploads, {classed} with a class; at least "
        f"{computed} computed, so {max(0, computed - answers)} or more for nothing\n"
        f"verify: {found.records} records, {found.images} images, "
        f"{'whole' if not found.problems else found.problems}",
        flush=True,
    )
    reasons = Counter(json.loads(payload)["answer"]["error"] for payload in payloads)
    if why := refuted(count, (answers, uploads, classed), reasons, found.problems):
        sys.exit("\n".join(why))
    if not killer.kills:
        sys.exit("nothing was shown: all was answered before a server was killed; give a larger "
                 "count= or a smaller every=")  # fmt: skip


def refuted(
    count: int,
    found: tuple[int, int, int],
    reasons: Mapping[str, int],
    problems: Sequence[str],
) -> list[str]:
    """Why it is not shown that each image is answered once; nothing if it is.

    Args:
        count: Images that were added.
        found: Answers that are recorded, their different uploads, and those with a class.
        reasons: Why the others have none, with their number.
        problems: Of the chain.
    """
    answers, uploads, classed = found
    why = []
    if answers != count or uploads != count:
        why.append(f"refuted: {answers} answers of {uploads} uploads, where {count} were added")
    if classed != answers:
        why.append(f"refuted: {answers - classed} images are without a class:")
        why += [f"  {number} times: {reason}" for reason, number in reasons.items()]
    return why + [f"refuted: the chain is not whole: {problem}" for problem in problems]


def main() -> None:
    """Measures."""
    asked = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if not {"model", "images"} <= set(asked) <= _KEYS:
        sys.exit(__doc__)
    print(machine())
    with tempfile.TemporaryDirectory() as folder, _database(asked.get("records")) as url:
        _measure(asked, Path(folder), url)


if __name__ == "__main__":
    main()
