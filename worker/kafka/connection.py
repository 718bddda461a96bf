"""Reaching a Kafka cluster: the options of all clients, and a first connection that finds out why it fails.

kafka-python (3.0.12) takes every fault of a connection for one that passes. It offers a wrong password again and again
until its time is up, and then no longer knows why access was denied; in a TLS handshake it waits for ever on a server
that sends nothing. So ``reach`` connects once, with the same code but with time limits, before any client is made, and
reports at once a fault that no retry would mend.
"""

import logging
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, Final, TypeVar

from kafka import errors
from kafka.admin import KafkaAdminClient

from worker.errors import BrokerUnreachable, StartupError, TopicMissing
from worker.kafka.closing import ClosingConnections, ClosingLoop, opened
from worker.kafka.topics import worker_operations
from worker.operations.tls import client_context, tls_trouble
from worker.settings import KafkaSettings

ACCESS_DENIED = (errors.AuthorizationError, errors.SaslAuthenticationFailedError, errors.UnsupportedSaslMechanismError)
"""Errors by which a broker denies access, and would do so again."""

C = TypeVar("C")

_CONSUMER_AND_PRODUCER: Final = {"allow_auto_create_topics": False, "metrics_enabled": False}
"""Options that the admin client does not have."""
_ATTEMPT_S = 5.0
_BETWEEN_S = 0.3
_OTHERS_S = 1.0
"""Time to wait for further brokers once the first has answered: one of them may be down."""


def connection(settings: KafkaSettings) -> dict[str, Any]:
    """The options that every client needs to reach the cluster.

    Raises:
        StartupError: settings of TLS and SASL do not fit together, or their files cannot be used.
    """
    _check_security(settings)
    password = settings.sasl_password
    with_tls = settings.security_protocol in ("SSL", "SASL_SSL")
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "bootstrap_timeout_ms": int(settings.start_timeout_s * 1000),
        "client_id": "genprint",
        "security_protocol": settings.security_protocol,
        "ssl_context": client_context("kafka", settings) if with_tls else None,
        "sasl_mechanism": settings.sasl_mechanism,
        "sasl_plain_username": settings.sasl_username,
        "sasl_plain_password": password.get_secret_value() if password else None,
        "reconnect_backoff_max_ms": 1000,
        "request_timeout_ms": int(settings.transaction_timeout_s * 1000 / 3),
    }
    return options


def connect(kind: Callable[..., C], settings: KafkaSettings, **options: Any) -> C:
    """A ``KafkaConsumer``, ``KafkaProducer`` or ``KafkaAdminClient`` of the cluster, with these further options.

    Raises:
        StartupError: as ``connection``.
        KafkaError: it cannot be connected.
    """
    more = {} if kind is KafkaAdminClient else _CONSUMER_AND_PRODUCER
    return opened(kind, **connection(settings), **more, **options)


def reach(settings: KafkaSettings) -> None:
    """Connect to one of the bootstrap servers and to the brokers that it names, and disconnect.

    Raises:
        BrokerUnreachable: at once if access is denied or TLS fails, else after ``start_timeout_s``.
        StartupError: as ``connection``.
    """
    options = connection(settings)
    deadline = time.monotonic() + settings.start_timeout_s
    servers = settings.bootstrap_servers.split(",")
    with silent_client():
        while True:
            failures: list[errors.KafkaError] = []
            for server in servers:
                limit_s = max(0.1, min(_ATTEMPT_S, deadline - time.monotonic()))
                try:
                    _probe_server({**options, "bootstrap_servers": [server]}, limit_s, settings)
                except errors.KafkaError as error:
                    failures.append(error)
                else:
                    return
            final = [error for error in failures if _is_final(error, settings)]
            if final:
                raise start_error(final[0], settings) from final[0]
            if time.monotonic() + _BETWEEN_S > deadline:
                raise start_error(failures[-1], settings) from failures[-1]
            time.sleep(_BETWEEN_S)


