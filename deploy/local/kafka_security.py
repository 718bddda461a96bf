"""Listeners of Apache Kafka with TLS, SCRAM or client certificates, and access control, for trying all of it out.

The plain listeners stay, on loopback: whoever comes by them is `User:ANONYMOUS`, which may do everything. That is how
tests look behind the scenes; what is to be tested goes through the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.local.ports import LOOPBACK

MECHANISM = "SCRAM-SHA-512"


@dataclass(frozen=True)
class SecureListener:
    """One more port, always with TLS."""

    port: int
    keystore: Path
    """The broker's key (PKCS #8) and certificate there, in one PEM file."""
    client_authority: Path | None = None
    """Who signs the certificates of clients (PEM): then these say who a client is, otherwise SCRAM does."""

    @property
    def bootstrap(self) -> str:
        """`host:port` for clients."""
        return f"{LOOPBACK}:{self.port}"


@dataclass(frozen=True)
class KafkaSecurity:
    """Without an entry in the access control lists nobody but `User:ANONYMOUS` and `User:admin` may do anything."""

    listeners: Mapping[str, SecureListener]
    """Listeners by name; names are in capital letters."""
    users: Mapping[str, str]
    """Passwords of SCRAM users. They are given to Kafka's tool on its command line, where this machine can see them."""

    @property
    def addresses(self) -> str:
        """For `listeners` and `advertised.listeners`."""
        return ",".join(f"{name}://{listener.bootstrap}" for name, listener in self.listeners.items())

    @property
    def protocols(self) -> str:
        """For `listener.security.protocol.map`."""
        return ",".join(f"{name}:{_protocol(listener)}" for name, listener in self.listeners.items())

    @property
    def settings(self) -> dict[str, object]:
        """The broker's own."""
        settings: dict[str, object] = {
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:admin",
            "allow.everyone.if.no.acl.found": "false",
        }
        for name, listener in self.listeners.items():
            settings |= {f"listener.name.{name.lower()}.{key}": value for key, value in _own(listener).items()}
        return settings

    @property
    def format_options(self) -> list[str]:
        """What makes the users exist from the first start on."""
        users = (f"{MECHANISM}=[name={name},password={password}]" for name, password in self.users.items())
        return [word for user in users for word in ("--add-scram", user)]


def _protocol(listener: SecureListener) -> str:
    return "SSL" if listener.client_authority else "SASL_SSL"


def _own(listener: SecureListener) -> dict[str, object]:
    settings: dict[str, object] = {"ssl.keystore.type": "PEM", "ssl.keystore.location": listener.keystore}
    if listener.client_authority is not None:
        return settings | {
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": listener.client_authority,
            "ssl.client.auth": "required",
        }
    module = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    return settings | {
        "sasl.enabled.mechanisms": MECHANISM,
        f"{MECHANISM.lower()}.sasl.jaas.config": module,
    }
