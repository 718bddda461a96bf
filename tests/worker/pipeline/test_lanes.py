"""Answers are published in the order of their offsets, up to the first gap."""

from worker.messages.events import ClaimCheck, Delivery, ImageEvent, InlineImage
from worker.messages.records import Message, Partition, Progress, Record
from worker.pipeline.lanes import InFlight, Lane

WHERE = Partition("images", 3)

MANY = 1 << 30


def in_flight(offset: int, value: bytes | None = b"xx", timestamp_ms: int = 0) -> InFlight:
    record = Record(WHERE, offset, 7, timestamp_ms, None, value, ())
    return InFlight(record, Delivery(record.coordinates, 1, 0))


def answer(offset: int) -> Message:
    return Message("verdicts", None, b"%d" % offset, ())


def lane_of(*offsets: int) -> tuple[Lane, dict[int, InFlight]]:
    lane, items = Lane(WHERE, 7), {offset: in_flight(offset) for offset in offsets}
    for item in items.values():
        lane.admit(item)
    return lane, items


def test_progress_stops_at_the_first_gap() -> None:
    lane, items = lane_of(4, 5, 9, 10)  # offsets have gaps of their own: control records, compaction
    assert lane.progress(MANY, MANY) is None
    items[5].answer = answer(5)
    assert lane.progress(MANY, MANY) is None
    items[4].answer = answer(4)
    items[10].answer = answer(10)
    assert lane.progress(MANY, MANY) == Progress(WHERE, 7, 6, (answer(4), answer(5)))
    items[9].answer = answer(9)
    assert lane.progress(MANY, MANY) == Progress(WHERE, 7, 11, tuple(answer(offset) for offset in (4, 5, 9, 10)))


def test_asking_changes_nothing_and_settling_forgets_what_was_published() -> None:
    lane, items = lane_of(1, 2, 3)
    items[1].answer, items[2].answer = answer(1), answer(2)
    progress = lane.progress(MANY, MANY)
    assert progress == lane.progress(MANY, MANY)
    assert progress is not None
    items[3].answer = answer(3)  # comes while the others are being published
    assert lane.settle(progress) == [items[1], items[2]]
    assert list(lane) == [items[3]]
    assert lane.progress(MANY, MANY) == Progress(WHERE, 7, 4, (answer(3),))


def test_a_publication_is_cut_at_so_many_bytes_but_never_empty() -> None:
    lane, items = lane_of(1, 2, 3)
    for offset, item in items.items():
        item.answer = answer(offset)
    size = answer(1).held_bytes
    for limit, last in ((0, 1), (size, 1), (2 * size, 2), (MANY, 3)):
        progress = lane.progress(MANY, limit)
        assert progress is not None
        assert progress.next_offset == last + 1


def test_the_first_without_an_answer() -> None:
    lane, items = lane_of(1, 2)
    assert (lane.first_unanswered, len(lane)) == (items[1], 2)
    items[1].answer = answer(1)
    assert lane.first_unanswered is items[2]
    items[2].answer = answer(2)
    assert lane.first_unanswered is None  # all are answered; only the broker is slow
    assert Lane(WHERE, 7).first_unanswered is None


def test_what_an_event_holds_and_how_long_it_queued() -> None:
    assert in_flight(1).held_bytes == in_flight(1, None).held_bytes + 2
    item = in_flight(1, timestamp_ms=1000)
    item.admitted_ms = 1250
    assert item.queue_ms == 250
    item.admitted_ms = 900  # clocks differ
    assert item.queue_ms == 0


def test_inline_events_are_told_from_claim_checks() -> None:
    item = in_flight(1)
    assert not item.is_inline
    for content, inline in ((InlineImage(b""), True), (ClaimCheck("u", None), False)):
        item.event = ImageEvent("1", "s", None, "o", 1, {}, None, content)
        assert item.is_inline is inline