def check_topics(settings: KafkaSettings) -> Mapping[str, int]:
    """Check that all four topics exist, and that the worker has the rights that it needs on them.

    Returns:
        How many partitions each of them has.

    Raises:
        TopicMissing, BrokerUnreachable: names all that are missing or denied.
    """
    needed = worker_operations(settings)
    with closing(connect(KafkaAdminClient, settings)) as admin:
        found = {topic["name"]: topic for topic in admin.describe_topics(list(needed))}
    codes = {name: found[name]["error_code"] if name in found else None for name in needed}
    unseen = [name for name, code in codes.items() if code == errors.TopicAuthorizationFailedError.errno]
    if unseen:
        error = errors.TopicAuthorizationFailedError(set(unseen))
        raise start_error(error, settings) from error
    if missing := [name for name, code in codes.items() if code in (None, errors.UnknownTopicOrPartitionError.errno)]:
        raise TopicMissing(
            f"{cluster_setting(settings)}: no topic {', '.join(sorted(missing))}; "
            "create it first (genprint topics create), the worker creates none"
        )
    lacking = {
        name: sorted(operations - set(allowed))
        for name, operations in needed.items()
        # Brokers without access control do not give this field.
        if (allowed := found[name].get("authorized_operations")) is not None and operations - set(allowed)
    }
    if lacking:
        rights = "; ".join(f"{setting_of(name, settings)}: no {' and '.join(lack)}" for name, lack in lacking.items())
        denied = f"{cluster_setting(settings)}: the broker denied access: {rights}"
        raise BrokerUnreachable(f"{denied}; {how_to_grant(settings)}")
    return {name: len(found[name]["partitions"]) for name in needed}


def start_error(error: Exception, settings: KafkaSettings) -> BrokerUnreachable:
    """The worker's error for a failed start: one line that names the setting and the fault."""
    where = cluster_setting(settings)
    if trouble := tls_trouble(error, "kafka", settings):
        return BrokerUnreachable(f"{where}: no TLS connection: {trouble}")
    if isinstance(error, ACCESS_DENIED):
        return BrokerUnreachable(f"{where}: the broker denied access: {explain_denial(error, settings)}")
    if isinstance(error, errors.IllegalSaslStateError):
        return BrokerUnreachable(
            f"{where}: kafka.security_protocol={settings.security_protocol}: no SASL there ({error})"
        )
    if isinstance(error, errors.InvalidReceiveError):
        return BrokerUnreachable(f"{where}: what answers there is no Kafka ({error}){_protocol_hint(settings)}")
    if isinstance(error, errors.RetriableError):
        # So looks a connection that is made and closed at once, when the two ends speak different protocols.
        hung_up = "disconnected" in str(error) or "Handshake failed" in str(error)
        doubt = _protocol_hint(settings) if hung_up else ""
        within = f"no broker answered within {settings.start_timeout_s:g} s ({error})"
        return BrokerUnreachable(f"{where}: {within}{doubt}")
    return BrokerUnreachable(f"{where}: {error}")


def explain_denial(error: Exception, settings: KafkaSettings) -> str:
    """The setting that a denial of access is about, and what to do."""
    s = settings
    match error:
        case errors.SaslAuthenticationFailedError():
            return (
                f"it refuses kafka.sasl_username={s.sasl_username} with kafka.sasl_password and "
                f"kafka.sasl_mechanism={s.sasl_mechanism} ({error})"
            )
        case errors.UnsupportedSaslMechanismError():
            return f"kafka.sasl_mechanism={s.sasl_mechanism} is not switched on there ({error})"
        case errors.TopicAuthorizationFailedError():
            named = ", ".join(setting_of(name, s) for name in _topics_of(error)) or str(error)
            return f"no right to use {named}; {how_to_grant(s)}"
        case errors.GroupAuthorizationFailedError():
            return f"no right to read with the group kafka.group_id={s.group_id}; {how_to_grant(s)}"
        case errors.TransactionalIdAuthorizationFailedError():
            ids = f"transactional ids that begin with kafka.group_id={s.group_id}"
            return f"no right to write with {ids}; {how_to_grant(s)}"
    return str(error)


class _PatientConnections(ClosingConnections):
    """Reads an answer to its end.

    A broker closes the connection right after the answer that the password is wrong, and kafka-python discards what it
    has read when the end of the connection comes with it.
    """

    def transport(self, sock: socket.socket, host: str) -> Any:
        transport = super().transport(sock, host)
        receive = transport._sock_recv  # noqa: SLF001 - no public hook for reading to the end

        def receive_first() -> tuple[bytes, Exception | None]:
            data, error = receive()
            return data, None if data else error  # the next read meets the end again

        transport._sock_recv = receive_first  # noqa: SLF001 - wraps it
        return transport


def _probe_server(options: Mapping[str, Any], limit_s: float, settings: KafkaSettings) -> None:
    with closing(ClosingLoop(**options)) as net, closing(_PatientConnections(net, **options)) as manager:
        manager.run(_probe_cluster, manager, time.monotonic() + limit_s, settings)


