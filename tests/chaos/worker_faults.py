"""Workers that are killed, frozen, added and taken away."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from confluent_kafka import Producer

from tests.chaos.report import Result
from tests.chaos.rig import SESSION_S, TIMEOUTS, TRANSACTION_S, Case, Rig
from tests.integration.worker_process import PARTITIONS

_KILLS, _KILL_EVENTS = 30, 20_000
_LOAD_PER_S = 300.0
_RIVAL_PROMISE = "none lost, none twice: the worker that was there first ends by itself, and is started again"
_DECODER_FAULTS = 30
_DECODER_SIGNALS = (signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP)
_STARTED_S = 5.0
_DECODERS_SILENT_S = 30.0
"""A decoder that hangs is given up after up to 8 s (its deadline, for the pixels that were granted)."""
_POLL_S = 8.0
_SHORT_POLLS = {
    "KAFKA__SESSION_TIMEOUT_S": "30",
    "KAFKA__TRANSACTION_TIMEOUT_S": "5",
    "KAFKA__PUBLISH_DEADLINE_S": "6",
    "KAFKA__MAX_POLL_INTERVAL_S": str(_POLL_S),
}


def kill(rig: Rig) -> Iterator[Result]:
    """Killed with -9 at random moments, in both modes of delivery."""
    with rig.case("kill: exactly once", "none lost, none twice") as case:
        _kill_often(case)
        yield case.finish()
    promise = "none lost; twice only with the same verdict_id"
    with rig.case("kill: at least once", promise, {"KAFKA__DELIVERY": "at_least_once"}) as case:
        _kill_often(case)
        yield case.finish(duplicates=True)


def _kill_often(case: Case) -> None:
    """Each kill waits for its share of the answers, so that all of them happen under load."""
    events, kills = case.rig.events(_KILL_EVENTS), case.rig.times(_KILLS)
    case.fleet.grow(2)
    case.send(case.inline(events))
    for number in range(kills):
        threshold = events * (number + case.random.random()) / (kills + 1)
        case.until(lambda at=threshold: case.answered >= at, f"answers before kill {number + 1}")  # type: ignore[misc]
        case.let_pass(case.random.uniform(0, 1.5))
        case.fleet.kill(case.random.choice(case.fleet.numbers))
    case.figures["kills"] = kills


def scale(rig: Rig) -> Iterator[Result]:
    """1 -> 3 -> 2 -> 4 workers under load, in order; then again with a worker killed for good."""
    promise = "none lost, none twice, no partition silent for more than 10 s"
    with rig.case("scale: 1 -> 3 -> 2 -> 4", promise, static=False) as case:
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the first worker ready")
        case.load(_LOAD_PER_S)
        for count in (3, 2, 4):
            case.let_pass(2 + 8 * rig.scale)
            case.fleet.grow(count)
            case.fleet.shrink(count)
            case.until(case.fleet.ready, f"{count} workers ready")
        case.let_pass(2 + 8 * rig.scale)
        yield case.finish(silence_s=10)
    bound_s = SESSION_S + TRANSACTION_S + 15
    promise = f"none lost, none twice, silent for at most session + transaction time-out + 15 s = {bound_s:.0f} s"
    with rig.case("scale: 3 -> 2 by a kill", promise, TIMEOUTS, static=False) as case:
        case.fleet.grow(3)
        case.load(_LOAD_PER_S)
        case.until(case.fleet.ready, "three workers ready")
        topic = case.stream.topic("images")
        owners: list[int] = []

        def shared() -> bool:
            found = {number: case.fleet.partitions(number, topic) for number in case.fleet.numbers}
            owners[:] = [number for number, own in found.items() if own]
            return len(owners) > 1 and sum(map(len, found.values())) == PARTITIONS

        case.until(shared, "partitions shared", 30)
        case.let_pass(case.random.uniform(0, 2))
        case.fleet.drop(case.random.choice(owners))
        case.let_pass(bound_s)
        yield case.finish(silence_s=bound_s)


def zombie(rig: Rig) -> Iterator[Result]:
    """Frozen until others have its partitions, then let go on."""
    promise = "none lost, none twice: what it had in hand is not published"
    with rig.case("zombie: its session has ended", promise, TIMEOUTS) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        freezes = max(2, rig.times(4))
        for _ in range(freezes):
            case.let_pass(case.random.uniform(1, 3))
            victim = case.random.choice(case.fleet.numbers)
            case.fleet.freeze(victim)
            case.let_pass(SESSION_S * 1.5 + case.random.uniform(0, 2))
            case.fleet.thaw(victim)
            case.until(case.fleet.ready, "both workers ready again")
        case.figures["freezes"] = freezes
        yield case.finish()
    with rig.case(
        "zombie: its poll interval has ended, its session has not", promise, _SHORT_POLLS, static=False
    ) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        for number in range(freezes := 2):
            case.until_more(f"before freeze {number + 1}")
            victim = case.random.choice(case.fleet.numbers)
            case.fleet.freeze(victim)
            case.fleet.grow(len(case.fleet) + 1)  # whoever does not rejoin within the poll interval is expelled
            newest = max(case.fleet.numbers)
            case.until(lambda newest=newest: case.fleet.is_ready(newest), "another has taken over")  # type: ignore[misc]
            case.until_more("of the others")
            case.fleet.thaw(victim)
            case.until(case.fleet.ready, "all workers ready again")
        case.figures["freezes"] = freezes
        yield case.finish()
    promise = "none lost, none twice; the zombie ends by itself"
    with rig.case("zombie: another has its identity", promise) as case:
        frozen, successor = 0, 1
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the worker ready")
        case.load(_LOAD_PER_S)
        case.let_pass(case.random.uniform(1, 3))
        case.fleet.freeze(frozen)
        case.let_pass(0.5)  # what it had committed is read
        already = case.answered
        case.fleet.begin(successor, identity=frozen)
        case.until(lambda: case.answered > already, "the successor answers")
        case.fleet.let_end(frozen)
        case.fleet.thaw(frozen)
        case.until(lambda: any(end.worker == frozen for end in case.fleet.exits), "the zombie ends", 30)
        yield case.finish()


def rival(rig: Rig) -> Iterator[Result]:
    """Somebody else has a worker's name: another producer its transactional id, another worker its instance id."""
    with rig.case("rival: its transactional id, again and again", _RIVAL_PROMISE) as case:
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the worker ready")
        case.load(_LOAD_PER_S)
        name = f"{case.stream.prefix}-{case.stream.prefix}-0"
        rivals = max(2, rig.times(5))
        for number in range(rivals):
            case.until_more(f"before rival {number + 1}")
            case.let_pass(case.random.uniform(0, 2))
            with closing(Producer({"bootstrap.servers": case.kafka.bootstrap, "transactional.id": name})) as producer:
                producer.init_transactions(60)
        case.until_more("after the last rival")
        case.figures["rivals"] = rivals
        yield case.finish()
    with rig.case("rival: two workers with one instance id", _RIVAL_PROMISE) as case:
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the worker ready")
        case.load(_LOAD_PER_S)
        case.until_more("of the first")
        case.fleet.begin(1, identity=0)
        # Whichever ends by itself is started again, and takes over.
        case.until(lambda: len(case.fleet.exits) > 1 + 3 * rig.scale, "they take turns", 120)
        case.fleet.drop(1)
        case.until_more("of one alone", 90)
        yield case.finish()


