"""Which event is admitted next: partitions in turn, as long as there is room, and no tenant beyond its share.

An event holds a slot from its admission until its answer is published, since offsets only go forward.
"""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from worker.errors import AnswerRefused, OverShare, WorkerError, WorkerKilled
from worker.fairness import Shares
from worker.messages.events import read_delivery, read_event
from worker.messages.records import Message, Partition, Progress, Record
from worker.pipeline.journal import KILLS, Journal
from worker.pipeline.lanes import InFlight, Lane
from worker.settings import Settings

_LANE_BYTES, _PUBLICATION_BYTES = 4 * 2**20, 16 * 2**20
"""Most bytes of one partition, and of all, in one publication, one message apart: dead letters may be large, and must
be through before a time-out."""

_DEFERRAL_BYTES = 4 * 1024
"""More than the worker's own headers on a deferral have."""
_OLDEST_MS = 86_400_000.0
"""How far back a producer's timestamp is believed where the worker has not seen the end of the partition itself."""


@dataclass(slots=True)
class Refusals:
    """What the broker has refused of a partition, in one assignment."""

    epoch: int
    rejected: dict[int, AnswerRefused] = field(default_factory=dict)
    """Events, by their offsets, that are to be rejected now."""
    offset: float = float("inf")
    """The first event that can only get the same answer again: from there on events are taken one at a time."""
    until: float = 0.0
    """Monotonic time before which none of those is taken."""

    def settle(self, next_offset: int) -> None:
        """Forget what is answered."""
        for offset in [offset for offset in self.rejected if offset < next_offset]:
            del self.rejected[offset]
        if self.offset < next_offset:
            self.offset = float("inf")

    def lets_wait(self, offset: int, *, in_flight: bool) -> bool:
        """Whether an event may not be taken yet; ``in_flight`` if others of its partition are."""
        return offset >= self.offset and (in_flight or time.monotonic() < self.until)


