"""Everything that can go wrong in the worker, each with one disposition and one metric label.

::

    WorkerError
    ├── EventError              reject   the event itself is wrong
    │   ├── EmptyEvent                   a record without a value (a tombstone)
    │   ├── UndecodableRecord            a record or batch that cannot be decoded, or a batch above its ceilings
    │   ├── UnknownContentType           neither an image nor a claim check
    │   ├── InvalidEvent                 not a valid CloudEvent or claim check
    │   ├── EventTooLarge                value, claim check, or key and headers above their ceilings
    │   ├── Sha256Mismatch               the bytes are not those that the event declares
    │   ├── WorkerKilled                 processes ended while it was in flight, and nothing else was
    │   └── AnswerRefused                the broker does not take its verdict
    ├── SourceError
    │   ├── SourceForbidden     reject   an address outside ``fetch.sources``, or in a private network
    │   ├── SourceRefused       reject   the source refuses (HTTP 404 or 403, no such object)
    │   ├── SourceTooLarge      reject   more bytes than ``fetch.max_bytes``
    │   ├── SourceExhausted     reject   deferred as often as ``fetch.attempts`` allows
    │   ├── SourceUnavailable   defer    slow, down, or answering 5xx
    │   ├── SourceDenied        defer    a store or folder that the worker has no right to read
    │   │   └── SourceUnreadable defer   nothing of a configured source can be read; as often as it takes
    │   └── SourceBusy          defer    not tried: its host has just failed, or other fetches took all the time
    ├── OverShare               defer    its tenant holds its share of the slots already
    ├── DecoderError
    │   ├── DecoderCrashed      reject   the process that decodes the image ends, twice
    │   ├── DecodeTimeout       reject   decoding outruns its deadline, twice
    │   └── DecodeMemory        reject   decoding outruns its memory, twice
    ├── InferenceError
    │   ├── InvalidOutput       reject   the model gives NaN or infinity for this image
    │   ├── InferenceFailed     reject   the model fails on this image alone
    │   └── DeviceFailed        crash    the device is gone; a new process may get it back
    ├── BrokerError
    │   ├── PublishAborted      retry    nothing was published; publish the same again
    │   │   └── GroupUnstable   retry    the group is rebalancing, which passes by itself
    │   ├── MessageRefused      retry    nothing was published; the broker does not take one of the messages
    │   ├── BrokerUnreachable   crash    no broker, or it denies access
    │   ├── TopicMissing        crash    a topic does not exist
    │   ├── TopicUnsuitable     crash    a topic would refuse answers, by its settings at the start
    │   ├── Fenced              crash    another process has taken over this identity
    │   ├── UndecodableBatch    crash    records that cannot be decoded, at unknown offsets
    │   ├── LogChanged          crash    a replay's topic was made again, or its log cut
    │   └── PublishUncertain    crash    committed or not, only a restart can tell
    ├── MemoryShort             crash    too little memory for what is within its ceilings
    └── StartupError            crash    settings, bundle or device cannot be used

An image's own faults (``bundle.errors.ImageError``) are rejected as well, by their ``reason``.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import ClassVar


class Disposition(StrEnum):
    """What happens to the event, or to the process."""

    REJECT = "reject"  # a dead letter
    DEFER = "defer"  # to the retry topic, in the same transaction
    RETRY = "retry"  # from memory, at once
    CRASH = "crash"  # exit with nothing committed


class WorkerError(Exception):
    """Base of the tree; ``reason`` is the label on metrics and dead letters."""

    disposition: ClassVar[Disposition] = Disposition.CRASH
    reason: ClassVar[str] = "internal"


class EventError(WorkerError):
    """The event itself is wrong, so that no further attempt could answer it."""

    disposition = Disposition.REJECT


class EmptyEvent(EventError):
    """The record has no value (a tombstone)."""

    reason = "empty_event"


class UndecodableRecord(EventError):
    """A record or batch that cannot be decoded, or a batch that holds too much; its records were not read."""

    reason = "undecodable_record"


class UnknownContentType(EventError):
    """The content type is neither that of an image nor that of a claim check."""

    reason = "unknown_content_type"


class InvalidEvent(EventError):
    """The CloudEvent, its JSON or its claim check is malformed."""

    reason = "invalid_event"


class EventTooLarge(EventError):
    """A value, a claim check, or key and headers above their ceilings."""

    reason = "event_too_large"


class Sha256Mismatch(EventError):
    """The bytes do not have the sha256 that the event declares."""

    reason = "sha256_mismatch"


class WorkerKilled(EventError):
    """Processes ended while the event was in flight, and nothing else was; see ``worker.pipeline.journal``."""

    reason = "worker_killed"


class AnswerRefused(EventError):
    """The broker does not take the verdict on it, as a record that breaks a rule of the topic."""

    reason = "answer_refused"


class SourceError(WorkerError):
    """The image of a claim check could not be fetched."""

    disposition = Disposition.REJECT


class SourceForbidden(SourceError):
    """An address outside ``fetch.sources``, or one that leads into a private network."""

    reason = "source_forbidden"


class SourceRefused(SourceError):
    """The source answered, and will answer the same again."""

    reason = "source_refused"


class SourceTooLarge(SourceError):
    """The source sends more than ``fetch.max_bytes``, counted as they arrive."""

    reason = "source_too_large"


class SourceExhausted(SourceError):
    """The source was still unavailable after ``fetch.attempts``."""

    reason = "source_exhausted"


class SourceUnavailable(SourceError):
    """The source is slow or away, so that a later attempt may succeed."""

    disposition = Disposition.DEFER
    reason = "source_unavailable"

    def __init__(self, detail: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s
        """How long it asked to be left alone."""


class SourceDenied(SourceError):
    """A store or folder denies access: rights that the operator can mend, or (S3) no such object."""

    disposition = Disposition.DEFER
    reason = "source_denied"


class SourceUnreadable(SourceDenied):
    """Everything that was asked of a configured source lately was denied; its events are deferred without a limit."""

    reason = "source_unreadable"


class SourceBusy(SourceError):
    """The source was not tried: its host failed several times in a row or asked for a pause, or others came first.

    The last is no failure of the host, even where it was asked in the end.
    """

    disposition = Disposition.DEFER
    reason = "source_busy"


class OverShare(WorkerError):
    """An event beyond its tenant's share, deferred while other tenants are active; see ``worker.fairness``."""

    disposition = Disposition.DEFER
    reason = "over_share"


