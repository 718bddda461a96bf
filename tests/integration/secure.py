"""How tests come to a secure Kafka: settings of a user, and clients of another library."""

from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner, Result

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.kafka_security import MECHANISM, KafkaSecurity
from tests.integration.certificates import Certificates
from worker.__main__ import app

USERS = ("admin", "producer", "worker", "consumer", "stranger", "clerk")


@dataclass(frozen=True)
class SecureKafka:
    """A running broker; ``broker.bootstrap`` is the way in without a lock."""

    broker: ApacheKafka
    security: KafkaSecurity
    certificates: Certificates

    @staticmethod
    def passwords() -> dict[str, str]:
        """Such that one can be looked for in all that is printed."""
        return {user: f"pass-of-{user}-4711" for user in USERS}

    def bootstrap(self, listener: str = "SECURE") -> str:
        """The address of one of its listeners."""
        return self.security.listeners[listener].bootstrap

    def settings(self, user: str, **other: str) -> dict[str, str]:
        """Settings of the worker, as variables without their prefix; ``other`` win, and an empty value removes one."""
        settings = {
            "KAFKA__BOOTSTRAP_SERVERS": self.bootstrap(),
            "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "KAFKA__SSL_CAFILE": str(self.certificates.authority),
            "KAFKA__SASL_MECHANISM": MECHANISM,
            "KAFKA__SASL_USERNAME": user,
            "KAFKA__SASL_PASSWORD": self.security.users.get(user, "pass-of-nobody-4711"),
            **other,
        }
        return {name: value for name, value in settings.items() if value}

    def client(self, user: str, **other: Any) -> dict[str, Any]:
        """For confluent-kafka."""
        return {
            "bootstrap.servers": self.bootstrap(),
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.certificates.authority),
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": self.security.users[user],
            "log_level": 0,
            **other,
        }

    def topics(self, command: str, *options: str, user: str = "admin", **other: str) -> Result:
        """``genprint topics``, in this process."""
        settings = self.settings(user, **{"TOPICS__PARTITIONS": "4", "TOPICS__REPLICATION": "1", **other})
        variables = {f"GENPRINT_{name}": value for name, value in settings.items()}
        return CliRunner().invoke(app, ["topics", command, *options], env=variables)
