"""What waits, who has it, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from bcd.errors import BcdError
from bcd.serving.outbox.entries import Counts, Outcome
from bcd.serving.outbox.store import DELIVERED, Outbox
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.tables import RECORDS
from tests.serving.making import IDENTITY
from tests.serving.outbox.making import BASE, Clock
from tests.serving.records.making import images, images_config

LEASE, DELAY = 100.0, 5.0


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    """Records in a folder."""
    with open_records(f"sqlite:///{tmp_path / 'r.sqlite'}", images_config(keep=False)) as opened:
        yield opened


@pytest.fixture
def clock() -> Clock:
    """Of all outboxes."""
    return Clock()


def outbox(records: Records, clock: Clock, owner: str) -> Outbox:
    made = Outbox(records.engine, owner, DELAY, LEASE, clock)
    made.start(BASE)
    return made


def new_case(records: Records, count: int = 1) -> str:
    case = records.open_case("anna", "label", IDENTITY, 1)
    if count:
        records.add_images("anna", case, IDENTITY, images(count))
    return case


def test_cases_of_before_and_empty_ones_stay_where_they_are(records: Records, clock: Clock) -> None:
    before = new_case(records)
    one = outbox(records, clock, "one")
    new_case(records, 0)
    assert one.collect() == 0 and one.entries() == []
    late = new_case(records)
    records.event("", "server started", {})
    assert one.collect() == 1 and one.collect() == 0
    assert [each.case_id for each in one.entries()] == [late]
    with pytest.raises(BcdError, match="1 of these 2 are no cases"):
        one.add([before, "0" * 16])
    assert len(one.entries()) == 1 and one.add([before]) == 1 and one.add() == 2
    assert {each.case_id for each in one.entries()} == {before, late}
    records.erase("admin", before, "asked by the patient")
    assert outbox(records, clock, "restarted").collect() == 1


def test_changes_join_one_delivery_until_it_is_due(records: Records, clock: Clock) -> None:
    one = outbox(records, clock, "one")
    case = new_case(records)
    one.collect()
    [first] = one.entries()
    clock.seconds += DELAY / 2
    records.sign("berta", case, records.case(case).version)
    one.collect()
    [second] = one.entries()
    assert (second.due, second.version) == (first.due, records.case(case).version)
    assert one.claim() is None
    clock.seconds += DELAY
    assert one.claim() is not None


def test_one_process_has_a_case_until_its_lease_ends(records: Records, clock: Clock) -> None:
    one, two = outbox(records, clock, "one"), outbox(records, clock, "two")
    case = new_case(records)
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None and claim.case_id == case
    assert two.claim() is None
    one.release()
    again = two.claim()
    assert again is not None
    two.release()
    claim = one.claim()
    assert claim is not None and two.claim() is None
    clock.seconds += LEASE - 1
    assert one.renew(claim, ("https://one",)) and two.claim() is None
    clock.seconds += LEASE + 1
    taken = two.claim()
    assert taken is not None and taken.attempts == 4
    assert taken.servers == ("https://one",) and not one.renew(claim, ())
    one.fail(claim, "too late")
    one.postpone(claim, 1e6, "too late")
    [entry] = two.entries()
    assert (entry.state, entry.error) == ("waiting", "")
    version = records.case(case).version
    outcome = Outcome(version, "https://one", "DiagnosticReport/1")
    for sender, held in ((one, claim), (two, taken), (one, claim)):
        sender.delivered(held, outcome)
    with records.engine.connect() as connection:
        kinds = connection.execute(select(RECORDS.c.kind)).scalars().all()
    assert kinds.count(DELIVERED) == 1, "only the process that has the case records it"
    assert two.entries() == [] and two.counts() == Counts(0, 0, 0, {})
    assert records.case(case).version == version, "a delivery is no change of the case"


def test_a_failed_case_is_tried_again_when_it_changes(records: Records, clock: Clock) -> None:
    one = outbox(records, clock, "one")
    case = new_case(records)
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None
    one.fail(claim, "HTTP 422")
    clock.seconds += 1e6
    assert one.claim() is None and one.counts().failed == 1
    records.sign("berta", case, records.case(case).version)
    one.collect()
    clock.seconds += DELAY
    assert one.claim() is not None


def test_what_is_asked_for_while_it_is_sent_is_sent_once_more(
    records: Records, clock: Clock
) -> None:
    one = outbox(records, clock, "one")
    case = new_case(records)
    one.add([case])
    for asked in (True, False):
        clock.seconds += DELAY
        claim = one.claim()
        assert claim is not None and claim.asked
        if asked:
            one.add([case])
        one.delivered(claim, Outcome(records.case(case).version, "https://one"))
    assert one.entries() == []


def test_retry_ends_the_peace_that_a_server_asked_for(records: Records, clock: Clock) -> None:
    one, two = outbox(records, clock, "one"), outbox(records, clock, "two")
    new_case(records)
    one.collect()
    clock.seconds += DELAY
    one.quiet(3600.0)
    assert two.claim() is None and two.quiet_until() == clock() + 3600.0
    assert two.retry() == 1
    assert two.quiet_until() is None and one.claim() is not None
    with pytest.raises(BcdError, match="no cases"):
        one.retry(["f" * 16])
