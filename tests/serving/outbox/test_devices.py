"""The Device of a model, which cases share: made once, and again if it is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving.outbox.fhir_server import FhirServer, fhir_server
from tests.serving.outbox.making import Posting, new_case, posting, send

LATER = 1e6  # seconds, more than any wait


@pytest.fixture
def fhir() -> Iterator[FhirServer]:
    """A FHIR server."""
    with fhir_server() as server:
        yield server


@pytest.mark.parametrize("status", ["422", "401"])
def test_a_device_that_is_refused_keeps_no_case_waiting(
    status: str, fhir: FhirServer, tmp_path: Path
) -> None:
    fhir.fault = lambda kind: status if kind == "device" else ""
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        for _ in range(2):
            new_case(post, 1)
        send(post)
        outbox = post.sender().outbox
        assert [f"HTTP {status}" in each.error for each in outbox.entries()] == [True, True]
        fhir.fault = lambda _: ""
        outbox.retry()
        send(post, later=0.0)
        assert outbox.entries() == [] and len(fhir.now("Device")) == 1


def test_a_device_that_is_gone_is_made_again(fhir: FhirServer, tmp_path: Path) -> None:
    async def twice(post: Posting) -> None:
        sender = post.sender()
        for _ in range(2):
            new_case(post, 1)
            sender.outbox.collect()
            post.clock.seconds += 10
            await sender.post_due()
            if not fhir.fault(""):
                del fhir.history[next(key for key in fhir.history if key[0] == "Device")]
                # As of servers that refuse references that lead nowhere.
                fhir.fault = lambda kind: (
                    "422" if kind == "transaction" and not fhir.now("Device") else ""
                )
        await sender.close()

    with posting(tmp_path, fhir.url) as post:
        post.sender()
        asyncio.run(twice(post))
        assert post.sender().outbox.entries() == []


def test_two_processes_make_one_device(fhir: FhirServer, tmp_path: Path) -> None:
    fhir.racing = 0.2

    async def both(post: Posting) -> None:
        senders = [post.sender() for _ in range(2)]
        senders[0].outbox.collect()
        post.clock.seconds += 10
        await asyncio.gather(*(each.post_due() for each in senders))
        for each in senders:
            await each.close()

    with posting(tmp_path, fhir.url) as post:
        post.sender()
        for _ in range(2):
            new_case(post, 1)
        asyncio.run(both(post))
        send(post, later=LATER)
        assert post.sender().outbox.entries() == []
    [device] = fhir.now("Device")
    used = {each["device"]["reference"] for each in fhir.now("Observation")}
    assert used == {f"Device/{device['id']}"} and len(fhir.now("DiagnosticReport")) == 2


def test_a_device_that_may_still_be_made_is_not_made_again(
    fhir: FhirServer, tmp_path: Path
) -> None:
    fhir.fault = lambda kind: "reset" if kind == "device" else ""
    with posting(tmp_path, fhir.url) as post:
        post.sender()
        new_case(post, 1)
        send(post)
        fhir.fault = lambda _: ""
        send(post)
        [entry] = post.sender().outbox.entries()
        assert "Device" in entry.error and fhir.now("Device") == []
        send(post, later=LATER)
        assert post.sender().outbox.entries() == [] and len(fhir.now("Device")) == 1
