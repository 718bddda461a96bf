"""What Kafka alone costs: events in, verdicts out, in transactions, with nothing between."""

import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.structs import OffsetAndMetadata

from tests.bench.backlog import Backlog
from tests.bench.machine import cpu_s
from tests.bench.rig import Rig
from tests.integration.worker_process import PARTITIONS
from tests.worker.messages.verdicts import make_verdict
from worker.messages.verdict import verdict_message

_EVENTS, _QUICK_EVENTS, _WARM_UP_EVENTS = 8_000, 4_000, 1_000
_VERDICT_BYTES = 1_100
"""About what a verdict with five candidates has; ``make_verdict`` has one."""


@dataclass(frozen=True)
class Way:
    """How the clients are set up."""

    transaction: int
    """Most events of one transaction."""
    fetch_bytes: int
    batch_bytes: int


_WAYS = (Way(500, 4 * 2**20, 2**18), Way(250, 16 * 2**20, 2**18), Way(1_000, 32 * 2**20, 2**20))
"""The cheapest counts: fewer, larger transactions save round trips, but large fetches cost kafka-python more a byte."""


@dataclass(frozen=True)
class KafkaCost:
    """CPU seconds per image of consuming it and producing its verdict."""

    client_s: float
    broker_s: float
    way: Way

    @property
    def total_s(self) -> float:
        """Both."""
        return self.client_s + self.broker_s


def measure_kafka(rig: Rig) -> KafkaCost:
    """The cheapest way, with as many clients at a time as there are cores, each on topics of its own."""
    with ProcessPoolExecutor(rig.cores, multiprocessing.get_context("spawn")) as pool:
        for way in _WAYS:  # what is compiled and loaded on first use is no cost of an image
            _relays(rig, pool, way, _WARM_UP_EVENTS)
        costs = [_relays(rig, pool, way, rig.events(_EVENTS, _QUICK_EVENTS)) for way in _WAYS]
    return min(costs, key=lambda cost: cost.total_s)


def _relays(rig: Rig, pool: ProcessPoolExecutor, way: Way, events: int) -> KafkaCost:
    backlogs = [Backlog(rig.stream()) for _ in range(rig.cores)]
    for backlog in backlogs:
        backlog.add(rig.images.first(events))
        backlog.flush()
        backlog.release()
    streams = [backlog.stream for backlog in backlogs]
    broker_s = cpu_s(rig.kafka.pid)
    clients = [pool.submit(_relay, s.bootstrap, s.topic("images"), s.topic("verdicts"), way, events) for s in streams]
    client_s = sum(client.result() for client in clients)
    images = events * rig.cores
    return KafkaCost(client_s / images, (cpu_s(rig.kafka.pid) - broker_s) / images, way)


def _relay(bootstrap: str, images: str, verdicts: str, way: Way, events: int) -> float:
    """Consume and answer ``events`` of them with verdicts made beforehand; CPU seconds in all."""
    message = verdict_message(make_verdict(subject="x" * 233), topic=verdicts, key=b"1234", traceparent=None)
    assert message.value is not None
    assert abs(len(message.value) - _VERDICT_BYTES) < 50
    headers = list(message.headers)
    consumer = KafkaConsumer(
        bootstrap_servers=bootstrap,
        group_id=images,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=way.transaction,
        fetch_max_bytes=way.fetch_bytes,
        max_partition_fetch_bytes=way.fetch_bytes,
        metrics_enabled=False,
    )
    consumer.assign([TopicPartition(images, number) for number in range(PARTITIONS)])
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        transactional_id=images,
        linger_ms=5,
        batch_size=way.batch_bytes,
        max_request_size=4 * way.batch_bytes,
        retry_backoff_ms=10,
        metrics_enabled=False,
    )
    producer.init_transactions()
    done, began = 0, time.process_time()
    while done < events:
        polled = consumer.poll(timeout_ms=1000)
        if not polled:
            continue
        producer.begin_transaction()
        for records in polled.values():
            for record in records:
                producer.send(verdicts, value=message.value, key=record.key, headers=headers)
            done += len(records)
        producer.flush()
        offsets = {tp: OffsetAndMetadata(records[-1].offset + 1, "", -1) for tp, records in polled.items()}
        producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
        producer.commit_transaction()
    spent = time.process_time() - began
    producer.close()
    consumer.close()
    return spent
