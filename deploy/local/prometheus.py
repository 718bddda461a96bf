"""Prometheus as a plain process, on loopback: it scrapes the workers it is told and evaluates our own rules."""

import json
import shutil
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import ServerProcess, answers_ok
from deploy.local.prometheus_programs import prometheus_programs

RULES = Path(__file__).resolve().parents[1] / "prometheus" / "rules"
_QUERY_TIMEOUT_S = 30.0


class Prometheus(ServerProcess):
    """The rules of `deploy/prometheus/rules`, scraped and evaluated once a second; data lives until `stop`.

    Args:
        log_path: Receives the server's output.
        targets: Addresses (`127.0.0.1:9464`) by job.
        port: None picks a free one.
        interval_s: Between scrapes, and between evaluations of rules.
    """

    def __init__(
        self, log_path: Path, targets: Mapping[str, Sequence[str]], *, port: int | None = None, interval_s: int = 1
    ) -> None:
        port = free_port() if port is None else port
        self.url = f"http://{LOOPBACK}:{port}"
        self._targets = targets
        self._interval_s = interval_s
        self._folder: Path | None = None
        super().__init__(
            "Prometheus",
            self._prepare,
            port=port,
            log_path=log_path,
            is_ready=lambda: answers_ok(f"{self.url}/-/ready"),
            start_timeout_s=180,
            stop_timeout_s=10,
        )

    def api(self, path: str, parameters: Mapping[str, str] | Sequence[tuple[str, str]] = ()) -> Any:
        """`data` of an answer of its HTTP API, for example of `query` with an expression.

        Raises:
            ValueError: Prometheus refuses the question; its own words.
        """
        query = urllib.parse.urlencode(parameters)
        try:
            url = f"{self.url}/api/v1/{path}?{query}"
            with urllib.request.urlopen(url, timeout=_QUERY_TIMEOUT_S) as response:  # noqa: S310 - http, by us
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{parameters}: {json.load(error)['error']}") from error

    def stop(self) -> None:
        """End the server and remove its data."""
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _prepare(self) -> list[str]:
        program = prometheus_programs().prometheus
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="genprint-prometheus-"))
        configuration = self._folder / "prometheus.yml"
        configuration.write_text(json.dumps(self._configuration()))  # JSON is YAML
        return [
            str(program),
            f"--config.file={configuration}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--log.level=warn",
        ]

    def _configuration(self) -> dict[str, Any]:
        interval = f"{self._interval_s}s"
        return {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(RULES / "*.yaml")],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(addresses)}]}
                for job, addresses in self._targets.items()
            ],
        }