def decoders(rig: Rig) -> Iterator[Result]:
    """Decoders of two workers are killed, made to crash and frozen at random moments; no image is rejected for it."""
    promise = f"none lost, none twice, none rejected, silent for at most {_DECODERS_SILENT_S:.0f} s; no worker ends"
    with rig.case("decoders: killed, crashed, frozen", promise, {"IMAGES__DECODE_PROCESSES": "2"}) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        faults = max(len(_DECODER_SIGNALS), rig.times(_DECODER_FAULTS))
        since: dict[int, float] = {}
        for number in range(faults):
            case.let_pass(case.random.uniform(1, 2))
            case.until(lambda: bool(_decoders(case, since)), "a decoder that has started")
            victims = _decoders(case, since)
            with suppress(ProcessLookupError):  # it has just been given up
                os.kill(case.random.choice(victims), _DECODER_SIGNALS[number % len(_DECODER_SIGNALS)])
        case.until_more("after the last fault")
        case.figures["faults"] = faults
        case.require(not case.fleet.exits, "a worker ended")
        yield case.finish(silence_s=_DECODERS_SILENT_S)


def _decoders(case: Case, since: dict[int, float]) -> list[int]:
    """Those that have been there for a while; one that is frozen while it starts is only given up after a minute."""
    now = time.monotonic()
    found = [pid for worker in case.fleet.numbers for pid in case.fleet.decoders(worker)]
    return [pid for pid in found if now - since.setdefault(pid, now) >= _STARTED_S]
