"""Order and progress of one partition: which records wait, which are in flight, and how far the offset may go.

Verdicts of a partition leave in the order in which its events came, and an offset is committed only when everything
before it is answered. Only the pipeline's thread touches lanes.
"""

import itertools
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from prometheus_client import Counter

from worker.errors import WorkerError
from worker.messages.events import Delivery, ImageEvent, InlineImage
from worker.messages.records import Message, Partition, Progress, Record


@dataclass(eq=False, slots=True)
class InFlight:
    """An event between its admission and the publication of its answer.

    Only the pipeline's thread writes to it. The threads of the stages read what was set before ``Stages.submit``, and
    ``dropped``; what they find out travels to the pipeline in a ``Completion``.
    """

    record: Record
    delivery: Delivery
    event: ImageEvent | None = None
    admitted: float = 0.0
    admitted_ms: float = 0.0
    refused: WorkerError | None = None
    """Why it is answered without passing through the stages."""
    tenant: str | None = None
    """The tenant whose slot it takes; None if it takes none."""
    dropped: bool = False
    """Set once, when its partition is taken away; a stage that misses it does some work that is thrown away."""
    answer: Message | None = None
    counter: Counter | None = None
    """The counter to increase when the answer is published; dropped events are not counted."""

    @property
    def held_bytes(self) -> int:
        """Bytes of its record, kept for a possible dead letter, and of an image decoded from it; then of its answer."""
        if self.answer is not None:
            return self.answer.held_bytes
        content = self.event.content if self.event else None
        decoded = content.data if isinstance(content, InlineImage) and content.data is not self.record.value else b""
        return self.record.held_bytes + len(decoded)

    def settle_for(self, answer: Message) -> None:
        """Keep the answer, and let go of what it was made from."""
        self.answer, self.event = answer, None
        self.record = replace(self.record, key=None, value=None, headers=())

    @property
    def queue_ms(self) -> float:
        """Milliseconds from the record's timestamp to its admission."""
        return max(0.0, self.admitted_ms - self.record.timestamp_ms)

    @property
    def is_inline(self) -> bool:
        """Whether the event carries the image itself."""
        return self.event is not None and isinstance(self.event.content, InlineImage)


class Lane:
    """One partition during one assignment; when that ends, the lane is dropped with everything in it."""

    def __init__(self, partition: Partition, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.waiting: deque[Record] = deque()
        """Consumed and not yet admitted; while there are any, the partition is paused."""
        self.waiting_bytes = 0
        self.next: InFlight | None = None
        """The first waiting record, once it is parsed."""
        self._in_flight: deque[InFlight] = deque()

    def receive(self, record: Record) -> None:
        """Let a record wait."""
        self.waiting.append(record)
        self.waiting_bytes += record.held_bytes

    def dequeue(self) -> None:
        """Let the first record wait no longer."""
        self.waiting_bytes -= self.waiting.popleft().held_bytes
        self.next = None

    def forget_waiting(self) -> None:
        """Forget what waits."""
        self.waiting.clear()
        self.waiting_bytes, self.next = 0, None

    def admit(self, item: InFlight) -> None:
        """Take an event in flight; the order of calls is the order of offsets."""
        item.admitted, item.admitted_ms = time.monotonic(), time.time() * 1000
        self._in_flight.append(item)

    def progress(self, max_events: int, max_bytes: int) -> Progress | None:
        """The answered run at the front, as far as it goes without a gap and within limits (at least one)."""
        messages: list[Message] = []
        last: InFlight | None = None
        for item in itertools.islice(self._in_flight, max_events):
            if item.answer is None or (messages and max_bytes < item.answer.held_bytes):
                break
            max_bytes -= item.answer.held_bytes
            messages.append(item.answer)
            last = item
        if last is None:
            return None
        record = last.record
        return Progress(self.partition, self.epoch, record.next_offset, tuple(messages), record.leader_epoch)

    def settle(self, progress: Progress) -> list[InFlight]:
        """Remove the events whose answers have been published, and return them."""
        return [self._in_flight.popleft() for _ in progress.messages]

    @property
    def first_admitted(self) -> float:
        """Monotonic time at which the first event was admitted; infinity if there is none."""
        return self._in_flight[0].admitted if self._in_flight else float("inf")

    @property
    def first_offset(self) -> int:
        """Offset of the first event in flight."""
        return self._in_flight[0].record.offset

    @property
    def unanswered(self) -> int:
        """Offsets of the records that wait or are in flight."""
        return sum(record.count for record in (*(item.record for item in self._in_flight), *self.waiting))

    @property
    def answered(self) -> int:
        """How many events at the front have an answer."""
        return sum(1 for _ in itertools.takewhile(lambda item: item.answer is not None, self._in_flight))

    def holding_up(self) -> list[InFlight]:
        """Events without an answer that stand before an event that has one."""
        unanswered: list[InFlight] = []
        before = 0
        for item in self._in_flight:
            if item.answer is not None:
                before = len(unanswered)
            else:
                unanswered.append(item)
        return unanswered[:before]

    @property
    def first_unanswered(self) -> InFlight | None:
        """The first event without an answer.

        Answers that cannot be published do not count: a restart would not help against a broker that is away.
        """
        return next((item for item in self._in_flight if item.answer is None), None)

    def __len__(self) -> int:
        return len(self._in_flight)

    def __iter__(self) -> Iterator[InFlight]:
        return iter(self._in_flight)
