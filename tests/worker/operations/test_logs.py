"""Logs: one JSON object a line on stderr, from the worker and from libraries, whatever it contains."""

import json
import subprocess
import sys
from typing import Any

PROGRAM = """
import logging, structlog
log = structlog.get_logger("worker.early")  # made at import, before anything is configured
from worker.operations.logs import configure_logs
configure_logs({level!r})
{body}
"""


def logged(body: str, level: str = "info") -> list[dict[str, Any]]:
    """The output of a separate process, since structlog and logging are configured once a process."""
    command = [sys.executable, "-c", PROGRAM.format(level=level, body=body)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert done.stdout == ""
    return [json.loads(line) for line in done.stderr.splitlines()]


def test_ours_and_the_libraries_lines() -> None:
    first, second, third = logged(
        "log.info('x\\ny', why='\\ud800 \\x1b[31m', n=1)\n"
        "logging.getLogger('redis').warning('at %s', 'h')\n"
        "logging.getLogger('worker.kafka.client').info('plain')\n"
    )
    assert (first["event"], first["level"], first["logger"], first["n"]) == ("x\ny", "info", "worker.early", 1)
    assert (second["event"], second["level"], second["logger"]) == ("at h", "warning", "redis")
    assert (third["event"], third["level"]) == ("plain", "info")
    assert first["timestamp"].endswith("Z")


def test_levels() -> None:
    body = (
        "log.debug('a'); log.info('b'); log.warning('c')\n"
        "logging.getLogger('aiohttp').info('d'); logging.getLogger('aiohttp').warning('e')\n"
        "logging.getLogger('kafka.conn').warning('f'); logging.getLogger('kafka.conn').error('g')\n"
    )
    assert [line["event"] for line in logged(body)] == ["b", "c", "e", "g"]
    assert [line["event"] for line in logged(body, "debug")] == ["a", "b", "c", "e", "g"]
    assert [line["event"] for line in logged(body, "warning")] == ["c", "e", "g"]


def test_a_traceback_is_part_of_its_line() -> None:
    body = (
        "try: 1 / 0\nexcept ZeroDivisionError: log.exception('ours'); logging.getLogger('redis').exception('theirs')\n"
    )
    lines = logged(body)
    assert [line["event"] for line in lines] == ["ours", "theirs"]
    assert all("ZeroDivisionError" in line["exception"] for line in lines)
