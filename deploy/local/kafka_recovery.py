"""What a single node of Apache Kafka needs between a kill and its restart, so that no transaction is left hanging."""

from collections.abc import Sequence
from pathlib import Path

from deploy.local.kafka_settings import KafkaSettings
from deploy.local.process import ServerProcess


def end_old_session(java: Sequence[str], settings: KafkaSettings, log_path: Path) -> None:
    """Run the controller alone until it has given up ("fenced") the killed broker.

    Without this the restarted broker leads its partitions on the strength of its old session while it may not register,
    loses them when that session ends, and in between may declare a prepared transaction complete without having written
    its markers ("Couldn't find leader endpoint … likely deleted already"): readers of committed records then wait at
    that offset for ever. Seen with 4.3.1. In a cluster the other controllers live on, and the session is over before
    the broker is back.

    Args:
        java: Java and its options, class path included.
        settings: Of the node, which does not run.
        log_path: Receives the controller's output.

    Raises:
        StartError: The controller did not start.
    """
    controller = ServerProcess(
        "Apache Kafka's controller",
        lambda: [*java, "kafka.Kafka", str(settings.controller_file)],
        port=settings.controller_port,
        log_path=log_path,
        is_ready=_SessionEnd(log_path, settings.metadata_log_dir),
    )
    with controller:
        pass


class _SessionEnd:
    """Tells whether the controller has fenced the broker and has that on disk.

    It logs before it writes, so we then wait for its metadata log to grow twice: once may be a record from before, and
    an idle controller goes on writing (`metadata.max.idle.interval.ms`).
    """

    def __init__(self, log_path: Path, metadata_log_dir: Path) -> None:
        self._log_path = log_path
        self._log_start = log_path.stat().st_size
        self._metadata_log_dir = metadata_log_dir
        self._sizes: set[int] = set()

    def __call__(self) -> bool:
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            if b"Fencing broker" not in log.read():
                return False
        self._sizes.add(sum(segment.stat().st_size for segment in self._metadata_log_dir.glob("*.log")))
        return len(self._sizes) > 2