class Intake:
    """The lanes of all owned partitions and the room that they share; used by the pipeline's thread alone."""

    def __init__(self, settings: Settings, journal: Journal | None = None) -> None:
        self._settings = settings
        self._journal = journal or Journal(None, 0)
        self._lanes: dict[Partition, Lane] = {}
        self._shares = Shares(settings.fairness, settings.pipeline.max_in_flight)
        self._retry_room = max(1, settings.pipeline.max_in_flight // 2)
        self.max_message_bytes = settings.kafka.max_message_bytes
        """Largest message that can be published: as the settings say, and less once the broker has told."""
        self.in_flight = 0
        """Slots taken: events admitted and not yet settled."""
        self._in_flight_bytes = 0
        self._refusals: dict[Partition, Refusals] = {}
        self._drained_ms: dict[Partition, float] = {}
        self._retries = 0
        self._unanswered = 0
        self._is_alone = False
        """Whether an event is in the stages that must be alone there."""

    def receive(self, records: list[Record], owned: Mapping[Partition, int]) -> None:
        """Queue polled records; those of an assignment that has ended are left to the partition's next owner."""
        for record in records:
            if owned.get(record.partition) != record.epoch:
                continue
            if record.partition not in self._lanes:
                self._lanes[record.partition] = Lane(record.partition, record.epoch)
                # What was committed is answered.
                self._journal.forget(record.partition, before=record.offset, spare_rejected=True)
            self._lanes[record.partition].receive(self._with_bounded_time(record))

    def note_drained(self, partition: Partition, at_ms: float) -> None:
        """Note that all records that a partition had at a time (Unix, milliseconds) have been received."""
        self._drained_ms[partition] = at_ms
        self._journal.forget_batches(partition)

    def forget_revoked(self, owned: Mapping[Partition, int]) -> None:
        """Drop what is in flight on partitions that were taken away: their next owner reads those events again."""
        for partition, lane in list(self._lanes.items()):
            if owned.get(partition) != lane.epoch:
                for item in lane:
                    item.dropped = True
                    self._leave(item)
                del self._lanes[partition]
                if partition not in owned:
                    self._journal.forget(partition)
        for partition in self._drained_ms.keys() - owned.keys():
            del self._drained_ms[partition]
        for partition, refusals in list(self._refusals.items()):
            if owned.get(partition) != refusals.epoch:
                del self._refusals[partition]

    def forget_waiting(self) -> None:
        """Forget what was polled and not yet admitted."""
        for lane in self._lanes.values():
            lane.forget_waiting()

    def admit(self) -> Iterator[InFlight]:
        """Admit one event of each partition in turn, while there is room, and yield it."""
        progressing = True
        while progressing:
            progressing = False
            for lane in list(self._lanes.values()):
                if lane.waiting and self.has_room() and (item := self._take(lane)):
                    self._lanes[lane.partition] = self._lanes.pop(lane.partition)  # its next turn comes last
                    progressing = True
                    yield item

    def answer(self, item: InFlight, message: Message) -> None:
        """Set the answer of an event."""
        if not item.dropped:
            self._in_flight_bytes -= item.held_bytes
            if item.answer is None:
                self._strike(item)
            item.settle_for(message)
            self._in_flight_bytes += item.held_bytes

    def to_pause(self, owned: Collection[Partition]) -> list[Partition]:
        """Partitions to pause: those with waiting records; all of them when there is no room.

        Deferred events may wait long, so that no more of them are polled once a poll's worth waits. What is suspected
        of having killed a process has to be alone: an event while no batch is unpacked, a batch while no event is in
        flight.
        """
        if not self.has_room() or self._is_alone or (self.in_flight and self._journal.suspects_batch_of(owned)):
            return list(owned)
        waiting = {lane.partition for lane in self._lanes.values() if lane.waiting}
        deferred_bytes = sum(lane.waiting_bytes for lane in self._lanes.values() if self._is_retry(lane.partition))
        if deferred_bytes >= self._settings.kafka.fetch_max_bytes:
            waiting |= {partition for partition in owned if self._is_retry(partition)}
        return list(waiting)

    def has_room(self) -> bool:
        """Whether another event may be admitted."""
        limits = self._settings.pipeline
        return self.in_flight < limits.max_in_flight and self._in_flight_bytes < limits.max_in_flight_bytes

    @property
    def is_careful(self) -> bool:
        """Whether events are taken one at a time, since one of them may have killed a process."""
        return self._is_alone or self._must_be_alone()

    @property
    def held_bytes(self) -> int:
        """Bytes of all events that wait or are in flight, and of their answers."""
        return self._in_flight_bytes + sum(lane.waiting_bytes for lane in self._lanes.values())

    def is_choked(self) -> bool:
        """Whether there is no room, and at least half of the slots hold answers that only wait to be published."""
        return not self.has_room() and 2 * sum(lane.answered for lane in self._lanes.values()) >= self.in_flight

    def holding_up(self) -> Iterator[InFlight]:
        """Fresh events without an answer after ``fetch.patience_s``, before others that have one already."""
        before = time.monotonic() - self._settings.fetch.patience_s
        for lane in self._lanes.values():
            if not self._is_retry(lane.partition):
                yield from (item for item in lane.holding_up() if item.admitted < before)

    def progress(self, max_events: int) -> list[Progress]:
        """Answers that can be published now, by partition; those that came in first go first."""
        found: list[Progress] = []
        left = _PUBLICATION_BYTES
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.first_admitted):
            if left > 0 and max_events > 0 and (part := lane.progress(max_events, min(left, _LANE_BYTES))):
                found.append(part)
                max_events -= len(part.messages)
                left -= sum(message.held_bytes for message in part.messages)
        return found

    def answered_by(self, messages: Collection[object]) -> list[InFlight]:
        """The events in flight that have these very messages as their answers."""
        wanted = set(map(id, messages))
        return [item for lane in self._lanes.values() for item in lane if id(item.answer) in wanted]

    def first_offset(self, partition: Partition) -> int:
        """Offset of the first event of a partition that is in flight; there must be one."""
        return self._lanes[partition].first_offset

    def note_refused(self, item: InFlight, refusal: AnswerRefused | None, epoch: int, delay_s: float) -> None:
        """Note that the broker has refused the answer of an event, whose partition is read again.

        Args:
            item: the event.
            refusal: what it is to be rejected with; None if it waits, and what comes after it, until it is answered.
            epoch: the new one of its partition.
            delay_s: how long it waits at least.
        """
        partition, offset = item.record.partition, item.record.offset
        refusals = self._refusals.setdefault(partition, Refusals(epoch))
        refusals.epoch = epoch
        if refusal is not None:
            refusals.rejected[offset] = refusal
        else:
            refusals.offset, refusals.until = offset, time.monotonic() + delay_s

    def settle(self, progress: list[Progress]) -> Iterator[InFlight]:
        """Free the slots of what has been published, and yield those events."""
        for part in progress:
            for item in self._lanes[part.partition].settle(part):
                self._leave(item)
                yield item
            refusals = self._refusals.get(part.partition)
            if refusals is not None:
                refusals.settle(part.next_offset)
            if self._journal.suspects:  # among them events and batches that were rejected unread
                self._journal.forget(part.partition, before=part.next_offset)

    def unanswered(self, partition: Partition) -> int:
        """Offsets of a partition that were consumed and not yet settled."""
        lane = self._lanes.get(partition)
        return lane.unanswered if lane is not None else 0  # a lane with nothing in flight is false

    @property
    def waiting(self) -> int:
        """Events consumed and not yet admitted."""
        return sum(len(lane.waiting) for lane in self._lanes.values())

    def first_unanswered(self) -> Iterator[InFlight]:
        """The first event without an answer of each partition that has one."""
        yield from filter(None, (lane.first_unanswered for lane in self._lanes.values()))

    def may_be_deferred(self, item: InFlight) -> bool:
        """Whether an event may be deferred for its tenant's sake: others are active, and a message can carry it."""
        others = self._settings.fairness.max_share < 1 and self._shares.others_are_active(item.tenant or "")
        return others and item.record.held_bytes + _DEFERRAL_BYTES <= self.max_message_bytes

    def _with_bounded_time(self, record: Record) -> Record:
        """The record; its producer's timestamp cannot be from before the partition was last seen without it."""
        if record.is_broker_time:
            return record
        earliest_ms = max(self._drained_ms.get(record.partition, 0), time.time() * 1000 - _OLDEST_MS)
        return replace(record, timestamp_ms=int(earliest_ms)) if record.timestamp_ms < earliest_ms else record

    def _take(self, lane: Lane) -> InFlight | None:
        """Admit the first waiting event of a lane; None if it, and so the lane, has to wait longer."""
        alone = self._must_be_alone()
        if self._is_alone or (alone and self._unanswered):
            return None
        refusals = self._refusals.get(lane.partition)
        if refusals is not None and refusals.lets_wait(lane.waiting[0].offset, in_flight=len(lane) > 0):
            return None
        item = lane.next = lane.next or self._parse(lane.waiting[0], alone=alone)
        is_retry = self._is_retry(lane.partition)
        if is_retry and (self._retries >= self._retry_room or not self._is_due(item)):
            return None
        if item.event is not None:
            tenant = item.event.attributes.get(self._settings.fairness.attribute, "")
            if not self._shares.is_beyond(tenant):
                item.tenant = tenant
                self._shares.take(tenant)
            elif is_retry or item.record.held_bytes + _DEFERRAL_BYTES > self.max_message_bytes:
                return None
            else:
                item.refused = OverShare("its tenant holds its share of the slots, and other tenants are active")
            self._shares.see(tenant)
        lane.dequeue()
        lane.admit(item)
        self.in_flight += 1
        self._in_flight_bytes += item.held_bytes
        self._retries += is_retry
        self._journal.note(item.record, alone=alone)
        self._unanswered += 1
        self._is_alone = alone
        return item

    def _must_be_alone(self) -> bool:
        """Whether an event waits that was in flight when an earlier process was killed."""
        return any(
            (lane := self._lanes.get(suspect.partition)) is not None
            and lane.waiting
            and lane.waiting[0].offset <= suspect.offset
            for suspect, kills in self._journal.suspects.items()
            if not suspect.is_batch and kills < KILLS  # or it is rejected unread
        )

    def _parse(self, record: Record, *, alone: bool) -> InFlight:
        events = self._settings.events
        item = InFlight(record, read_delivery(record, self._settings.kafka.retry_topic))
        kills = self._journal.kills(record)
        if kills >= KILLS:
            item.refused = WorkerKilled(f"{kills} processes ended while it was in flight and nothing else was")
            return item
        refusals = self._refusals.get(record.partition)
        if refusals is not None and record.offset in refusals.rejected:
            item.refused = refusals.rejected[record.offset]
            return item
        self._journal.note(record, alone=alone)
        try:
            item.event = read_event(record, item.delivery, events.inline_max_bytes, events.attributes)
        except WorkerError as error:
            item.refused = error
        self._journal.release(record)
        return item

    def _strike(self, item: InFlight) -> None:
        """Note that the answer of an event is known, or not wanted any more.

        An event that is rejected as a killer stays noted until that is published: another kill may come before.
        """
        if self._journal.kills(item.record) < KILLS:
            self._journal.strike(item.record)
        self._unanswered -= 1
        self._is_alone = False

    def _leave(self, item: InFlight) -> None:
        if item.answer is None:
            self._strike(item)
        self.in_flight -= 1
        self._in_flight_bytes -= item.held_bytes
        self._retries -= self._is_retry(item.record.partition)
        if item.tenant is not None:
            self._shares.give_back(item.tenant)

    def _is_retry(self, partition: Partition) -> bool:
        return partition.topic == self._settings.kafka.retry_topic

    def _is_due(self, item: InFlight) -> bool:
        """Whether its time has come, or is so far beyond the retry delay that the clock which set it was wrong."""
        wait_s = item.delivery.not_before_ms / 1000 - time.time()
        return wait_s <= 0 or wait_s > 2 * self._settings.fetch.retry_delay_s
