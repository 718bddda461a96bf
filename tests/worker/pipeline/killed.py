"""A worker's intake that is killed, with SIGKILL, by events whose value says so.

``python killed.py FOLDER [JOURNAL]`` answers the records of one partition from the offset in ``FOLDER/committed`` on,
up to four at a time, and writes a line for each answer to ``FOLDER/answers``: offset and reason, or ``ok``.
"""

import os
import signal
import sys
from pathlib import Path

from worker.errors import WorkerError
from worker.messages.records import Message, Partition, Record
from worker.pipeline.intake import Intake
from worker.pipeline.journal import Journal
from worker.pipeline.lanes import InFlight
from worker.settings import Settings

RECORDS = 30
AT_A_TIME = 4
IMAGES = Partition("images", 0)


def main(folder: Path, path: Path | None = None) -> None:
    poison = set(map(int, (folder / "poison").read_text().split()))
    committed = folder / "committed"
    with Journal(path, 16) as journal, (folder / "answers").open("a") as answers:
        intake = Intake(Settings.model_validate({"pipeline": {"max_in_flight": AT_A_TIME}}), journal)
        headers = (("content-type", b"image/png"),)
        start = int(committed.read_text())
        records = [Record(IMAGES, offset, 1, 0, None, b"pixels", headers) for offset in range(start, RECORDS)]
        intake.receive(records, {IMAGES: 1})
        unanswered: list[InFlight] = []
        while intake.in_flight or intake.waiting:
            unanswered += intake.admit()
            item = unanswered.pop(0)
            offset = item.record.offset
            if offset in poison and item.refused is None:
                os.kill(os.getpid(), signal.SIGKILL)
            intake.answer(item, Message("verdicts", None, b"", ()))
            answers.write(f"{offset} {_reason(item.refused)}\n")
            answers.flush()
            for part in intake.progress():
                committed.write_text(str(part.next_offset))
                list(intake.settle([part]))


def _reason(error: WorkerError | None) -> str:
    return error.reason if error else "ok"


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
