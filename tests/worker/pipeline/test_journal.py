"""What was in flight when a process was killed: noted, suspected, taken alone, and rejected if it kills."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worker.pipeline.killed import AT_A_TIME, RECORDS
from worker.errors import Fenced, StartupError
from worker.messages.records import Partition, Record
from worker.pipeline.journal import KILLS, Journal, Suspect

PROGRAM = Path(__file__).with_name("killed.py")
ROOT = Path(__file__).parents[3]
IMAGES, OTHERS = Partition("images", 0), Partition("images", 1)


def record(offset: int, partition: Partition = IMAGES) -> Record:
    return Record(partition, offset, 1, 0, None, b"", ())


def killed(journal: Journal) -> None:
    """End as a process that is killed: the file stays as it is."""
    journal._held.close()
    journal._memory = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_what_was_in_flight_is_suspected(path: Path) -> None:
    journal = Journal(path, 8).__enter__()
    for offset in (3, 4, 5):
        journal.note(record(offset), alone=False)
    journal.note(record(4, OTHERS), alone=True)
    journal.strike(record(4))
    killed(journal)
    with Journal(path, 8) as journal:
        assert journal.suspects == {Suspect(IMAGES, 3): 0, Suspect(IMAGES, 5): 0, Suspect(OTHERS, 4): 1}
        assert [journal.kills(record(4, partition)) for partition in (IMAGES, OTHERS)] == [0, 1]


def test_suspects_stay_until_they_are_answered(path: Path) -> None:
    journal = Journal(path, 8).__enter__()
    journal.note(record(1), alone=True)
    journal.note(record(2), alone=False)
    killed(journal)
    with Journal(path, 8):
        pass
    journal = Journal(path, 8).__enter__()
    assert journal.suspects == {Suspect(IMAGES, 1): 1, Suspect(IMAGES, 2): 0}
    journal.note(record(1), alone=True)
    journal.release(record(1))
    journal.strike(record(2))
    killed(journal)
    journal = Journal(path, 8).__enter__()
    assert journal.suspects == {Suspect(IMAGES, 1): 1}
    journal.note(record(1), alone=True)
    killed(journal)
    with Journal(path, 8) as journal:
        assert journal.suspects == {Suspect(IMAGES, 1): 2}


@pytest.mark.parametrize(("error", "left"), [(None, 0), (Fenced("another"), 0), (RuntimeError("unforeseen"), 1)])
def test_an_orderly_end_suspects_nothing(path: Path, error: Exception | None, left: int) -> None:
    journal = Journal(path, 8).__enter__()
    journal.note(record(7), alone=False)
    journal.__exit__(type(error) if error else None, error, None)
    with Journal(path, 8) as journal:
        assert len(journal.suspects) == left


def test_suspects_that_were_committed_or_moved_away_are_forgotten(path: Path) -> None:
    journal = Journal(path, 8).__enter__()
    for offset in (1, 2, 3):
        journal.note(record(offset), alone=False)
        journal.note(record(offset, OTHERS), alone=False)
    killed(journal)
    with Journal(path, 8) as journal:
        journal.forget(IMAGES, before=3)
        journal.forget(OTHERS)
        assert journal.suspects == {Suspect(IMAGES, 3): 0}
    with Journal(path, 8) as journal:
        assert journal.suspects == {Suspect(IMAGES, 3): 0}


def test_more_records_than_slots_are_not_noted_and_slots_are_used_again(path: Path) -> None:
    journal = Journal(path, 2).__enter__()
    for offset in range(100):
        journal.note(record(offset), alone=False)
        journal.strike(record(offset))
    for offset in range(5):
        journal.note(record(offset), alone=False)
    killed(journal)
    with Journal(path, 2) as journal:
        assert journal.suspects == {Suspect(IMAGES, 0): 0, Suspect(IMAGES, 1): 0}


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"x" * 9000, b'["images", 0, "x"]', b"[" * 9000])
def test_a_file_of_something_else_is_an_empty_journal(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with Journal(path, 8) as journal:
        assert journal.suspects == {}


def test_a_file_that_cannot_be_used_stops_the_start(path: Path, tmp_path: Path) -> None:
    with Journal(path, 8), pytest.raises(StartupError, match=r"pipeline\.journal=.*another worker"):
        Journal(path, 8).__enter__()
    with pytest.raises(StartupError, match=r"pipeline\.journal=.*No such file"):
        Journal(tmp_path / "none" / "journal", 8).__enter__()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(StartupError, match=r"pipeline\.journal="):
        Journal(tmp_path / "link", 8).__enter__()


# Processes that are killed -------------------------------------------------------------------------------------------


def run(folder: Path, *journal: Path, starts: int) -> list[int]:
    """The exit status of each of so many processes."""
    command = [sys.executable, str(PROGRAM), str(starts), str(folder), *map(str, journal)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, timeout=240, text=True, stdout=subprocess.PIPE)
    return [int(line) for line in done.stdout.splitlines() if line.lstrip("-").isdigit()]


def prepare(folder: Path, poison: str, poison_batches: str = "") -> None:
    (folder / "poison").write_text(poison)
    (folder / "poison_batches").write_text(poison_batches)
    (folder / "committed").write_text("0")


def answers(folder: Path) -> dict[int, str]:
    """The last answer for each offset."""
    return {int(offset): reason for offset, reason in map(str.split, (folder / "answers").read_text().splitlines())}


KILLED = -signal.SIGKILL


def test_events_that_kill_are_found_and_the_others_are_answered(path: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "5 6 20")
    # 5 and 6 are in flight together at first; then each kills while it is alone.
    kills = 1 + KILLS + KILLS + 1 + KILLS
    assert run(tmp_path, path, starts=kills + 1) == [KILLED] * kills + [0]
    assert answers(tmp_path) == {n: "worker_killed" if n in (5, 6, 20) else "ok" for n in range(RECORDS)}


def test_batches_that_kill_are_found_beside_events_that_do(path: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "13 22", poison_batches="0 15")
    # The first batch is alone from the beginning; 15 is unpacked while 13 is in flight; 22 is in flight with others.
    kills = KILLS + 1 + KILLS + KILLS + 1 + KILLS
    assert run(tmp_path, path, starts=kills + 1) == [KILLED] * kills + [0]
    killers = {0, 1, 2, 13, 15, 16, 17, 22}
    assert answers(tmp_path) == {n: "worker_killed" if n in killers else "ok" for n in range(RECORDS)}


def test_a_batch_is_suspected_while_it_is_unpacked_and_what_was_alone_is_counted(path: Path) -> None:
    journal = Journal(path, 8).__enter__()
    journal.note(record(3), alone=False)
    assert journal.begin_batch(IMAGES, 0)
    journal.end_batch(IMAGES, 0)
    assert journal.begin_batch(IMAGES, 5)
    killed(journal)
    for kills in range(KILLS):
        journal = Journal(path, 8).__enter__()
        assert journal.suspects == {Suspect(IMAGES, 3): 0, Suspect(IMAGES, 5, is_batch=True): kills}
        assert journal.suspects_batch_of([IMAGES])
        assert not journal.suspects_batch_of([OTHERS])
        assert journal.begin_batch(IMAGES, 5)
        killed(journal)
    with Journal(path, 8) as journal:
        assert not journal.begin_batch(IMAGES, 5)
        assert not journal.suspects_batch_of([IMAGES])
        journal.forget_batches(IMAGES)
        assert len(journal.suspects) == 2  # it is not answered yet
        journal.forget(IMAGES, before=6, spare_rejected=True)
        assert journal.suspects == {Suspect(IMAGES, 5, is_batch=True): KILLS}
        journal.forget(IMAGES, before=6)
        assert journal.suspects == {}


def test_a_batch_that_was_innocent_is_forgotten(path: Path) -> None:
    journal = Journal(path, 8).__enter__()
    assert journal.begin_batch(IMAGES, 5)
    killed(journal)
    with Journal(path, 8) as journal:
        journal.forget_batches(OTHERS)
        assert journal.suspects_batch_of([IMAGES])
        journal.forget_batches(IMAGES)
        assert journal.suspects == {}


def test_only_what_was_in_flight_is_taken_alone(path: Path, tmp_path: Path) -> None:
    prepare(tmp_path, "10")
    assert run(tmp_path, path, starts=1) == [KILLED]
    with Journal(path, 16) as journal:
        assert 1 < len(journal.suspects) <= AT_A_TIME
    for _ in range(KILLS):
        assert run(tmp_path, path, starts=1) == [KILLED]
        with Journal(path, 16) as journal:
            assert Suspect(IMAGES, 10) in journal.suspects
    assert run(tmp_path, path, starts=1) == [0]
    with Journal(path, 16) as journal:
        assert not journal.suspects


def test_without_a_journal_an_event_kills_again_and_again(tmp_path: Path) -> None:
    prepare(tmp_path, "5")
    assert run(tmp_path, starts=KILLS + 3) == [KILLED] * (KILLS + 3)
