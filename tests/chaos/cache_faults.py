"""The cache: killed, frozen, full, emptied all the time, and answering rubbish. None of it may be seen in a verdict."""

import socketserver
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

import redis

from deploy.local.ports import LOOPBACK
from deploy.local.valkey import Valkey
from tests.chaos.report import Result
from tests.chaos.rig import Case, Rig

_EVENTS, _FEWEST = 12_000, 5_000
_LEAST_SHARE = 0.8
_EVERY_S = 0.05
_FULL = "1mb"
"""Less than an empty Valkey takes, so that each write is refused."""

Disturb = Callable[[Case], None]


def cache(rig: Rig) -> Iterator[Result]:
    """Each fault from the start or under load; throughput beside that of a worker without a cache."""
    without = [_throughput(rig, "cache: none", {}, _nothing)]
    yield without[0][0]
    results: list[tuple[Result, float]] = []
    with _valkey(rig) as valkey:
        url = {"REDIS__URL": valkey.url}
        results.append(_throughput(rig, "cache: emptied every 50 ms", url, lambda case: _empty(case, valkey)))
        valkey.pause()
        results.append(_throughput(rig, "cache: frozen", url, _nothing))
        valkey.resume()
        results.append(_throughput(rig, "cache: killed under load", url, lambda case: _kill(case, valkey)))
    with _valkey(rig, _FULL) as full:
        results.append(_throughput(rig, "cache: full", {"REDIS__URL": full.url}, _nothing))
    with _rubbish() as port:
        url = {"REDIS__URL": f"redis://{LOOPBACK}:{port}/0"}
        results.append(_throughput(rig, "cache: answers rubbish", url, _nothing))
    without.append(_throughput(rig, "cache: none, again", {}, _nothing))
    yield without[1][0]
    baseline = statistics.mean(rate for _, rate in without)
    for result, rate in results:
        share = rate / baseline
        broken = () if share >= _LEAST_SHARE else (f"{share:.2f} of the throughput without a cache",)
        figures = {**result.figures, "of no cache": share}
        yield replace(result, broken=(*result.broken, *broken), figures=figures)


def _throughput(rig: Rig, fault: str, settings: dict[str, str], disturb: Disturb) -> tuple[Result, float]:
    """One worker on a backlog; answers per second between the first tenth of them and the last."""
    promise = f"none lost, none twice, at least {_LEAST_SHARE:.0%} of the throughput without a cache"
    with rig.case(fault, promise, settings) as case:
        events = max(_FEWEST, rig.events(_EVENTS))
        case.send(case.inline(events))
        case.until(lambda: case.feed.done, "everything sent")
        case.fleet.grow(1)
        case.until(lambda: case.answered >= events // 10, "the first answers")
        disturb(case)
        case.until(lambda: case.answered >= events, "everything answered", 120)
        times = sorted(answer.at for answer in case.answers.found if answer.is_final)
        rate = (len(times) - events // 10) / (times[-1] - times[events // 10])
        case.figures["answers/s"] = round(rate)
        return case.finish(), rate


def _nothing(_: Case) -> None:
    """A fault that is there from the start."""


def _kill(case: Case, valkey: Valkey) -> None:
    valkey.kill()
    case.figures["killed at"] = case.answered


def _empty(case: Case, valkey: Valkey) -> None:
    client = redis.Redis.from_url(valkey.url)
    times = 0
    while case.answered < len(case.feed.sent) and times < 1_000:
        client.flushall()
        case.let_pass(_EVERY_S)
        times += 1
    client.close()
    case.figures["emptied"] = times


def _valkey(rig: Rig, max_memory: str = "64mb") -> AbstractContextManager[Valkey]:
    return Valkey(rig.out / "logs" / "valkey.log", max_memory=max_memory, eviction="noeviction")


@contextmanager
def _rubbish() -> Iterator[int]:
    """A server that answers whatever comes with something else; its port."""
    answers = (
        b"*3\r\n$5\r\nhello\r\n",
        b"$-7\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff" * 50,
        b"+OK\r\n" * 9,
    )

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            for answer in answers * 20:
                if not self.request.recv(65536):
                    return
                self.request.sendall(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            """The worker hangs up on it: that is what it is for."""

    with Server((LOOPBACK, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, name="rubbish", daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
