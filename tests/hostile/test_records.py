"""Whatever is sent at once, each offset is answered once, in bounded memory, letters and time."""

import gzip
import json
import pickle
import subprocess
import sys
from pathlib import Path

from tests.hostile.answer import SETTINGS
from tests.hostile.records import MIB, Log, batch, named, record, varint
from worker.messages.records import Partition

IMAGE = varint(1) + named(b"content-type", b"image/png")
ENVELOPE = varint(1) + named(b"content-type", b"application/cloudevents+json")
MILLION = 2**20 + 1
TURN_S = 3
"""CPU time of a turn: a poll may unpack two batches of 64 MiB. What comes without ceilings takes minutes."""


def million(codec: int) -> bytes:
    return batch(b"".join(record(delta, b"x" * 6) for delta in range(MILLION)), MILLION, codec=codec)


def hostile() -> dict[str, tuple[bytes, int]]:
    """Batches by what they are, and how often each is sent."""
    count = 1000
    members = gzip.compress(b"") * 80_000
    envelope = b'{"id":"1","source":"s","x":[' + b",".join([b"[]"] * 2_900_000) + b"]}"
    headers = 1_000_000
    many = batch(b"".join(record(delta, b"x" * 60_000, headers=IMAGE) for delta in range(count)), count)
    return {
        "30 million headers": (batch(record(0, headers=varint(30 * headers) + bytes(60 * headers))), 3),
        "2 million headers": (batch(record(0, headers=varint(2 * headers) + bytes(4 * headers))), 3),
        "values of 60 MiB": (batch(record(0, bytes(60 * MIB))), 30),
        "headers of 11 MB": (batch(record(0, headers=varint(1) + named(b"h", bytes(11_000_000)))), 60),
        "names of 11 MB": (batch(record(0, headers=varint(1) + named(bytes(11_000_000), b""))), 10),
        "keys of 11 MB": (batch(record(0, key=bytes(11_000_000))), 10),
        "images of 8 MiB": (batch(record(0, bytes(8 * MIB), headers=IMAGE)), 20),
        "a batch of 2**20 + 1 records": (million(4), 2),
        "the same, not packed": (million(0), 1),
        "a thousand records of 60 KB": (many, 2),
        "gzip of 80,000 members": (batch(members, codec=1, is_packed=True), 2),
        "JSON of 3 million lists": (batch(record(0, envelope, headers=ENVELOPE), codec=0), 3),
        "a small record": (batch(record(0, b"x" * 100, headers=IMAGE), codec=0), 100),
    }


def test_all_at_once(tmp_path: Path) -> None:
    logs = {Partition("images", number): Log() for number in range(12)}
    sent = 0
    for number, (data, times) in enumerate(hostile().values()):
        for repetition in range(times):
            logs[Partition("images", (number + repetition) % len(logs))].append(data)
            sent += len(data)
    path = tmp_path / "logs"
    path.write_bytes(pickle.dumps(logs))
    command = [sys.executable, "-m", "tests.hostile.answer", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = json.loads(ended.stdout)
    for partition, log in logs.items():
        answered = sorted(found["answered"][f"{partition.topic}/{partition.number}"])
        assert [first for first, _ in answered] == [0, *(last + 1 for _, last in answered[:-1])]
        assert answered[-1][1] == log.end - 1
    assert found["reasons"] == {
        "broken_image": 2 * 1000 + 20 + 100,
        "event_too_large": 3 + 3 + 30 + 60 + 10 + 10,
        "undecodable_record": 2 + 1 + 2,
        "invalid_event": 3,
    }
    assert found["letters_bytes"] <= sent
    assert found["peak_bytes"] <= SETTINGS.memory_bytes
    kafka = SETTINGS.kafka
    polled = 2 * kafka.fetch_max_bytes + 2 * kafka.max_message_bytes
    assert found["most_held"] <= SETTINGS.pipeline.max_in_flight_bytes + polled
    assert found["largest_publication"] <= 16 * MIB + kafka.max_message_bytes
    assert found["longest_turn_s"] < TURN_S
