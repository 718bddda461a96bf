"""Events: records that nobody can read, hosts that hang, and nothing but broken images."""

import statistics
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import chain
from pathlib import Path

from confluent_kafka import Message, Producer

from tests.chaos import deadly_worker
from tests.chaos.events import Event, Headers, of_tenant
from tests.chaos.hosts import FAST, MANY_SLOW, SLOW, Hosts
from tests.chaos.report import Result
from tests.chaos.rig import Case, Rig
from tests.harm import DEADLY_BATCH, harm_batch
from tests.integration.worker_process import PARTITIONS
from worker.errors import WorkerKilled
from worker.pipeline.journal import KILLS

_REJECTS = 10_000
_CLAIM_CHECKS, _FEWEST = 4_000, 3_000
_FAST_PER_S = 200.0
"""What busy machines can do, too: the row is about waiting."""
_LEAST_SHARE = 0.9
_EVENTS_OF_TENANT, _OTHER_PER_S = 400, 20.0
_HANGING_S, _HANGING_PER_S = 20, 40.0
_SLOTS_OF_TENANT = 16
_SETTLED_S = 6.0
"""After fetch.deadline_s what a tenant took while it was alone is free again."""
_MEDIAN_S, _MIXED_MEDIAN_S = 1.0, 5.0
"""Apart; and in the same partitions, where one waits for what is before it, ``fetch.deadline_s`` at most."""
_TENANTS, _GROWTH_MB = 100_000, 100
_HANDED_OVER_S = 10.0
_DRAIN_S = 5.0
_DEADLY_S = 600.0
_PNG = ("content-type", b"image/png")
_IN_FLIGHT = 400


def poison(rig: Rig) -> Iterator[Result]:
    """Bad records among good ones, on every partition, before a worker has seen any."""
    with rig.case("poison: among good records", "one answer each, no spin") as case:
        good = case.pictures.good()
        odd = replace(good, headers=(_PNG, ("odd-name", b"x")))
        harmed = Event(b"harmed" * 10, (_PNG,), "undecodable_record")
        for event in (
            odd,
            harmed,
            Event(None, (_PNG,), "empty_event"),
            replace(good, headers=(_PNG, ("nothing", None))),
            Event(bytes(9 * 2**20), (_PNG,), "event_too_large"),
            Event(good.value, (("content-type", None),), "unknown_content_type"),
        ):
            _send_now(case, case.inline(100))
            for partition in range(PARTITIONS):  # each in a batch of its own
                _send_now(case, [event], partition)
        _send_now(case, case.inline(100))
        for segment in _segments(case):
            assert harm_batch(segment, b"odd-name", b"od\xff-\xfeame", checksum=True) == 1
            assert harm_batch(segment, b"harmed" * 10, b"HARMED" * 10, checksum=False) == 1
        case.fleet.grow(1)
        yield case.finish()


def deadly(rig: Rig) -> Iterator[Result]:
    """Events and batches among good ones that kill the process which takes them; its journal tells it which."""
    most = 1 + KILLS
    promise = f"one dead letter each after at most {most} ends of the worker, one answer for all others"
    with rig.case("deadly: events and batches that kill", promise) as case:
        case.settings["PIPELINE__JOURNAL"] = str(case.logs / "journal")
        case.fleet.module = deadly_worker.__name__
        places = [(partition, is_batch) for is_batch in (False, True) for partition in (0, 1)]
        for partition, is_batch in places:
            _send_now(case, case.inline(100))
            if is_batch:
                _send_packed(case, DEADLY_BATCH, partition)
            else:
                _send_now(case, [Event(deadly_worker.DEADLY, (_PNG,), WorkerKilled.reason)], partition)
        _send_now(case, case.inline(100))
        case.fleet.grow(1)
        case.until(lambda: case.answered >= len(case.feed.sent), "everything answered", _DEADLY_S)
        case.figures["ends of the worker"] = ends = len(case.fleet.exits)
        case.require(len(places) <= ends <= most * len(places), f"{ends} ends of the worker")
        case.require(not (case.logs / "journal").read_bytes().strip(b" \0"), "something is suspected in the end")
        yield case.finish()


