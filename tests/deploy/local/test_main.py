"""`python -m deploy.local` as a person runs it: a process of its own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.ports import LOOPBACK, is_free
from deploy.local.process import children_of
from deploy.local.topics import GENPRINT_TOPICS, create_topics

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[3]
DEADLINE_S = 120.0


def up(*options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "deploy.local", "up", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_stays_until_a_signal_and_stops_everything(number: signal.Signals) -> None:
    with up("--json") as program:
        assert program.stdout is not None
        settings = json.loads(program.stdout.readline())
        bootstrap = settings["GENPRINT_KAFKA__BOOTSTRAP_SERVERS"]
        create_topics(bootstrap, dict.fromkeys(GENPRINT_TOPICS, 1))  # they exist: nothing is refused
        ports = [int(port) for port in re.findall(r":(\d+)", f"{bootstrap} {settings['GENPRINT_REDIS__URL']}")]
        assert len(ports) == 2
        assert not any(is_free(port) for port in ports)
        program.send_signal(number)
        _, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 0, errors
    assert all(is_free(port) for port in ports)


def test_the_settings_can_be_sourced_by_a_shell() -> None:
    with up() as program:
        assert program.stdout is not None
        lines = [program.stdout.readline() for _ in range(2)]
        program.terminate()
        program.communicate(timeout=DEADLINE_S)
    assert lines[0].startswith("export GENPRINT_KAFKA__BOOTSTRAP_SERVERS=127.0.0.1:")
    assert lines[1].startswith("export GENPRINT_REDIS__URL=redis://127.0.0.1:")


def test_a_taken_port_is_one_clear_line() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with up("--port", str(port)) as program:
            output, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 1
    assert output == ""
    assert errors.strip().splitlines() == [f"error: embedded broker cannot start: 127.0.0.1:{port} is not free"]


def test_the_end_of_a_server_ends_the_program() -> None:
    with up("--json") as program:
        assert program.stdout is not None
        program.stdout.readline()
        children = children_of(program.pid)
        os.kill(children[0], signal.SIGKILL)
        _, errors = program.communicate(timeout=DEADLINE_S)
    assert program.returncode == 1
    assert "ended by itself with -9" in errors
