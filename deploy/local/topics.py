"""Creating topics, on either broker."""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # documented there; untyped there

from deploy.local.errors import TopicError

GENPRINT_TOPICS = ("images", "images.retry", "images.dead", "verdicts")
"""What a worker reads and writes."""

_LOGGER = logging.getLogger(__name__)
_POLL_INTERVAL_S = 0.02


def create_topics(
    bootstrap: str,
    partitions: Mapping[str, int],
    *,
    config: Mapping[str, str] | None = None,
    replication: int = 1,
    timeout_s: float = 15.0,
) -> None:
    """Create topics and wait until clients can see them. A topic that exists is left as it is.

    Args:
        bootstrap: `host:port` of a broker.
        partitions: Number of partitions by topic name.
        config: Topic settings, such as `max.message.bytes`, for all of them.
        replication: Copies of each.
        timeout_s: For everything together.

    Raises:
        TopicError: The broker refused one, or did not answer in time.
    """
    deadline = time.monotonic() + timeout_s
    new = [NewTopic(name, count, replication, config=dict(config or {})) for name, count in partitions.items()]
    # Left without closing, a client goes on reconnecting to a broker that was stopped.
    with AdminClient({"bootstrap.servers": bootstrap}, logger=_LOGGER) as admin:
        for name, created in admin.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s).items():
            _require_created(name, created, bootstrap)
        while missing := partitions.keys() - _topic_names(admin, bootstrap, deadline):
            if time.monotonic() > deadline:
                raise TopicError(f"{bootstrap} does not show {', '.join(sorted(missing))} after {timeout_s:g} s")
            time.sleep(_POLL_INTERVAL_S)


def _require_created(name: str, created: "Future[None]", bootstrap: str) -> None:
    try:
        created.result()
    except KafkaException as exception:
        error = exception.args[0]
        if error.code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise TopicError(f"topic {name!r} was not created on {bootstrap}: {error.str()}") from exception


def _topic_names(admin: AdminClient, bootstrap: str, deadline: float) -> set[str]:
    try:
        return set(admin.list_topics(timeout=max(deadline - time.monotonic(), 0.1)).topics)
    except KafkaException as exception:
        raise TopicError(f"{bootstrap} did not list its topics: {exception.args[0].str()}") from exception
