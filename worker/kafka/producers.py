"""Writing to Kafka: the worker's answers, exactly once or at least once, and images for ``genprint produce``.

``worker.kafka.client`` has the steps on which exactly-once rests.
"""

import contextlib
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import KafkaProducer, errors
from kafka.admin import KafkaAdminClient

from worker.errors import (
    BrokerError,
    BrokerUnreachable,
    EventTooLarge,
    Fenced,
    MessageRefused,
    PublishAborted,
    PublishUncertain,
    TopicMissing,
)
from worker.kafka.closing import close_producer
from worker.kafka.connection import ACCESS_DENIED, connect, reach, silent_client, start_error
from worker.kafka.topic_configs import Configs, topic_configs, topic_limit
from worker.messages.records import Message
from worker.settings import KafkaSettings

_BATCH_BYTES = 256 * 1024
_LINGER_MS = 5
_TOO_LARGE = (errors.MessageSizeTooLargeError, errors.RecordListTooLargeError)
_REFUSED = (*_TOO_LARGE, errors.InvalidRecordError, errors.InvalidTimestampError, errors.PolicyViolationError)
"""What the broker answers, and would answer again, to a record that breaks a rule of its topic."""
_FENCED = (errors.ProducerFencedError, errors.InvalidProducerEpochError, errors.FencedInstanceIdError)
_CLIENT_ERRORS = (errors.KafkaError, RuntimeError, ValueError, TypeError)
"""Exceptions that kafka-python raises from a transaction: its fatal states are plain RuntimeErrors."""


class Publisher:
    """Publishes answers together with offsets, by transactions or at least once."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._transactional = settings.delivery == "exactly_once"
        self._transactional_id = f"{settings.group_id}-{settings.instance_id or uuid.uuid4().hex}"
        self._answer_topics = (settings.retry_topic, settings.dead_topic, settings.verdicts_topic)
        self._producer: Any = None
        self._must_replace = False
        """Whether the broker has refused a record of the producer: its sequence numbers have a gap."""
        self.max_message_bytes = settings.max_message_bytes
        """Largest message that all topics take, key and headers included, as far as they tell."""

    def start(self, configs: Configs) -> None:
        """Connect.

        Args:
            configs: of the topics, for the size of messages.

        Raises:
            KafkaError: there is no connection, or no transaction can be made.
        """
        s = self._settings
        self.max_message_bytes = min(s.max_message_bytes, topic_limit(configs, self._answer_topics, s))
        options = producer_options(s, self.max_message_bytes)
        self._producer = connect(KafkaProducer, s, **options, **self._transaction_options())
        if self._transactional:
            _retry_dropped_request(self._producer)
            self._producer.init_transactions()  # also ends one that an earlier process of this identity left open

    def publish(self, messages: Sequence[Message], offsets: dict[Any, Any], group: Any, consumer: Any) -> None:
        """Publish messages and commit offsets of a ``KafkaConsumer``, as a member of its group."""
        if self._must_replace:
            self._replace_producer()
        if self._transactional:
            self._publish_transaction(messages, offsets, group)
        else:
            self._publish_then_commit(messages, offsets, consumer)

    def close(self) -> None:
        """Disconnect; safe to call twice."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 2)

    def _transaction_options(self) -> dict[str, Any]:
        if not self._transactional:
            return {}
        return {
            "transactional_id": self._transactional_id,
            "transaction_timeout_ms": int(self._settings.transaction_timeout_s * 1000),
            "max_block_ms": int(self._settings.start_timeout_s * 1000),
        }

    @silent_client()
    def _replace_producer(self) -> None:
        """Go on with another producer, which knows how large messages may be by now."""
        self.close()
        try:
            with closing(connect(KafkaAdminClient, self._settings)) as admin:
                configs = topic_configs(admin, self._answer_topics)
            self.start(configs)
        except _CLIENT_ERRORS as error:
            raise publish_error(error) from error
        self._must_replace = False

    def _publish_transaction(self, messages: Sequence[Message], offsets: dict[Any, Any], group: Any) -> None:
        try:
            self._producer.begin_transaction()
        except _CLIENT_ERRORS as error:
            raise PublishUncertain(f"no transaction could be begun: {error}; a restart goes on") from error
        identity = self._producer._transaction_manager.producer_id_and_epoch  # noqa: SLF001 - see step 5
        try:
            self._send(messages)
            self._producer.send_offsets_to_transaction(offsets, group)
        except (*_CLIENT_ERRORS, MessageRefused) as error:
            self._abort(error)
        try:
            self._producer.commit_transaction()
        except _CLIENT_ERRORS as error:
            raise PublishUncertain(f"commit failed: {error}; a restart finds out whether it took place") from error
        if self._producer._transaction_manager.producer_id_and_epoch != identity:  # noqa: SLF001 - see step 5
            # TransactionManager.bump_producer_id_and_epoch completes a pending commit as if it had succeeded.
            raise PublishUncertain(
                "the producer's epoch changed during the commit; a restart finds out whether it took place"
            )

    def _abort(self, cause: Exception) -> None:
        """Abort the transaction, and raise the worker's error for ``cause``."""
        meaning = publish_error(cause)
        if not isinstance(meaning, Fenced):
            try:
                self._producer.abort_transaction()
            except _CLIENT_ERRORS as error:
                raise PublishUncertain(f"abort failed: {error}, after: {cause}; a restart goes on") from error
        if meaning is cause:
            raise cause
        raise meaning from cause

    def _publish_then_commit(self, messages: Sequence[Message], offsets: dict[Any, Any], consumer: Any) -> None:
        try:
            self._send(messages)
            consumer.commit(offsets, timeout_ms=int(self._settings.publish_deadline_s * 500))
        except errors.KafkaError as error:
            raise publish_error(error) from error

    def _send(self, messages: Sequence[Message]) -> None:
        """Send all and wait for every acknowledgement."""
        sent: list[tuple[Message, Any]] = []
        failures: list[tuple[Message, errors.KafkaError]] = []
        for m in messages:
            try:
                sent.append((m, self._producer.send(m.topic, value=m.value, key=m.key, headers=list(m.headers))))
            except errors.KafkaError as error:  # it is too large, or one that was sent before has failed
                failures.append((m, error))
                break
        unsent = len(failures)
        deadline = time.monotonic() + self._settings.transaction_timeout_s
        with contextlib.suppress(errors.UnknownError):  # kafka-python (3.0.12) raises it for a batch that it has split
            self._producer.flush(timeout=self._settings.transaction_timeout_s)
        for m, future in sent:
            try:
                future.get(timeout=max(0.0, deadline - time.monotonic()))
            except errors.KafkaError as error:
                failures.append((m, error))
        # The others of a refused record's batch fail too: without a reason of their own, or, where the broker does not
        # tell which it was, with the same one.
        refused = [(m, error) for m, error in failures if isinstance(error, _REFUSED)]
        if len(failures) > unsent and (refused or not self._transactional):  # without transactions any failure is final
            self._must_replace = True
        if refused:
            raise MessageRefused([m for m, _ in refused], f"{refused[0][0].topic}: {refused[0][1]}")
        if failures:
            raise failures[-1][1]


