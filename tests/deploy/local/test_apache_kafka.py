from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from deploy.local.apache_kafka import ApacheKafka, unavailable_reason
from deploy.local.broker import serves_kafka
from deploy.local.errors import StartError, UnavailableError
from deploy.local.topics import create_topics

pytestmark = pytest.mark.integration

DEADLINE_S = 90.0


def fake_java(directory: Path, version: str) -> None:
    java = directory / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\" 2020-01-01' >&2\n")
    java.chmod(0o755)


@pytest.mark.usefixtures("require_apache_kafka")
def test_data_survive_a_kill_and_a_pause_but_not_a_stop(tmp_path: Path) -> None:
    broker = ApacheKafka(tmp_path / "kafka.log")
    with broker:
        create_topics(broker.bootstrap, {"verdicts": 1})
        with Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": "t"}) as producer:
            producer.init_transactions(DEADLINE_S)
            producer.begin_transaction()
            producer.produce("verdicts", b"acknowledged")
            producer.commit_transaction(DEADLINE_S)

        # At once, so that the markers of the transaction are still to be written when it is killed.
        broker.pause()
        with pytest.raises(TimeoutError):
            serves_kafka(broker.port)
        broker.resume()
        assert serves_kafka(broker.port)

        broker.kill()
        assert broker.pid is None
        broker.restart()
        settings = {"bootstrap.servers": broker.bootstrap, "group.id": "g", "auto.offset.reset": "earliest"}
        with Consumer(settings) as consumer:
            consumer.subscribe(["verdicts"])
            message = consumer.poll(DEADLINE_S)
            assert message is not None
            assert message.value() == b"acknowledged"
        data = broker.data_dir
        assert data is not None
        assert data.is_dir()
    assert not data.exists()


@pytest.mark.usefixtures("require_apache_kafka")
def test_a_start_that_is_refused_leaves_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("deploy.local.kafka_settings.MAX_MESSAGE_BYTES", "a lot")
    with pytest.raises(StartError, match="a lot"):
        ApacheKafka(tmp_path / "kafka.log").start()
    assert not list(tmp_path.glob("genprint-kafka-*"))


def test_no_java_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert unavailable_reason() == "Apache Kafka needs Java 17 or newer and there is none"
    with pytest.raises(UnavailableError, match="Java 17"):
        ApacheKafka(tmp_path / "kafka.log").start()


@pytest.mark.parametrize("version", ["11.0.22", "1.8.0_402"])
def test_an_old_java_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    fake_java(tmp_path, version)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    reason = unavailable_reason()
    assert reason is not None
    assert reason.endswith(f"is {version}")


def test_no_jars_and_no_maven_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_java(tmp_path / "jdk", "21")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "/bin-of-nobody")
    reason = unavailable_reason()
    assert reason is not None
    assert "no Maven" in reason
