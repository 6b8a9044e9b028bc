"""What keeps files of a watch folder from being taken or answered, and that others go on.

The watcher has a clock of its own, in which `scanner.stable_seconds` is 2.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bcd.serving.intake import files, placing
from bcd.serving.intake.placing import Delivery, Origin, deliver
from bcd.serving.jobs import adding
from bcd.serving.records.cases import NewImage
from bcd.serving.services import Services
from bcd.storage import digest
from tests.serving.intake.following import Following, answered, cases_of, files_in
from tests.serving.making import smear
from tests.serving.records.making import OTHER_MODEL
from tests.serving.running import Running


def of_another_model(services: Services) -> Services:
    """Of a server with another model, which is stopped before it answers."""

    class Other:
        identity = OTHER_MODEL

        def __getattr__(self, name: str) -> Any:
            return getattr(services.engine, name)

    engine: Any = Other()
    return replace(services, engine=engine)


def test_files_that_wait_for_another_model_keep_no_others_out(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = app.app.state.services
    monkeypatch.setattr(services.cfg.limits, "queue", 2)
    former = Following(of_another_model(services), folder.folder)
    for number in (60, 61):
        folder.put(f"former/{number}.png", smear(number))
    former.until(lambda: former.watcher._given() == 2)
    folder.put("former/62.png", smear(62))
    folder.until_moved("done/former/62.png")
    assert folder.watcher.elsewhere == 2
    assert len(answered(app.services, "former (2)")) == 1
    assert files_in(folder.folder / "former") == {"60.png", "61.png"}


def test_servers_with_different_models_put_an_image_into_one_case(
    app: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    services, real = app.app.state.services, adding.job_rows
    other = of_another_model(services)
    origin = Origin.of("watch folder", "", b"two models", "two models")
    images = [NewImage(f"{n}.png", smear(n), digest(f"two models {n}")[:32]) for n in range(4)]
    there: list[Delivery] = []

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(placing, "job_rows", real)
        there.append(deliver(other, origin, images[:1]))
        return real(*given)

    monkeypatch.setattr(placing, "job_rows", meanwhile)  # it has looked, and adds nothing yet
    here = deliver(services, origin, images[:1])
    assert here.case_id == there[0].case_id and here.known.keys() == {images[0].upload}
    for number, image in enumerate(images[1:]):  # each has a case, not one for each image
        deliver((services, other)[number % 2], origin, [image])
    labels = [case.label for case in cases_of(services) if "two models" in case.label]
    assert sorted(labels) == ["two models", "two models (2)"]


def test_errors_that_pass_are_waited_for_and_name_no_file(
    app: Running, folder: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(root: Path, *_: object) -> None:
        raise OSError(errno.ENOSPC, "full", str(root / "Jane Doe"))

    folder.put("Jane Doe/1.png", smear(50))
    with monkeypatch.context() as patch:
        patch.setattr(files, "move", full)
        problems: set[str] = set()
        folder.until(lambda: problems.add(folder.step()) or "ENOSPC" in problems)  # type: ignore[func-returns-value]
        assert folder.watcher.hindered == 1
    assert problems <= {"", "ENOSPC"}
    assert len(answered(app.services, "Jane Doe")) == 1
    folder.until_moved("done/Jane Doe/1.png")
    assert len(answered(app.services, "Jane Doe")) == 1
    gone = folder.folder.rename(folder.folder.with_name(f"{folder.folder.name} gone"))
    with pytest.raises(FileNotFoundError):
        folder.step()
    gone.rename(folder.folder)
    assert (folder.step(), folder.watcher.hindered) == ("", 0)
