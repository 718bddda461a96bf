"""Every access to a private part of kafka-python, by name: what another version has to be looked at for."""

import ast
import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.cluster import ClusterMetadata
from kafka.consumer.fetcher import Fetcher
from kafka.consumer.subscription_state import SubscriptionState
from kafka.coordinator.consumer import ConsumerCoordinator
from kafka.net.manager import KafkaConnectionManager
from kafka.net.transport import KafkaSSLTransport, KafkaTCPTransport
from kafka.producer.sender import Sender
from kafka.record import MemoryRecords

import worker.kafka

LOOKED_AT = "3.0.12"
PRIVATE: dict[str, tuple[type, ...]] = {
    "_append": (Fetcher,),
    "_buffer": (MemoryRecords,),
    "_build_transport": (KafkaConnectionManager,),
    "_client": (KafkaConsumer, Sender),
    "_cluster": (KafkaConsumer,),
    "_completed_fetches": (Fetcher,),
    "_coordinator": (KafkaConsumer,),
    "_fetchable_partitions": (Fetcher,),
    "_fetcher": (KafkaConsumer,),
    "_join_task": (ConsumerCoordinator,),
    "_next_partition_records": (Fetcher,),
    "_paused_completed_fetches": (Fetcher,),
    "_paused_partition_records": (Fetcher,),
    "_send_fetches_async": (Fetcher,),
    "_sender": (KafkaProducer,),
    "_sock_recv": (KafkaTCPTransport, KafkaSSLTransport),
    "_subscription": (KafkaConsumer,),
    "_transaction_manager": (KafkaProducer,),
}
"""Name -> the classes that have it."""
REACHED = {
    "assignment": SubscriptionState,
    "fetch_committed_offsets": ConsumerCoordinator,
    "fetch_committed_offsets_async": ConsumerCoordinator,
    "is_assigned": SubscriptionState,
    "missing_fetch_positions": SubscriptionState,
    "refresh_committed_offsets_if_needed_async": ConsumerCoordinator,
    "request_update": ClusterMetadata,
    "seek": SubscriptionState,
    "topic_id": ClusterMetadata,
}
"""Public names that are reached through private ones, by ``worker.kafka.positions``."""
PUBLIC = {"kafka", "kafka.admin", "kafka.errors", "kafka.structs"}
INTERNAL = {
    "kafka.consumer.fetcher",
    "kafka.coordinator.assignors.cooperative_sticky",
    "kafka.net.compat",
    "kafka.net.inet",
    "kafka.net.manager",
    "kafka.net.selector",
    "kafka.net.transport",
    "kafka.protocol.consumer.metadata",
    "kafka.record.default_records",
    "kafka.record.memory_records",
    "kafka.record.util",
}
"""Modules without a promise of stability that are imported all the same."""

SOURCES = {path: ast.parse(path.read_text()) for path in sorted(Path(worker.kafka.__path__[0]).glob("*.py"))}
ADVICE = (
    f"worker/kafka relies on private parts of kafka-python that were looked at in {LOOKED_AT}. For another version, "
    "read what changed in each class of PRIVATE and each module of INTERNAL, run `make chaos`, then move LOOKED_AT and "
    "the cap in pyproject.toml"
)


def defined(tree: ast.AST) -> set[str]:
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_the_version_is_the_one_that_was_looked_at() -> None:
    assert version("kafka-python") == LOOKED_AT, ADVICE


def test_every_private_access_is_listed() -> None:
    own = {name for tree in SOURCES.values() for name in defined(tree)} - PRIVATE.keys()
    accessed = {
        node.attr
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"_[a-z]\w*", node.attr)
        and not (isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"})
    }
    overridden = {name for tree in SOURCES.values() for name in defined(tree)} & PRIVATE.keys()
    assert (accessed - own - {"_replace"}) | overridden == PRIVATE.keys()  # named tuples have a public `_replace`


@pytest.mark.parametrize("name", PRIVATE)
def test_the_private_part_is_there(name: str) -> None:
    for kind in PRIVATE[name]:
        sources = [inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("kafka")]
        pattern = rf"self\.{name}\b|def {name}\("
        assert any(re.search(pattern, source) for source in sources), f"{kind.__name__}.{name} is gone. {ADVICE}"


@pytest.mark.parametrize("name", REACHED)
def test_what_is_reached_through_a_private_part_is_there(name: str) -> None:
    pattern = rf"self\.{name}\b|def {name}\("
    assert re.search(pattern, inspect.getsource(REACHED[name])), f"{REACHED[name].__name__}.{name} is gone. {ADVICE}"


def test_every_internal_module_is_listed() -> None:
    imported = {
        node.module
        for tree in SOURCES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "kafka"
    }
    assert imported - PUBLIC == INTERNAL, ADVICE
