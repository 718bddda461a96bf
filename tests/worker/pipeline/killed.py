"""A worker's client and intake that are killed, with SIGKILL, by events and by batches of records.

``python killed.py STARTS FOLDER [JOURNAL]`` starts so many processes, one after the other (all of them forks, since
imports take longer than all the rest), and prints the status of each. A process answers the records of one partition
from the offset in ``FOLDER/committed`` on, up to four at a time, and writes a line for each answer to
``FOLDER/answers``: offset and reason, or ``ok``. Events at
the offsets in ``FOLDER/poison`` kill when they are looked at, batches that begin at those in ``FOLDER/poison_batches``
when they are unpacked.
"""

import os
import signal
import sys
from pathlib import Path

from tests.harm import DEADLY_BATCH, make_unpacking_deadly
from tests.hostile import records as hostile
from worker.errors import WorkerError
from worker.messages.records import Message, Partition
from worker.pipeline.intake import Intake
from worker.pipeline.journal import Journal
from worker.pipeline.lanes import InFlight
from worker.settings import Settings

RECORDS = 30
IN_A_BATCH = 3
AT_A_TIME = 4
IMAGES = Partition("images", 0)


def main(starts: int, folder: Path, path: Path | None = None) -> None:
    for _ in range(starts):
        child = os.fork()
        if not child:
            answer(folder, path)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def answer(folder: Path, path: Path | None) -> None:
    poison = _offsets(folder / "poison")
    make_unpacking_deadly()
    log = _log(_offsets(folder / "poison_batches"))
    committed = folder / "committed"
    limits = {"pipeline": {"max_in_flight": AT_A_TIME}, "kafka": {"max_poll_records": IN_A_BATCH}}
    settings = Settings.model_validate(limits)
    with Journal(path, 16) as journal, (folder / "answers").open("a") as answers:
        start = int(committed.read_text())
        broker, _ = hostile.broker_over({IMAGES: log}, settings.kafka, {IMAGES: start}, journal)
        intake = Intake(settings, journal)
        unanswered: list[InFlight] = []
        while int(committed.read_text()) < RECORDS:
            intake.receive(broker.poll(0), broker.owned())
            unanswered += intake.admit()
            broker.pause(intake.to_pause(broker.owned()))
            if not unanswered:
                continue
            item = unanswered.pop(0)
            if item.record.offset in poison and item.refused is None:
                os.kill(os.getpid(), signal.SIGKILL)
            intake.answer(item, Message("verdicts", None, b"", ()))
            for offset in range(item.record.offset, item.record.next_offset):
                answers.write(f"{offset} {_reason(item.refused)}\n")
            answers.flush()
            for part in intake.progress(RECORDS):
                committed.write_text(str(part.next_offset))
                list(intake.settle([part]))


def _log(poison: set[int]) -> hostile.Log:
    log = hostile.Log()
    headers = hostile.varint(1) + hostile.named(b"content-type", b"image/png")
    for first in range(0, RECORDS, IN_A_BATCH):
        value = DEADLY_BATCH if first in poison else b"pixels"
        records = [hostile.record(delta, value, headers=headers) for delta in range(IN_A_BATCH)]
        log.append(hostile.batch(b"".join(records), IN_A_BATCH))
    return log


def _offsets(path: Path) -> set[int]:
    return set(map(int, path.read_text().split()))


def _reason(error: WorkerError | None) -> str:
    return error.reason if error else "ok"


if __name__ == "__main__":
    main(int(sys.argv[1]), *map(Path, sys.argv[2:]))
