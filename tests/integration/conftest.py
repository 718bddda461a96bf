"""What tests of TLS, authentication and access control share."""

from collections.abc import Iterator

import pytest

from deploy.local.apache_kafka import ApacheKafka
from deploy.local.kafka_security import KafkaSecurity, SecureListener
from deploy.local.ports import free_port
from tests.integration.certificates import Certificates, make_certificates
from tests.integration.secure import SecureKafka


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Made once: keys take their time."""
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def secure_kafka(
    require_apache_kafka: None,  # noqa: ARG001 - skips or fails
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SecureKafka]:
    """Apache Kafka with TLS, SCRAM users and an authorizer, shared: use topics and groups of your own."""
    c = certificates
    listeners = {
        "SECURE": SecureListener(free_port(), c.server),
        "EXPIRED": SecureListener(free_port(), c.expired),
        "MISNAMED": SecureListener(free_port(), c.misnamed),
        "MUTUAL": SecureListener(free_port(), c.server, client_authority=c.authority),
    }
    security = KafkaSecurity(listeners, SecureKafka.passwords())
    with ApacheKafka(tmp_path_factory.mktemp("secure") / "kafka.log", security=security) as broker:
        yield SecureKafka(broker, security, certificates)
