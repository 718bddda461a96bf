"""Batches of records harmed at random, in one of the ways in which they may be, through the worker's own reading.

A producer that writes nonsense harms events, records or what they are packed into; its batch has a header and a
checksum that are right, or the broker would not take it. On its way any byte may change; then the checksum is wrong.
Each harmed batch is followed by a good one, whose records must come out as they are.
"""

import base64
import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

from kafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords

from tests.hostile.mutate import Mutation, mutate
from tests.hostile.records import CODECS, Log, batch, broker_over, named, record, varint
from worker.errors import EventError, EventTooLarge, UndecodableBatch
from worker.messages.events import ImageEvent, dead_letter, deferral, read_delivery, read_event
from worker.messages.records import Message, Partition, Record
from worker.settings import Settings

_CODEC_NAMES = dict(enumerate(("not packed", "gzip", "snappy", "lz4", "zstd")))
_HEADER_BYTES = DefaultRecordBatch.HEADER_STRUCT.size
_AFTER_LENGTH = 12
"""Where the bytes begin whose number is in the header; what stands before, the broker writes."""
_POLLS = 20
"""Three more fetches of a batch with a wrong checksum, and one of the next, are a few."""
SETTINGS = Settings.model_validate(
    {
        "kafka": {"max_batch_bytes": 2**20, "fetch_max_bytes": 2**20, "max_message_bytes": 2**18},
        "events": {"inline_max_bytes": 2**17},
    }
)
_WORDS = (
    b"\x01", b"\0", b"\x7f", b"\xff\xff\xff\xff\x0f", b"\xfe\xff\xff\xff\x0f", b"\x80" * 9 + b"\x01",
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"\\ud800", b"\\u0000", b"null", b"NaN", b"1e999", b"-0",
    b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"[]," * 9000, b"x" * 1100, b"x" * 70_000,
    b'"id":', b'"source":', b'"data":', b'"data_base64":', b'"uri":', b'"datacontenttype":', b'"sha256":',
    b"ce_id", b"ce_source", b"content-type", b"image/png", b"application/json", b"application/cloudevents+json",
    b"genprint-", b"genprint-origin", b"genprint-encoding", b"http://[", b"\r\n", b";",
    b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xe2\x80\xa8",
)  # fmt: skip


class WrongAnswer(Exception):
    """What came out is not what was sent."""


class Sent(NamedTuple):
    """A record as its producer means it."""

    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[bytes, bytes | None], ...] = ()


def _structured(**fields: Any) -> bytes:
    return json.dumps(
        {"specversion": "1.0", "type": "genprint.image.v1", "id": "7", "source": "urn:a", **fields}
    ).encode()


_JSON = (b"content-type", b"application/json")
_IMAGE = (b"content-type", b"image/png")
_ENVELOPE = (b"content-type", b"application/cloudevents+json; charset=UTF-8")
_CLAIM = {"uri": "https://cdn.example/a.png?secret=1", "sha256": "ab" * 32}
_EVENTS = (
    Sent(b"k", b"pixels", (_IMAGE, (b"ce_id", b"1"), (b"ce_source", b"urn:a"), (b"ce_tenant", b"t"))),
    Sent(None, b"pixels", (_IMAGE, (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))),
    Sent(b"", json.dumps(_CLAIM).encode(), (_JSON, (b"empty", b""), (b"none", None))),
    Sent(b"k", _structured(data=_CLAIM, subject="s", tenant="t", priority=3), (_ENVELOPE,)),
    Sent(
        b"k", _structured(datacontenttype="image/png", data_base64=base64.b64encode(bytes(90)).decode()), (_ENVELOPE,)
    ),
    Sent(b"k", None, (_IMAGE,)),
    Sent(
        b"k",
        b"pixels",
        (
            _IMAGE,
            (b"genprint-origin", b"images/0/5"),
            (b"genprint-attempt", b"2"),
            (b"genprint-encoding", b'{"null_headers": [0], "null_value": false}'),
        ),
    ),
)
_GOOD = (_EVENTS[0], _EVENTS[3])


