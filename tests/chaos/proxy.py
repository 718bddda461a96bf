"""A proxy between workers and Apache Kafka that knows which request it passes on, and can spoil it.

Clients reach it at ``kafka.proxy_port``, which the broker names to whoever comes through it.
"""

import asyncio
import contextlib
import random
import struct
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from kafka.protocol.api_header import ResponseClassRegistry

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.ports import LOOPBACK
from tests.stream_server import StreamServer

PRODUCE, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT = 0, 25, 26, 28
COMMIT: frozenset[int] = frozenset({PRODUCE, ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT})
"""Requests of a transaction, by their api key."""
PRODUCE_ERRORS = {"NOT_LEADER_OR_FOLLOWER": 6, "REQUEST_TIMED_OUT": 7, "NOT_ENOUGH_REPLICAS_AFTER_APPEND": 20}
COORDINATOR_ERRORS = {"COORDINATOR_LOAD_IN_PROGRESS": 14, "NOT_COORDINATOR": 16, "CONCURRENT_TRANSACTIONS": 51}

_SIZE = struct.Struct(">i")
_REQUEST = struct.Struct(">hhi")  # api key, api version, correlation id
_RESPONSE = struct.Struct(">i")  # correlation id


class Fault(StrEnum):
    """What happens to a request."""

    CUT = "cut before the broker has it"
    CUT_ANSWER = "cut before the answer"
    HALF_CLOSE = "half-closed: the client reads the end, and the broker goes on"
    SILENCE = "nothing passes any more, and nothing is closed"
    DELAY = "the answer comes late"
    REFUSE = "answered with an error, the broker has not seen it"
    DENY = "answered with an error, the broker has done it"


@dataclass(frozen=True)
class Rule:
    """What to spoil: a share of the requests of some kinds."""

    fault: Fault
    apis: Collection[int]
    share: float
    delay_s: float = 0.0
    error: int = 0


class Proxy:
    """Runs on a thread of its own. ``rule`` may be changed at any time; None passes everything on."""

    def __init__(self, kafka: ApacheKafka, seed: int) -> None:
        self.bootstrap = f"{LOOPBACK}:{kafka.proxy_port}"
        self.rule: Rule | None = None
        self.spoiled: Counter[Fault] = Counter()
        self._kafka = kafka
        self._random = random.Random(seed)
        self._server = StreamServer(self._serve, (LOOPBACK, kafka.proxy_port))

    def __enter__(self) -> "Proxy":
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()

    def spoil(self, api: int) -> Rule | None:
        """The rule, if it hits this request."""
        rule = self.rule
        if rule is None or api not in rule.apis or self._random.random() >= rule.share:
            return None
        self.spoiled[rule.fault] += 1
        return rule

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            to_broker = await asyncio.open_connection(LOOPBACK, self._kafka.proxied_port)
        except OSError:
            writer.transport.abort()
            return
        await _Connection(self, (reader, writer), to_broker).run()


_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class _Connection:
    """One client's connection, and the proxy's own to the broker."""

    def __init__(self, proxy: Proxy, client: _Streams, broker: _Streams) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_broker, self._to_broker = broker
        self._spoiled: dict[int, tuple[Rule, int, int]] = {}  # by correlation id: rule, api key, api version
        self._silent = False

    async def run(self) -> None:
        directions = [asyncio.create_task(self._requests()), asyncio.create_task(self._responses())]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in directions:
                task.cancel()
            for writer in (self._to_client, self._to_broker):
                writer.transport.abort()
            for task in directions:
                with contextlib.suppress(asyncio.CancelledError, OSError, EOFError):
                    await task

    async def _requests(self) -> None:
        while True:
            frame = await _frame(self._from_client)
            api, version, correlation = _REQUEST.unpack_from(frame)
            rule = self._proxy.spoil(api)
            if self._silent:
                continue
            match rule and rule.fault:
                case Fault.CUT:
                    return
                case Fault.SILENCE:
                    self._silent = True
                    continue
                case Fault.REFUSE:
                    assert rule is not None
                    await _send(self._to_client, _refusal(api, version, correlation, rule.error))
                    continue
                case Fault.HALF_CLOSE:
                    await _send(self._to_broker, frame)
                    self._to_client.write_eof()
                    self._silent = True
                    continue
            if rule is not None:
                self._spoiled[correlation] = rule, api, version
            await _send(self._to_broker, frame)

    async def _responses(self) -> None:
        while True:
            frame = await _frame(self._from_broker)
            if self._silent:
                continue
            (correlation,) = _RESPONSE.unpack_from(frame)
            if spoiled := self._spoiled.pop(correlation, None):
                rule, api, version = spoiled
                match rule.fault:
                    case Fault.CUT_ANSWER:
                        return
                    case Fault.DELAY:
                        await asyncio.sleep(rule.delay_s)
                    case Fault.DENY:
                        frame = _denied(frame, api, version, rule.error)
            await _send(self._to_client, frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """A request or response without its size. EOFError, OSError: the connection is over."""
    (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
    return await reader.readexactly(size)


async def _send(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(_SIZE.pack(len(frame)) + frame)
    await writer.drain()


def _response(api: int, version: int) -> Any:
    return ResponseClassRegistry._response_class_registry[api][version]


def _refusal(api: int, version: int, correlation: int, error: int) -> bytes:
    """An answer of an api whose answer is one error."""
    response = _response(api, version)(throttle_time_ms=0, error_code=error)
    response.with_header(correlation_id=correlation)
    return bytes(response.encode(header=True))


def _denied(frame: bytes, api: int, version: int, error: int) -> bytes:
    """The same answer with ``error`` wherever it says how it went."""
    response = _response(api, version).decode(frame, version=version, header=True)
    for part in [response] if hasattr(response, "error_code") else _partitions(response):
        part.error_code = error
    (correlation,) = _RESPONSE.unpack_from(frame)
    response._header = None  # of a response that was read: with it, it cannot be told its version
    response.API_VERSION = version
    response.with_header(correlation_id=correlation)
    return bytes(response.encode(header=True))


def _partitions(response: Any) -> list[Any]:
    if hasattr(response, "responses"):  # of a Produce
        return [partition for topic in response.responses for partition in topic.partition_responses]
    return [partition for topic in response.topics for partition in topic.partitions]
