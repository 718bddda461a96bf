"""Which event is admitted next, and which has to wait."""

import base64
import json
import time
from dataclasses import replace
from typing import Any

from worker.errors import OverShare, UndecodableRecord
from worker.messages.events import NOT_BEFORE
from worker.messages.records import Message, Partition, Record
from worker.pipeline.intake import Intake
from worker.pipeline.lanes import InFlight
from worker.settings import Settings

IMAGES, OTHER, RETRY = Partition("images", 0), Partition("images", 1), Partition("images.retry", 0)
MANY = 1000
OWNED = {IMAGES: 1, OTHER: 1, RETRY: 1}


def intake(slots: int = 8, **sections: Any) -> Intake:
    return Intake(Settings.model_validate({"pipeline": {"max_in_flight": slots}, **sections}))


def records(
    partition: Partition, count: int, *, tenant: str = "t", not_before_ms: int = 0, first: int = 0
) -> list[Record]:
    headers = (
        ("content-type", b"image/png"),
        ("ce_id", b"1"),
        ("ce_source", b"s"),
        ("ce_tenant", tenant.encode()),
        (NOT_BEFORE, b"%d" % not_before_ms),
    )
    return [Record(partition, first + i, 1, 0, None, b"12345", headers) for i in range(count)]


def coordinates(admitted: list[InFlight]) -> list[tuple[str, int]]:
    return [(f"{item.record.partition.topic}/{item.record.partition.number}", item.record.offset) for item in admitted]


ANSWER = Message("verdicts", None, b"yes", (("ce_id", b"1"),))


def answer(inbox: Intake, admitted: list[InFlight], message: Message = ANSWER) -> None:
    for item in admitted:
        inbox.answer(item, message)


def test_partitions_take_turns() -> None:
    inbox = intake(slots=4)
    inbox.receive([*records(IMAGES, 10), *records(OTHER, 10)], OWNED)
    assert coordinates(list(inbox.admit())) == [("images/0", 0), ("images/1", 0), ("images/0", 1), ("images/1", 1)]
    assert not inbox.has_room()
    assert set(inbox.to_pause(OWNED)) == set(OWNED)


def test_what_a_producer_says_of_the_time_is_believed_within_limits() -> None:
    inbox, now_ms, day_ms = intake(), time.time() * 1000, 86_400_000
    [old] = records(IMAGES, 1)  # of 1970
    inbox.receive([old, replace(old, offset=1, timestamp_ms=int(now_ms) - 5_000)], OWNED)
    never_drained, recent = inbox.admit()
    assert day_ms - 60_000 < never_drained.queue_ms < day_ms + 60_000
    assert 5_000 <= recent.queue_ms < 65_000
    inbox.note_drained(IMAGES, time.time() * 1000)
    inbox.receive([replace(old, offset=2), replace(old, offset=3, is_broker_time=True)], OWNED)
    after_the_end_was_seen, of_the_broker = inbox.admit()
    assert after_the_end_was_seen.queue_ms < 60_000
    assert of_the_broker.queue_ms > 50 * 365 * day_ms


def test_slots_are_free_again_when_their_answers_are_settled() -> None:
    inbox = intake(slots=4)
    inbox.receive(records(IMAGES, 10), OWNED)
    admitted = list(inbox.admit())
    size = admitted[0].record.held_bytes
    assert (inbox.in_flight, inbox.held_bytes) == (4, 10 * size)  # those that wait are held too
    answer(inbox, admitted[:3])
    assert inbox.held_bytes == 7 * size + 3 * ANSWER.held_bytes
    [progress] = inbox.progress(MANY)
    assert progress.next_offset == 3
    assert list(inbox.settle([progress])) == admitted[:3]
    assert (inbox.in_flight, inbox.held_bytes) == (1, 7 * size)
    assert [item.record.offset for item in inbox.admit()] == [4, 5, 6]


def test_deferred_events_take_half_of_the_slots_at_most() -> None:
    inbox = intake(slots=8)
    inbox.receive(records(RETRY, 10), OWNED)
    assert len(list(inbox.admit())) == 4
    assert inbox.has_room()
    assert inbox.to_pause(OWNED) == [RETRY]
    inbox.receive(records(IMAGES, 10), OWNED)
    assert len(list(inbox.admit())) == 4


def test_deferred_events_wait_until_they_are_due() -> None:
    inbox = intake()
    in_a_while_ms = int(time.time() * 1000) + 20_000
    inbox.receive(records(RETRY, 1, not_before_ms=in_a_while_ms), OWNED)
    assert list(inbox.admit()) == []
    inbox.receive(records(IMAGES, 1), OWNED)
    assert coordinates(list(inbox.admit())) == [("images/0", 0)]


def test_a_wait_that_only_a_wrong_clock_can_mean_is_none() -> None:
    inbox = intake()
    inbox.receive(records(RETRY, 1, not_before_ms=int(time.time() * 1000) + 10**9), OWNED)
    assert len(list(inbox.admit())) == 1


def test_what_is_beyond_a_share_is_refused_once_and_waits_on_the_retry_topic() -> None:
    inbox = intake(slots=8)  # a quarter of them are two
    inbox.receive(records(OTHER, 1, tenant="b") + records(IMAGES, 4, tenant="a"), OWNED)
    admitted = list(inbox.admit())
    refused = [item for item in admitted if isinstance(item.refused, OverShare)]
    assert coordinates(refused) == [("images/0", 2), ("images/0", 3)]
    inbox.receive(records(RETRY, 2, tenant="a"), OWNED)
    assert list(inbox.admit()) == []
    answer(inbox, admitted)
    list(inbox.settle(inbox.progress(MANY)))
    assert coordinates(list(inbox.admit())) == [("images.retry/0", 0), ("images.retry/0", 1)]


