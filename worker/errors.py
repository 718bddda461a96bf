"""Everything that can go wrong in the worker, each with one disposition and one metric label.

::

    WorkerError
    ├── EventError              reject   the event itself is wrong
    │   ├── EmptyEvent                   a record without a value (a tombstone)
    │   ├── UndecodableRecord            nobody can read it: a corrupt batch, lengths that do not fit
    │   ├── UnknownContentType           neither an image nor a claim check
    │   ├── InvalidEvent                 not the CloudEvent or claim check that it says it is
    │   ├── EventTooLarge                inline image, claim check, or key and headers above their ceilings
    │   └── Sha256Mismatch               the bytes are not those that the event declares
    ├── SourceError
    │   ├── SourceForbidden     reject   an address we do not fetch from
    │   ├── SourceRefused       reject   the source says no (404, 403, no such object)
    │   ├── SourceTooLarge      reject   more bytes than ``fetch.max_bytes``
    │   ├── SourceExhausted     reject   deferred as often as allowed
    │   ├── SourceUnavailable   defer    slow, down, or answering 5xx
    │   └── SourceBusy          defer    not tried: its host has just failed others
    ├── OverShare               defer    its tenant holds its share of the places already
    ├── InferenceError
    │   ├── InvalidOutput       reject   the model gives NaN or infinity for this image
    │   ├── InferenceFailed     reject   the model fails on this image alone
    │   └── DeviceFailed        crash    the device is gone; a new process may get it back
    ├── BrokerError
    │   ├── PublishAborted      retry    nothing was published; publish the same again
    │   │   └── GroupUnstable   retry    the group is rebalancing, which passes by itself
    │   ├── MessageTooLarge     retry    nothing was published; the broker refuses one message
    │   ├── BrokerUnreachable   crash    no broker, or it turns us away
    │   ├── TopicMissing        crash
    │   ├── Fenced              crash    another process has our identity
    │   ├── UndecodableBatch    crash    no client here reads it, and it hides which offsets it has
    │   └── PublishUncertain    crash    committed or not, only a restart can tell
    └── StartupError            crash    settings, bundle or device are not what was asked for

An image's own faults (``bundle.errors.ImageError``) are rejected as well, by their ``reason``.
"""

from enum import StrEnum
from typing import ClassVar


class Disposition(StrEnum):
    """What becomes of the event, or of the process."""

    REJECT = "reject"  # a dead letter
    DEFER = "defer"  # to the retry topic, in the same transaction
    RETRY = "retry"  # from memory, at once
    CRASH = "crash"  # exit with nothing committed


class WorkerError(Exception):
    """Base of the tree; ``reason`` is the label on metrics and dead letters."""

    disposition: ClassVar[Disposition] = Disposition.CRASH
    reason: ClassVar[str] = "internal"


class EventError(WorkerError):
    """The event is not one that anybody could answer."""

    disposition = Disposition.REJECT


class EmptyEvent(EventError):
    """A tombstone."""

    reason = "empty_event"


class UndecodableRecord(EventError):
    """Its bytes are not those of a record."""

    reason = "undecodable_record"


class UnknownContentType(EventError):
    """The content type says neither image nor claim check."""

    reason = "unknown_content_type"


class InvalidEvent(EventError):
    """Malformed CloudEvent, JSON or claim check."""

    reason = "invalid_event"


class EventTooLarge(EventError):
    """An inline image, a claim check, or key and headers above their ceilings."""

    reason = "event_too_large"


class Sha256Mismatch(EventError):
    """A declared sha256 is verified, never trusted."""

    reason = "sha256_mismatch"


class SourceError(WorkerError):
    """A claim check could not be redeemed."""

    disposition = Disposition.REJECT


class SourceForbidden(SourceError):
    """An address outside ``fetch.sources``, or one that leads into a private network."""

    reason = "source_forbidden"


class SourceRefused(SourceError):
    """The source answered, and will answer the same again."""

    reason = "source_refused"


class SourceTooLarge(SourceError):
    """Too many bytes, counted as they arrive."""

    reason = "source_too_large"


class SourceExhausted(SourceError):
    """Still unavailable after ``fetch.attempts``."""

    reason = "source_exhausted"


class SourceUnavailable(SourceError):
    """Slow or away: worth another attempt later."""

    disposition = Disposition.DEFER
    reason = "source_unavailable"


class SourceBusy(SourceError):
    """Not tried at all, because its host failed several times in a row."""

    disposition = Disposition.DEFER
    reason = "source_busy"


class OverShare(WorkerError):
    """One tenant's events beyond its share make way for others; see ``worker.pipeline.fairness``."""

    disposition = Disposition.DEFER
    reason = "over_share"


class InferenceError(WorkerError):
    """The model gave no usable answer."""


class InvalidOutput(InferenceError):
    """NaN or infinity."""

    disposition = Disposition.REJECT
    reason = "invalid_output"


class InferenceFailed(InferenceError):
    """The session fails on this image also when it is alone in the batch."""

    disposition = Disposition.REJECT
    reason = "inference_failed"


class DeviceFailed(InferenceError):
    """A sticky device error: every later call would fail too."""

    reason = "device_failed"


class BrokerError(WorkerError):
    """Kafka."""


class PublishAborted(BrokerError):
    """The transaction was aborted cleanly, or never began."""

    disposition = Disposition.RETRY
    reason = "publish_aborted"


class GroupUnstable(PublishAborted):
    """Nothing was sent: until the group is stable again we could speak for others, or be a zombie."""

    reason = "group_unstable"


class MessageTooLarge(BrokerError):
    """The broker's topic takes no message of this size; nothing of the publication was committed."""

    disposition = Disposition.RETRY
    reason = "message_too_large"

    def __init__(self, index: int, detail: str) -> None:
        super().__init__(detail)
        self.index = index
        """Position of the message among all messages of the publication."""


class BrokerUnreachable(BrokerError):
    """No connection, no authentication, or no authorisation."""

    reason = "broker_unreachable"


class TopicMissing(BrokerError):
    """Topics are made by whoever runs Kafka; the worker never creates one by accident."""

    reason = "topic_missing"


class Fenced(BrokerError):
    """A process with the same instance id, or a coordinator that gave us up, took over."""

    reason = "fenced"


class UndecodableBatch(BrokerError):
    """Records that cannot be answered, since nobody can say where they are; polling again would spin for ever."""

    reason = "undecodable_batch"


class PublishUncertain(BrokerError):
    """The outcome of a commit is unknown."""

    reason = "publish_uncertain"


class StartupError(WorkerError):
    """Something was asked for that is not there; the message names what and where."""

    reason = "startup"