def _send_packed(case: Case, value: bytes, partition: int) -> None:
    """One event in a packed batch of its own, whose answer is that it kills."""

    def acknowledged(error: object, message: Message) -> None:
        case.require(error is None, f"not sent: {error}")
        case.feed.note(f"{message.topic()}/{message.partition()}/{message.offset()}", WorkerKilled.reason)

    with closing(Producer({"bootstrap.servers": case.kafka.bootstrap, "compression.type": "zstd"})) as producer:
        producer.produce(
            case.stream.topic("images"), value * 100, partition=partition, headers=[_PNG], on_delivery=acknowledged
        )
        case.require(not producer.flush(60), "not sent")


def _send_now(case: Case, events: Iterable[Event], partition: int | None = None) -> None:
    case.feed.send(events, partition=partition)
    case.until(lambda: case.feed.done, "sent")


def _segments(case: Case) -> list[Path]:
    data_dir = case.rig.kafka.data_dir
    assert data_dir is not None
    return list(data_dir.glob(f"**/{case.stream.topic('images')}-*/*.log"))


def rejects(rig: Rig) -> Iterator[Result]:
    """Nothing but broken images, then good ones."""
    with rig.case("rejects: one after the other", "the worker goes on, and its metrics say what happens") as case:
        events = rig.events(_REJECTS)
        case.send(case.pictures.broken() for _ in range(events))
        case.fleet.grow(1)
        case.until(lambda: case.answered >= events, "every reject answered", 120)
        case.send(case.pictures.good() for _ in range(100))
        case.until(lambda: case.answered >= events + 100, "good ones answered")
        counted = int(case.fleet.metric(0, 'genprint_rejects_total{reason="broken_image"}'))
        case.require(counted == events, f"its metrics count {counted} rejects")
        case.require(case.fleet[0].http("/live")[0] == 200, "not live any more")
        case.figures["rejects counted"] = counted
        yield case.finish()


def slow_host(rig: Rig) -> Iterator[Result]:
    """As many claim checks again are of a host that hangs; the others must not wait for it."""
    count = max(_FEWEST, rig.events(_CLAIM_CHECKS))
    patient = {"FETCH__DEADLINE_S": "2", "FETCH__RETRY_DELAY_S": "3", "FETCH__ATTEMPTS": "1000"}
    rates = []
    for name, with_slow in (("slow host: none, for comparison", False), ("slow host: half of the claim checks", True)):
        promise = f"the other half has at least {_LEAST_SHARE:.0%} of its throughput, all are answered in the end"
        with rig.case(name, promise) as case, Hosts(case.pictures) as hosts:
            case.settings.update(hosts.settings | patient)
            hosts.hang()
            fast = hosts.events(count, FAST)
            slow = hosts.events(count if with_slow else 0, SLOW)
            case.fleet.grow(1)
            case.until(case.fleet.ready, "the worker ready")
            if with_slow:
                case.send(chain.from_iterable(zip(slow, fast, strict=True)), 2 * _FAST_PER_S)
            else:
                case.send(fast, _FAST_PER_S)
            case.until(lambda case=case: case.answered >= count, "the fast half answered", 120)  # type: ignore[misc]
            times = sorted(answer.at for answer in case.answers.found if answer.is_final)
            rates.append(count / (times[count - 1] - times[0]))
            case.figures["fast answers/s"] = round(rates[-1])
            if with_slow:
                share = rates[1] / rates[0]
                case.figures["of its own throughput"] = share
                case.require(share >= _LEAST_SHARE, f"the fast half had {share:.2f} of its throughput")
            hosts.recover()
            yield case.finish(180)