class DecoderError(WorkerError):
    """A decoder's process ended on an image, or had to be ended; see ``worker.images.decoder_pool``."""

    disposition = Disposition.REJECT


class DecoderCrashed(DecoderError):
    """The process ended by itself, or its answers make no sense."""

    reason = "decoder_crashed"


class DecodeTimeout(DecoderError):
    """There was no answer within the deadline, which grows with the pixels."""

    reason = "decode_timeout"


class DecodeMemory(DecoderError):
    """Decoding took more memory than the image's header and format account for."""

    reason = "decode_memory"


class InferenceError(WorkerError):
    """The model gave no usable answer."""


class InvalidOutput(InferenceError):
    """The model gives NaN or infinity for this image."""

    disposition = Disposition.REJECT
    reason = "invalid_output"


class InferenceFailed(InferenceError):
    """The session fails on this image even when it is alone in the batch."""

    disposition = Disposition.REJECT
    reason = "inference_failed"


class DeviceFailed(InferenceError):
    """The device has an error that every later call would meet too."""

    reason = "device_failed"


class BrokerError(WorkerError):
    """Kafka cannot be used, or a publication failed."""


class PublishAborted(BrokerError):
    """The transaction was aborted cleanly, or never began."""

    disposition = Disposition.RETRY
    reason = "publish_aborted"


class GroupUnstable(PublishAborted):
    """Nothing was sent: while the group rebalances, the partitions may belong to another worker already."""

    reason = "group_unstable"


class MessageRefused(BrokerError):
    """The broker does not take a message, by its size or another rule of its topic; nothing was committed."""

    disposition = Disposition.RETRY
    reason = "message_refused"

    def __init__(self, candidates: Sequence[object], detail: str) -> None:
        super().__init__(detail)
        self.candidates = candidates
        """The messages of which at least one is refused; the broker does not always tell which."""


class BrokerUnreachable(BrokerError):
    """No connection, no authentication, or no authorisation."""

    reason = "broker_unreachable"


class TopicMissing(BrokerError):
    """A topic does not exist; a running worker never creates one (``genprint topics create`` does)."""

    reason = "topic_missing"


class TopicUnsuitable(BrokerError):
    """A topic would refuse what the worker writes, by its settings; found at the start."""

    reason = "topic_unsuitable"


class Fenced(BrokerError):
    """A process with the same instance id has taken over, or the group has removed this member."""

    reason = "fenced"


class UndecodableBatch(BrokerError):
    """Records at unknown offsets, which cannot be answered; polling again would meet them again."""

    reason = "undecodable_batch"


class LogChanged(BrokerError):
    """The log is not the one that a replay began to read, so that its span means something else now."""

    reason = "log_changed"


class PublishUncertain(BrokerError):
    """The outcome of a commit is unknown."""

    reason = "publish_uncertain"


class MemoryShort(WorkerError):
    """There is too little memory for work that is within its ceilings: no fault of the event, record batch or image."""

    reason = "memory_short"


class StartupError(WorkerError):
    """The worker cannot start; the message names the setting, file or option, and what was expected."""

    reason = "startup"
