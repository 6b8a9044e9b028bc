"""What waits, who has it, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from bcd.errors import BcdError
from bcd.serving.outbox import listing
from bcd.serving.outbox.entries import Counts, Outcome
from bcd.serving.outbox.listing import Listing
from bcd.serving.outbox.store import DELIVERED, Outbox
from bcd.serving.records.store import Records, open_records
from bcd.serving.records.tables import OUTBOX, RECORDS
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


def servers(records: Records) -> str:
    """Which servers have contents of the only case."""
    with records.engine.connect() as connection:
        return str(connection.execute(select(OUTBOX.c.servers)).scalar_one())


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
    assert one.renew(claim, "https://one") and two.claim() is None
    clock.seconds += LEASE + 1
    taken = two.claim()
    assert taken is not None and taken.attempts == 4
    assert not one.renew(claim, "https://two") and servers(records) == "https://one"
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


@pytest.mark.parametrize("what", ["sign", "retry", "add"])
def test_what_happens_during_an_attempt_that_is_refused_is_not_lost(
    what: str, records: Records, clock: Clock
) -> None:
    one, two = outbox(records, clock, "one"), outbox(records, clock, "two")
    case = new_case(records)
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None
    if what == "sign":
        records.sign("berta", case, records.case(case).version)
        two.collect()
    else:
        assert getattr(two, what)([case]) == 1
    one.fail(claim, "HTTP 422")
    clock.seconds += DELAY
    again = two.claim()
    assert again is not None and again.version == records.case(case).version
    two.fail(again, "HTTP 422")
    assert one.counts().failed == 1


def test_a_retry_during_an_attempt_is_at_once(records: Records, clock: Clock) -> None:
    one, two = outbox(records, clock, "one"), outbox(records, clock, "two")
    new_case(records)
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None and two.retry() == 1
    one.postpone(claim, 1e6, "no answer in time")
    again = two.claim()
    assert again is not None
    two.postpone(again, 1e6, "no answer in time")
    assert one.claim() is None


def test_what_a_person_confirms_during_an_attempt_stays(records: Records, clock: Clock) -> None:
    one, two = outbox(records, clock, "one"), outbox(records, clock, "two")
    case = new_case(records)
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None and one.renew(claim, "https://old")
    one.delivered(claim, Outcome(claim.version, "https://old"))
    records.erase("admin", case, "asked by the patient")
    one.collect()
    clock.seconds += DELAY
    claim = one.claim()
    assert claim is not None and one.counts().not_erased == 1
    two.confirm_erased("carl", [case])
    assert one.renew(claim)
    one.skip(claim, Outcome(records.case(case).version, "https://new", contents=False))
    assert servers(records) == "" and one.counts() == Counts(0, 0, 0, {})


def test_others_write_while_all_cases_are_added(
    records: Records, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, cases = outbox(records, clock, "one"), {new_case(records) for _ in range(3)}
    new_case(records, 0)
    monkeypatch.setattr(listing, "_PART", 2)
    put, calls = Listing._put, []

    def noted(*args: Any, **options: Any) -> int:
        calls.append(put(*args, **options))
        return calls[-1]

    monkeypatch.setattr(Listing, "_put", noted)
    assert one.add() == len(cases) and {each.case_id for each in one.entries()} == cases
    assert len(calls) == 2 and max(calls) <= 2, "each in a transaction of its own"


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
    two.quiet(1.0)
    assert two.claim() is None and two.quiet_until() == clock() + 3600.0
    assert two.retry() == 1
    assert two.quiet_until() is None and one.claim() is not None
    with pytest.raises(BcdError, match="no cases"):
        one.retry(["f" * 16])
