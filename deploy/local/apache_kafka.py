"""Apache Kafka itself: a KRaft node in one Java process, on loopback, with its data in a temporary directory."""

import base64
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from deploy.local.broker import serves_kafka
from deploy.local.errors import StartError, UnavailableError
from deploy.local.kafka_jars import cached_jars, fetch_jars
from deploy.local.kafka_recovery import end_old_session
from deploy.local.kafka_security import KafkaSecurity
from deploy.local.kafka_settings import KafkaSettings, Member
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess

_OLDEST_JAVA = 17
_LOG4J = Path(__file__).with_name("kafka") / "log4j2.properties"
# One broker for tests: quick to start rather than quick in the long run. It takes about 350 MB.
_JVM_OPTIONS = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={_LOG4J}"]
_TOOL_TIMEOUT_S = 60


class ApacheKafka(ServerProcess):
    """A `LocalBroker` that proves what it promises: transactions, and data that survives `kill` and `restart`.

    Only `stop` removes the data. Topics are not created by use, messages may be 12 MiB, a group of consumers forms
    without delay and its sessions may be as short as 1 s.

    Args:
        log_path: Receives the broker's output.
        port: None picks a free one.
        security: More listeners, with TLS, and access control.
        member: Which of several nodes it is; such a one does not wait until it serves: see `running_cluster`.
    """

    replication: Final = 1
    """Copies that its topics have."""

    def __init__(
        self,
        log_path: Path,
        *,
        port: int | None = None,
        security: KafkaSecurity | None = None,
        member: Member | None = None,
    ) -> None:
        port = free_port() if port is None else port
        self.bootstrap = f"{LOOPBACK}:{port}"
        self.data_dir: Path | None = None
        self.proxied_port = free_port()
        """A second listener: whoever asks there is told to find the broker at ``proxy_port``."""
        self.proxy_port = free_port()
        """Free for a proxy, which passes connections on to ``proxied_port``."""
        self._controller_port = free_port() if member is None else member.controller_port
        self._security = security
        self._member = member
        super().__init__(
            "Apache Kafka",
            self._prepare,
            port=port,
            log_path=log_path,
            is_ready=lambda: member is not None or serves_kafka(port),
            start_timeout_s=180,
            stop_timeout_s=20,
        )

    def stop(self) -> None:
        """End the broker and remove its data."""
        super().stop()
        if self.data_dir is not None:
            shutil.rmtree(self.data_dir, ignore_errors=True)
            self.data_dir = None

    def _prepare(self) -> list[str]:
        java = _java_command()
        if self.data_dir is None:
            self.data_dir = Path(tempfile.mkdtemp(prefix="genprint-kafka-"))
            settings = self._settings(self.data_dir)
            settings.write()
            self._format(java, settings)
        else:
            settings = self._settings(self.data_dir)
            if self._member is None and not settings.clean_shutdown_mark.exists():
                end_old_session(java, settings, self.log_path)
        return [*java, "kafka.Kafka", str(settings.node_file)]

    def _settings(self, directory: Path) -> KafkaSettings:
        ports = (self.port, self._controller_port, self.proxied_port, self.proxy_port)
        return KafkaSettings(directory, *ports, security=self._security, member=self._member)

    def _format(self, java: list[str], settings: KafkaSettings) -> None:
        options = ["-c", str(settings.node_file)]
        options += ["-t", self._member.cluster_id] if self._member else ["-t", new_cluster_id(), "--standalone"]
        if self._security is not None:
            options += self._security.format_options
        command = [*java, "kafka.tools.StorageTool", "format", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise StartError(f"Apache Kafka could not format its storage: {(done.stderr or done.stdout).strip()}")


def new_cluster_id() -> str:
    """A name for a cluster; one that began with "-" would be taken for an option."""
    return "g" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode()[1:22]


def configure(bootstrap: str, *options: str) -> None:
    """Run Apache Kafka's tool that alters what is configured while brokers run (`kafka-configs.sh`).

    Raises:
        StartError: It failed.
    """
    command = [*_java_command(), "kafka.admin.ConfigCommand", "--bootstrap-server", bootstrap, *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise StartError(f"Apache Kafka could not be configured: {(done.stderr or done.stdout).strip()}")


def _java_command() -> list[str]:
    return [_java(), *_JVM_OPTIONS, "-cp", f"{fetch_jars()}/*"]


def unavailable_reason() -> str | None:
    """Say why Apache Kafka cannot run on this machine; None if it can, the download of its jars permitting."""
    try:
        _java()
    except UnavailableError as error:
        return str(error)
    if cached_jars() is None and shutil.which("mvn") is None:
        return "Apache Kafka's jars are not cached and there is no Maven (mvn) to fetch them"
    return None


def _java() -> str:
    """Return the path of a Java that is new enough: the one in JAVA_HOME, else the first in PATH."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(Path(home) / "bin" / "java") if home else shutil.which("java")
    if java is None:
        raise UnavailableError(f"Apache Kafka needs Java {_OLDEST_JAVA} or newer and there is none")
    described = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    version = re.search(r'version "((\d+)[^"]*)', described)
    if version is None or int(version[2]) < _OLDEST_JAVA:
        found = version[1] if version else "of unknown version"
        raise UnavailableError(f"Apache Kafka needs Java {_OLDEST_JAVA} or newer, {java} is {found}")
    return java