def by_kafka_python(events: Sequence[Sent], codec: int) -> bytes:
    """A batch as kafka-python's producer writes it."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=codec,
        is_transactional=False,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 30,
    )
    for delta, (key, value, headers) in enumerate(events):
        assert builder.append(delta, 1000 + delta, key, value, [(name.decode(), text) for name, text in headers])
    return bytes(builder.build())


@cache
def valid_fetches() -> dict[str, bytes]:
    """What a fetch returns, by the codec of its first batch."""
    return {name: _followed(by_kafka_python(_EVENTS, codec), len(_EVENTS)) for codec, name in _CODEC_NAMES.items()}


def mutations(seed: int) -> Iterator[Mutation]:
    """Without end."""
    rng = random.Random(seed)
    while True:
        codec = rng.choice(list(CODECS))
        name = _CODEC_NAMES[codec]
        if rng.random() < 0.05:
            yield Mutation(name, _followed(_meant_the_same(rng, codec), len(_EVENTS)), is_harmless=True)
            continue
        events = rng.choices(_EVENTS, k=300 if rng.random() < 0.03 else rng.randrange(1, 6))
        match rng.randrange(4):
            case 0:
                events[0] = _harmed_event(rng, events[0])
                harmed = batch(_records(events), len(events), codec=codec)
            case 1:
                records = _harmed(rng, _records(events))
                claimed = len(events) + (rng.choice((1, 7, 5000)) if rng.random() < 0.1 else 0)
                harmed = batch(records, claimed, codec=codec)
                yield Mutation(name, _followed(harmed, claimed))
                continue
            case 2:
                packed = _harmed(rng, by_kafka_python(events, codec)[_HEADER_BYTES:])
                harmed = batch(packed, len(events), codec=codec, is_packed=True)
            case _:
                whole = by_kafka_python(events, codec)
                rest = _harmed(rng, whole[_AFTER_LENGTH:])
                harmed = whole[:8] + len(rest).to_bytes(4) + rest
        yield Mutation(name, _followed(harmed, len(events)))


def _followed(harmed: bytes, count: int) -> bytes:
    return harmed + count.to_bytes(8) + by_kafka_python(_GOOD, 0)[8:]


def _meant_the_same(rng: random.Random, codec: int) -> bytes:
    """All events in another order of headers, with a header more that means nothing."""
    changed = []
    for event in _EVENTS:
        at = rng.randrange(len(event.headers) + 1)
        if any(name.startswith(b"genprint-") or text is None for name, text in event.headers):
            at = len(event.headers)  # what is null is said by its position
        more = (b"x-" + rng.randbytes(3).hex().encode(), rng.randbytes(5))
        changed.append(event._replace(headers=(*event.headers[:at], more, *event.headers[at:])))
    return by_kafka_python(changed, codec)


def _harmed(rng: random.Random, data: bytes) -> bytes:
    harmed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        mutate(rng, harmed, rng.choice(list(valid_fetches().values())), _WORDS)
    return bytes(harmed)


def _harmed_event(rng: random.Random, event: Sent) -> Sent:
    """One part of it is another."""
    key, value, headers = event
    match rng.randrange(6):
        case 0:
            key = _harmed(rng, key or b"")
        case 1:
            headers += (headers[0],) * rng.choice((1, 255, 256, 600))
        case 2 | 3 if headers:
            at = rng.randrange(len(headers))
            name, text = headers[at]
            changed = (_harmed(rng, name), text) if rng.random() < 0.4 else (name, _harmed(rng, text or b""))
            headers = (*headers[:at], changed, *headers[at + 1 :])
        case _:
            value = _harmed(rng, value or b"")
    return Sent(key, value, headers)


def _records(events: Sequence[Sent]) -> bytes:
    return b"".join(
        record(
            delta,
            event.value,
            key=event.key,
            headers=varint(len(event.headers)) + b"".join(named(name, text) for name, text in event.headers),
        )
        for delta, event in enumerate(events)
    )


@dataclass(frozen=True)
class Reading:
    """From what a fetch returns to events and letters; what comes out is a digest of both."""

    def run(self, data: bytes) -> tuple[str, str]:
        """See ``Task``.

        Raises:
            WrongAnswer: an offset is answered twice or never, or by what was not sent.
        """
        harmed, following = _two_batches(data)
        outcome, digest = "ok", hashlib.sha256()
        for topic in (SETTINGS.kafka.images_topic, SETTINGS.kafka.retry_topic):
            try:
                records = _read(Partition(topic, 0), harmed, following)
            except UndecodableBatch as error:
                if _is_as_it_was_written(harmed):
                    raise WrongAnswer("a producer has stopped the worker") from error
                return error.reason, ""
            for found in records:
                reason, answer = _answer(found)
                digest.update(answer.encode("utf-8", "backslashreplace"))
                if outcome == "ok":
                    outcome = reason
        return outcome, digest.hexdigest()

    def reserved_bytes(self, data: bytes) -> int:  # noqa: ARG002 - the same for all
        """See ``Task``."""
        return SETTINGS.memory_bytes


def _two_batches(data: bytes) -> tuple[bytes, bytes]:
    end = _AFTER_LENGTH + int.from_bytes(data[8:_AFTER_LENGTH])
    return data[:end], data[end:]


def _read(partition: Partition, harmed: bytes, following: bytes) -> list[Record]:
    log = Log()
    count = int.from_bytes(following[:8])
    log.append(harmed, count)
    log.append(following)
    broker, _ = broker_over({partition: log}, SETTINGS.kafka, {})
    found: list[Record] = []
    for _ in range(_POLLS + log.end // SETTINGS.kafka.max_poll_records):
        found += broker.poll(0)
        if found and found[-1].next_offset >= log.end:
            break
    position = 0
    for each in found:
        if each.offset != position:
            raise WrongAnswer(f"offset {each.offset} where {position} comes next")
        position = each.next_offset
    if position != log.end:
        raise WrongAnswer(f"offsets up to {position} of {log.end}")
    _compare(found[-len(_GOOD) :], following)
    if _is_well_formed(harmed, count):
        _compare(found[:count], harmed)
    return found


def _is_as_it_was_written(data: bytes) -> bool:
    """Whether nothing has changed it since a producer sent it; the version of its format is not in the checksum."""
    is_whole = len(data) >= _HEADER_BYTES and data[MemoryRecords.MAGIC_OFFSET] == 2
    return is_whole and bool(DefaultRecordBatch(data).validate_crc())


def _is_well_formed(data: bytes, count: int) -> bool:
    """Whether kafka-python itself can read it, which believes whatever a packed batch says of its size."""
    if not _is_as_it_was_written(data) or DefaultRecordBatch(data).attributes != 0:
        return False
    try:
        return [each.offset for each in DefaultRecordBatch(data)] == list(range(count))
    except Exception:
        return False


def _compare(found: Sequence[Record], data: bytes) -> None:
    """Compare what was read with what kafka-python reads."""
    for ours, theirs in zip(found, DefaultRecordBatch(data), strict=True):
        if isinstance(ours.unread, EventTooLarge):
            continue
        if (ours.key, ours.value, list(ours.headers)) != (theirs.key, theirs.value, theirs.headers) or ours.unread:
            raise WrongAnswer(f"the record at {ours.offset} is not what was sent")


def _answer(found: Record) -> tuple[str, str]:
    """``ok`` or the reason of its letter; and what is answered, in words."""
    kafka = SETTINGS.kafka
    delivery = read_delivery(found, kafka.retry_topic)
    try:
        event = _event(found)
    except EventError as error:
        letter = dead_letter(
            found,
            delivery,
            topic=kafka.dead_topic,
            reason=error.reason,
            detail=str(error),
            max_bytes=kafka.max_message_bytes,
        )
        size = len(letter.key or b"") + len(letter.value) + sum(len(n.encode()) + len(t) for n, t in letter.headers)
        if size > kafka.max_message_bytes:
            raise WrongAnswer(f"a letter of {size} bytes for the record at {found.offset}") from error
        return error.reason, f"{found.offset} {error.reason}"
    if found.partition.topic == kafka.images_topic:
        text: Message = deferral(found, delivery, topic=kafka.retry_topic, reason="r", detail="d", not_before_ms=1)
        deferred = Record(Partition(text.topic, 0), 9, 1, 0, text.key, text.value, text.headers)
        if _event(deferred) != replace(event, attempt=2):
            raise WrongAnswer(f"what is deferred of the record at {found.offset} comes back as another event")
    return "ok", str(event)


def _event(found: Record) -> ImageEvent:
    delivery = read_delivery(found, SETTINGS.kafka.retry_topic)
    return read_event(found, delivery, SETTINGS.events.inline_max_bytes, ("tenant",))