def tenant(rig: Rig) -> Iterator[Result]:
    """One tenant's images are at hosts that hang, ever new ones; another's events are in the same partitions or not."""
    count = rig.events(_EVENTS_OF_TENANT)
    patient = {"FETCH__RETRY_DELAY_S": "3", "FETCH__ATTEMPTS": "1000"}
    for name, partitions, most_s in (
        ("tenant: alone, for comparison", None, _MEDIAN_S),
        ("tenant: beside one whose hosts hang", (0, 1), _MEDIAN_S),
        ("tenant: mixed with one whose hosts hang", (None, None), _MIXED_MEDIAN_S),
    ):
        promise = (
            f"a median of at most {most_s} s; the other holds no more than its {_SLOTS_OF_TENANT} of 64 fetch slots"
        )
        with rig.case(name, promise) as case, Hosts(case.pictures, MANY_SLOW) as hosts:
            case.settings.update(hosts.settings | patient)
            hosts.hang()
            case.fleet.grow(1)
            case.until(case.fleet.ready, "the worker ready")
            if partitions is not None:
                hanging = hosts.events(int(_HANGING_PER_S) * _HANGING_S, *MANY_SLOW)
                case.feed.send(of_tenant(hanging, "hanging"), _HANGING_PER_S, partitions[0])
                case.until(lambda hosts=hosts: hosts.waiting > _SLOTS_OF_TENANT, "alone it may take all slots")  # type: ignore[misc]
            own = partitions[1] if partitions is not None else 1
            case.feed.send(of_tenant(hosts.events(count, FAST), "other"), _OTHER_PER_S, own)
            case.let_pass(_SETTLED_S)
            held: list[int] = []

            def answered(case: Case = case, hosts: Hosts = hosts, held: list[int] = held) -> bool:
                held.append(hosts.waiting)
                return case.answered >= count  # what hangs is not answered, but deferred

            case.until(answered, "the other tenant's events answered")
            took = [answer.at - case.feed.sent[answer.origin].at for answer in case.answers.found if answer.is_final]
            case.figures["median s"] = median = statistics.median(took)
            case.require(median <= most_s, f"a median of {median:.2f} s")
            if partitions is not None:
                # Not the most: when many end at a time, their successors may come before we see them end.
                case.figures["fetches that hang"] = hang = statistics.median(held)
                case.require(0 < hang <= _SLOTS_OF_TENANT, f"the other held {hang} slots")
            hosts.recover()
            yield case.finish(180)


def many_tenants(rig: Rig) -> Iterator[Result]:
    """Each event is of a tenant that nobody has seen before and nobody sees again."""
    count = rig.events(_TENANTS)
    promise = f"all answered; the worker grows by less than {_GROWTH_MB} MB"
    with rig.case(f"many tenants: {count:,}", promise) as case:
        case.fleet.grow(1)
        case.until(case.fleet.ready, "the worker ready")
        first = _memory_after(case, _FEWEST)
        last = _memory_after(case, count)
        case.figures["MB grown"] = grown = last - first
        case.require(first > 0 and grown < _GROWTH_MB, f"grown from {first:.0f} MB by {grown:.0f}")
        yield case.finish()


def _memory_after(case: Case, events: int) -> float:
    """MB that the worker takes when it has answered so many events of new tenants."""
    wanted = case.answered + events
    case.send(replace(event, headers=(*event.headers, *_new_tenant())) for event in case.inline(events))
    case.until(lambda: case.answered >= wanted, "answered", 60 + events / 100)
    return case.fleet.metric(0, "process_resident_memory_bytes") / 1e6


def _new_tenant() -> Headers:
    name = uuid.uuid4().hex.encode()
    return ("ce_id", name), ("ce_source", b"urn:chaos"), ("ce_tenant", name)


def hanging(rig: Rig) -> Iterator[Result]:
    """Every fetch in flight hangs while the partitions move, and while a worker is told to end."""
    patient = {"FETCH__DEADLINE_S": "600", "FETCH__PATIENCE_S": "600", "FETCH__PER_HOST": "64"}
    promise = (
        f"partitions move within {_HANDED_OVER_S:.0f} s, a worker ends within {_DRAIN_S:.0f} s; none lost or twice"
    )
    with rig.case("hanging: a rebalance, then SIGTERM", promise, static=False) as case, Hosts(case.pictures) as hosts:
        case.settings.update(hosts.settings | patient | {"PIPELINE__DRAIN_S": str(_DRAIN_S)})
        hosts.hang()
        case.send(hosts.events(_IN_FLIGHT, SLOW))
        case.fleet.grow(1)
        case.until(lambda: hosts.waiting > 0, "fetches hang")
        case.fleet.grow(2)
        case.until(lambda: case.fleet.is_ready(1), "the second worker is ready")
        began = time.monotonic()
        topic = case.stream.topic("images")
        case.until(lambda: bool(case.fleet.partitions(1, topic)), "the second worker has partitions", _HANDED_OVER_S)
        case.figures["handed over after s"] = time.monotonic() - began
        began = time.monotonic()
        case.fleet.shrink(1)
        took = time.monotonic() - began
        case.figures["ended after s"] = took
        case.require(took < _DRAIN_S + 3, f"SIGTERM took {took:.1f} s")
        case.require(case.answered == 0, f"{case.answered} answers while everything hung")
        hosts.recover()
        yield case.finish()
