"""Read verdicts and say what to do with each image: one JSON line a verdict. An example to start from.

    python verdicts.py --bootstrap localhost:9092 --group my-service --out actions.jsonl

It needs confluent-kafka alone. What every consumer must do, in this language or another, is in docs/consumers.md.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message

TYPE = "genprint.verdict.v1"
ACTIONS = {"allow", "review", "block"}
DECISIONS = {"real", "generated", "unsure"}
REASONS = {
    "ambiguous_rendering",
    "animated_first_frame",
    "conflict",
    "detector_unsure",
    "image_too_small",
    "no_template",
    "views_disagree",
}


def main() -> None:
    """Read until SIGTERM or Ctrl-C."""
    arguments = parse_arguments()
    stopping = False

    def stop(_signal: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    actions = Actions(arguments.out)
    consumer = Consumer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "group.id": arguments.group,
            "isolation.level": "read_committed",  # verdicts of an aborted transaction were never given
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([arguments.topic])
    try:
        while not stopping:
            messages = consumer.consume(500, 0.5)
            for message in messages:
                if message.error():
                    raise KafkaException(message.error())
                actions.take(action_for(message))
            if messages:
                actions.keep()
                consumer.commit(asynchronous=False)  # last: what was not kept is read again
    finally:
        consumer.close()


def action_for(message: Message) -> dict[str, Any]:
    """What to do about a verdict, and why if that is not what the verdict says."""
    place = f"{message.topic()}/{message.partition()}/{message.offset()}"
    unknown: list[str] = []
    verdict: Any = None
    try:
        verdict = json.loads(message.value() or b"")
    except (ValueError, RecursionError):
        unknown.append("not JSON")
    if (kind := header(message, "ce_type")) != TYPE:
        unknown.append(f"type {kind}")
    generated = part(verdict, "generated")
    action, decision, reasons = text(verdict, "action"), text(generated, "decision"), generated.get("reasons")
    if action not in ACTIONS:
        unknown.append(f"action {action}")
    if decision not in DECISIONS:
        unknown.append(f"decision {decision}")
    if isinstance(reasons, list):
        unknown += [f"reason {reason}" for reason in reasons if str(reason) not in REASONS]
    else:
        unknown.append("reasons")
    return {
        "verdict_id": text(verdict, "verdict_id") or header(message, "ce_id") or place,
        "subject": text(part(verdict, "event"), "subject"),
        "action": "review" if unknown else action,
        "decision": decision,
        "probability": generated.get("probability"),
        "source": text(part(verdict, "attribution"), "source"),
        "unknown": unknown,
    }


def header(message: Message, name: str) -> str | None:
    """The last one of that name."""
    value = dict(message.headers() or ()).get(name)
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def part(value: Any, name: str) -> Mapping[str, Any]:
    """The object of that name; empty where there is none. Fields that nobody here asks for do no harm."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def text(value: Any, name: str) -> str | None:
    """The text of that name, None where there is none."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, str) else None


class Actions:
    """Every verdict once, by its id: the lines that are in the file already are what was done.

    In a service this is a table with a unique key. Without a file repetitions are known only while this runs.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._done: set[str] = set()
        if path is None:
            self._out = sys.stdout
            return
        with path.open("ab+") as file:
            file.seek(0)
            lines = file.read()
            whole = lines.rfind(b"\n") + 1
            file.truncate(whole)  # half a line is what a crash leaves
        self._done = {json.loads(line)["verdict_id"] for line in lines[:whole].splitlines()}
        self._out = path.open("a")

    def take(self, action: dict[str, Any]) -> None:
        """Write it, unless it was there before."""
        if action["verdict_id"] not in self._done:
            self._done.add(action["verdict_id"])
            self._out.write(json.dumps(action) + "\n")

    def keep(self) -> None:
        """Make it last."""
        self._out.flush()
        if self._path is not None:
            os.fsync(self._out.fileno())


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bootstrap", default="localhost:9092", help="host:port of a broker")
    parser.add_argument("--topic", default="verdicts")
    parser.add_argument("--group", required=True, help="consumer group of this service")
    parser.add_argument("--out", type=Path, help="file that the lines are added to; standard output without one")
    return parser.parse_args()


if __name__ == "__main__":
    main()