class ImageSender:
    """Writes image events to a topic, for ``genprint produce``."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._producer: Any = None
        self._futures: list[Any] = []

    def start(self) -> None:
        """Connect.

        Raises:
            BrokerUnreachable, TopicMissing: nothing was sent.
        """
        reach(self._settings)
        try:
            self._producer = connect(
                KafkaProducer,
                self._settings,
                **producer_options(self._settings, self._settings.max_message_bytes),
            )
            if not self._producer.partitions_for(self._settings.images_topic):
                raise TopicMissing(f"no topic {self._settings.images_topic}; create it first (genprint topics create)")
        except errors.KafkaError as error:
            raise start_error(error, self._settings) from error

    def send(self, message: Message) -> None:
        """Queue one event; waits for acknowledgements when many are under way.

        Raises:
            EventTooLarge: names the image.
        """
        m = message
        try:
            self._futures.append(self._producer.send(m.topic, value=m.value, key=m.key, headers=list(m.headers)))
        except _TOO_LARGE as error:
            raise EventTooLarge(f"{(m.key or b'').decode()}: {error}; send a claim check instead") from error
        if len(self._futures) >= 256:
            self.flush()

    def flush(self) -> None:
        """Wait until everything is acknowledged.

        Raises:
            BrokerUnreachable: something was not.
        """
        try:
            for future in self._futures:
                future.get(timeout=self._settings.start_timeout_s)
        except ACCESS_DENIED as error:
            raise start_error(error, self._settings) from error
        except errors.KafkaError as error:
            raise BrokerUnreachable(f"an event was not acknowledged: {error}") from error
        self._futures.clear()

    def close(self) -> None:
        """Disconnect."""
        producer, self._producer = self._producer, None
        if producer is not None:
            close_producer(producer, 5)


def producer_options(settings: KafkaSettings, max_message_bytes: int) -> dict[str, Any]:
    """Options of a producer that sends when it is flushed; its delivery time-out is below the transaction's."""
    return {
        "acks": "all",
        "linger_ms": _LINGER_MS,
        "batch_size": min(_BATCH_BYTES, max_message_bytes),
        "max_request_size": max_message_bytes,
        "delivery_timeout_ms": int(settings.transaction_timeout_s * 1000 * 2 / 3),
        "retry_backoff_ms": 10,  # slept in the sender while a transaction marker is being written
    }


def publish_error(error: Exception) -> BrokerError:
    """The worker's error for a failure before the commit: one to retry, or one that ends the process."""
    if isinstance(error, BrokerError):
        return error
    if isinstance(error, _FENCED) or "UnknownMemberId" in str(error):
        return Fenced(f"another process took over; give each worker its own kafka.instance_id: {error}")
    if isinstance(error, ACCESS_DENIED):
        return BrokerUnreachable(f"the broker denied access: {error}")
    return PublishAborted(str(error))


def _retry_dropped_request(producer: Any) -> None:
    """Make a transactional ``KafkaProducer`` repeat a request that it was about to send when its connection was lost.

    kafka-python (3.0.12) repeats the request if its client returns that the node is not ready; but the client raises
    instead, and the request is dropped: the transaction stands still until its records or the worker's deadline expire.
    """
    client = producer._sender._client  # noqa: SLF001 - no public hook for a lost connection
    await_ready = client.await_ready

    def is_ready(*args: Any, **options: Any) -> bool:
        try:
            return bool(await_ready(*args, **options))
        except errors.KafkaConnectionError:
            return False

    client.await_ready = is_ready
