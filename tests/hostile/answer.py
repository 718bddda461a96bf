"""Answers all records of some logs in a process with little memory, and prints what that took.

``python -m tests.hostile.answer LOGS``: a pickle of ``dict[Partition, Log]``.
"""

import gc
import json
import pickle
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bundle.errors import BrokenImage
from tests.hostile.records import MIB, Log, broker_over
from worker.messages.events import ENCODING, ORIGIN, REASON, dead_letter
from worker.messages.records import Message, Partition
from worker.pipeline.intake import Intake
from worker.pipeline.lanes import InFlight
from worker.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "pipeline": {"max_in_flight_bytes": 64 * MIB},
        "kafka": {"fetch_max_bytes": 8 * MIB},
        "images": {"memory_bytes": 1},
        "fetch": {"max_bytes": 1, "max_held_bytes": 1},
    }
)
"""Small enough to bind; nothing is decoded or fetched here."""


@dataclass
class Findings:
    """What happened."""

    answered: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """First and last offsets that each letter answers for, by partition."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many letters give each reason."""
    letters_bytes: int = 0
    largest_publication: int = 0
    most_held: int = 0
    longest_turn_s: float = 0
    """CPU time between two polls."""
    peak_bytes: int = 0
    """Growth of resident memory, at most."""


def answer_all(logs: dict[Partition, Log], findings: Findings) -> None:
    """Answer every offset; the worker is replaced by another one now and then."""
    committed: dict[Partition, int] = {}
    while any(committed.get(partition, 0) < log.end for partition, log in logs.items()):
        gc.collect()  # the one before has ended, and with it its process
        _work(logs, committed, findings, publications=20)


def _work(logs: dict[Partition, Log], committed: dict[Partition, int], findings: Findings, publications: int) -> None:
    broker, _ = broker_over(logs, SETTINGS.kafka, committed)
    intake = Intake(SETTINGS)
    images: list[tuple[Message, InFlight]] = []
    while publications:
        began = time.process_time()
        records = broker.poll(0)
        intake.receive(records, broker.owned())
        for item in intake.admit():
            error = item.refused or BrokenImage("no image")
            letter = dead_letter(
                item.record,
                item.delivery,
                topic="images.dead",
                reason=error.reason,
                detail=str(error),
                max_bytes=SETTINGS.kafka.max_message_bytes,
            )
            if item.refused:
                intake.answer(item, letter)
            else:
                images.append((letter, item))
        broker.pause(intake.to_pause(broker.owned()))
        findings.longest_turn_s = max(findings.longest_turn_s, time.process_time() - began)
        findings.most_held = max(findings.most_held, intake.held_bytes)
        if intake.has_room() and records:
            continue
        for letter, image in images:
            intake.answer(image, letter)
        images.clear()
        if not (progress := intake.progress(SETTINGS.pipeline.max_in_flight)):
            return
        publications -= 1
        for part in progress:
            for message in part.messages:
                _note(message, findings)
            committed[part.partition] = part.next_offset
        size = sum(message.held_bytes for part in progress for message in part.messages)
        findings.largest_publication = max(findings.largest_publication, size)
        list(intake.settle(progress))


def _note(letter: Message, findings: Findings) -> None:
    own = dict(letter.headers)
    partition, _, first = own[ORIGIN].decode().rpartition("/")
    last = json.loads(own.get(ENCODING, b"{}")).get("last_offset", first)
    findings.answered.setdefault(partition, []).append((int(first), int(last)))
    findings.letters_bytes += len(letter.value)
    reason = own[REASON].decode()
    findings.reasons[reason] = findings.reasons.get(reason, 0) + 1


def _resident(name: str) -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{name}:")[1].split()[0]) * 1024


def main() -> None:
    """Read the logs, limit this process, answer."""
    logs = pickle.loads(Path(sys.argv[1]).read_bytes())
    base = _resident("VmRSS")
    allowed = _resident("VmData") + SETTINGS.memory_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, allowed))
    findings = Findings()
    answer_all(logs, findings)
    findings.peak_bytes = _resident("VmHWM") - base
    print(json.dumps(asdict(findings)))


if __name__ == "__main__":
    main()