def test_revoked_partitions_give_their_slots_back() -> None:
    inbox = intake(slots=8)
    inbox.receive(records(OTHER, 1, tenant="b") + records(IMAGES, 2, tenant="a"), OWNED)
    assert len(list(inbox.admit())) == 3
    inbox.forget_revoked({OTHER: 1})
    assert inbox.in_flight == 1
    inbox.receive(records(OTHER, 3, tenant="a", first=1), {OTHER: 1})
    assert [item.refused is None for item in inbox.admit()] == [True, True, False]


def test_records_of_an_earlier_assignment_are_left_to_others() -> None:
    inbox = intake()
    inbox.receive(records(IMAGES, 2), {IMAGES: 2})
    assert list(inbox.admit()) == []


def test_choked_is_full_of_answers_that_wait() -> None:
    inbox = intake(slots=4)
    inbox.receive(records(IMAGES, 10), OWNED)
    admitted = list(inbox.admit())
    answer(inbox, admitted[1:])
    assert not inbox.is_choked()  # none of these answers can be published yet
    answer(inbox, admitted[:1])
    assert inbox.is_choked()


def test_events_before_an_answered_one_hold_it_up_once_their_patience_is_over() -> None:
    inbox = intake(fetch={"patience_s": 100})
    inbox.receive(records(IMAGES, 5), OWNED)
    admitted = list(inbox.admit())
    for item in (admitted[0], admitted[2], admitted[4]):
        item.admitted -= 101
    assert list(inbox.holding_up()) == []
    answer(inbox, [admitted[1]])
    assert list(inbox.holding_up()) == [admitted[0]]
    answer(inbox, [admitted[3]])
    assert list(inbox.holding_up()) == [admitted[0], admitted[2]]


def test_deferred_events_hold_nothing_up() -> None:
    inbox = intake(fetch={"patience_s": 100})
    inbox.receive(records(RETRY, 2), OWNED)
    admitted = list(inbox.admit())
    admitted[0].admitted -= 101
    answer(inbox, admitted[1:])
    assert list(inbox.holding_up()) == []


def test_what_is_held_counts_headers_and_a_decoded_image_and_falls_to_the_answer() -> None:
    image = base64.b64encode(bytes(30_000)).decode()
    fields = {"id": "1", "source": "s", "datacontenttype": "image/png", "data_base64": image}
    structured = json.dumps(fields).encode()
    headers = (("content-type", b"application/cloudevents+json"), ("x", bytes(20_000)))
    inbox = intake()
    inbox.receive([Record(IMAGES, 0, 1, 0, b"k" * 1000, structured, headers)], OWNED)
    assert 61_000 < inbox.held_bytes < 62_500
    [item] = inbox.admit()
    assert 91_000 < inbox.held_bytes < 92_500
    answer(inbox, [item])
    assert inbox.held_bytes == ANSWER.held_bytes
    assert (item.record.value, item.record.headers, item.event) == (None, (), None)
    list(inbox.settle(inbox.progress(MANY)))
    assert inbox.held_bytes == 0


def test_answers_to_what_was_taken_away_count_for_nothing() -> None:
    inbox = intake()
    inbox.receive(records(IMAGES, 2), OWNED)
    admitted = list(inbox.admit())
    inbox.forget_revoked({})
    answer(inbox, admitted)
    assert (inbox.in_flight, inbox.held_bytes) == (0, 0)


def test_once_a_polls_worth_of_deferred_events_waits_no_more_of_them_are_polled() -> None:
    inbox, other = intake(kafka={"fetch_max_bytes": 2000}), Partition("images.retry", 1)
    owned = {**OWNED, other: 1}
    later = int(time.time() * 1000) + 20_000
    for count, paused in ((1, {RETRY}), (2, {RETRY, other})):
        inbox.receive(records(RETRY, count, not_before_ms=later), owned)
        assert list(inbox.admit()) == []
        assert set(inbox.to_pause(owned)) == paused


def test_a_publication_is_bounded_over_all_partitions_and_what_came_in_first_goes_first() -> None:
    partitions = [Partition("images", number) for number in range(8)]
    owned = dict.fromkeys(partitions, 1)
    inbox = intake(slots=100)
    for partition in partitions:
        inbox.receive(records(partition, 2), owned)
    admitted = list(inbox.admit())
    letter = Message("images.dead", b"k", bytes(2**21), (("x", bytes(2**20)),))
    answer(inbox, admitted, letter)
    published: list[Partition] = []
    while progress := inbox.progress(MANY):
        size = sum(message.held_bytes for part in progress for message in part.messages)
        assert size <= 16 * 2**20 + letter.held_bytes
        published += [part.partition for part in progress]
        list(inbox.settle(progress))
    assert published == partitions * 2
    assert inbox.held_bytes == 0


def test_a_record_for_many_offsets_is_passed_as_a_whole() -> None:
    inbox = intake()
    batch = Record(IMAGES, 10, 1, 0, None, None, (), unread=UndecodableRecord("too many"), count=2**20 + 1)
    inbox.receive([batch, *records(IMAGES, 1, first=2**20 + 11)], OWNED)
    assert inbox.unanswered(IMAGES) == 2**20 + 2
    first, _ = inbox.admit()
    assert isinstance(first.refused, UndecodableRecord)
    assert inbox.unanswered(IMAGES) == 2**20 + 2
    answer(inbox, [first])
    [progress] = inbox.progress(MANY)
    assert (progress.next_offset, len(progress.messages)) == (2**20 + 11, 1)
    list(inbox.settle([progress]))
    assert inbox.unanswered(IMAGES) == 1