async def _probe_cluster(manager: Any, deadline: float, settings: KafkaSettings) -> None:
    """Connect to a server and to the brokers that it names; raises the failure that matters most."""
    first = manager.cluster.bootstrap_brokers()[0].node_id
    await _connected(manager, _connecting(manager, first, deadline), deadline)
    await manager.wait_for(manager.call_soon(manager.cluster.refresh_metadata, first), _left_ms(deadline))
    brokers = manager.cluster.brokers()
    under_way = [_connecting(manager, broker.node_id, deadline) for broker in brokers]
    failures: list[errors.KafkaError] = []
    for conn in under_way:
        try:
            await _connected(manager, conn, deadline)
        except errors.KafkaError as error:
            failures.append(error)
        else:
            deadline = min(deadline, time.monotonic() + _OTHERS_S)
    for failure in failures:
        if _is_final(failure, settings):
            raise failure
    if failures and len(failures) == len(brokers):
        named = ", ".join(f"{broker.host}:{broker.port}" for broker in brokers)
        raise errors.KafkaConnectionError(f"the cluster says that its brokers are at {named}: {failures[0]}")


def _connecting(manager: Any, node: Any, deadline: float) -> Any:
    return manager.get_connection(
        node, timeout_ms=_left_ms(deadline), pop_on_close=False, refresh_metadata_on_err=False
    )


async def _connected(manager: Any, conn: Any, deadline: float) -> None:
    await manager.wait_for(conn.init_future, _left_ms(deadline))


def _left_ms(deadline: float) -> float:
    return max(1.0, (deadline - time.monotonic()) * 1000)


def _is_final(error: Exception, settings: KafkaSettings) -> bool:
    is_refusal = isinstance(error, (*ACCESS_DENIED, errors.IllegalSaslStateError, errors.InvalidReceiveError))
    return is_refusal or tls_trouble(error, "kafka", settings) is not None


@contextmanager
def silent_client() -> Iterator[None]:
    """Silence kafka-python's logger: the worker reports its failures itself, in one line. Also a decorator."""
    logger = logging.getLogger("kafka")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _check_security(settings: KafkaSettings) -> None:
    """Refuse settings that would have no effect, or lack what the protocol needs."""
    s = settings
    protocol = f"kafka.security_protocol={s.security_protocol}"
    sasl = {
        "kafka.sasl_mechanism": s.sasl_mechanism,
        "kafka.sasl_username": s.sasl_username,
        "kafka.sasl_password": s.sasl_password,
    }
    tls = {"kafka.ssl_cafile": s.ssl_cafile, "kafka.ssl_certfile": s.ssl_certfile, "kafka.ssl_keyfile": s.ssl_keyfile}
    if s.security_protocol.startswith("SASL"):
        if missing := [name for name, value in sasl.items() if value is None]:
            raise StartupError(f"{protocol} needs {', '.join(missing)} too")
    elif given := [name for name, value in sasl.items() if value is not None]:
        raise StartupError(f"{protocol} does not use {', '.join(given)}; did you mean SASL_SSL?")
    if not s.security_protocol.endswith("SSL") and (
        given := [name for name, value in tls.items() if value is not None]
    ):
        raise StartupError(f"{protocol} does not use {', '.join(given)}; did you mean SSL or SASL_SSL?")


def cluster_setting(settings: KafkaSettings) -> str:
    """The setting that names the cluster, as messages quote it."""
    return f"kafka.bootstrap_servers={settings.bootstrap_servers}"


def _protocol_hint(settings: KafkaSettings) -> str:
    return f"; does that listener speak kafka.security_protocol={settings.security_protocol}?"


def setting_of(topic: str, settings: KafkaSettings) -> str:
    """The setting that names a topic, as messages quote it."""
    s = settings
    names = {
        s.images_topic: "images_topic",
        s.retry_topic: "retry_topic",
        s.dead_topic: "dead_topic",
        s.verdicts_topic: "verdicts_topic",
    }
    return f"kafka.{names[topic]}={topic}" if topic in names else f"topic {topic}"


def _topics_of(error: Exception) -> list[str]:
    """Topics that an error names: kafka-python gives a name or a set of names."""
    named: Collection[str] = error.args[0] if error.args else ()
    return [named] if isinstance(named, str) else sorted(str(name) for name in named)


def how_to_grant(settings: KafkaSettings) -> str:
    """Who can grant a right that the worker lacks, and how."""
    user = settings.sasl_username or "NAME"
    return f"an administrator can grant it: genprint topics create --acls worker=User:{user}"
