"""The broker: killed and restarted, frozen, behind bad connections, and answering with errors."""

from collections.abc import Callable, Iterator

from deploy.local.apache_kafka import configure
from tests.chaos.proxy import (
    ADD_OFFSETS_TO_TXN,
    COMMIT,
    COORDINATOR_ERRORS,
    END_TXN,
    PRODUCE,
    PRODUCE_ERRORS,
    TXN_OFFSET_COMMIT,
    Fault,
    Proxy,
    Rule,
)
from tests.chaos.report import Result
from tests.chaos.rig import Rig

_LOAD_PER_S = 300.0
_PROMISE = "none lost, none twice"
_RECOVERY_S = 150.0
_QUOTA_BYTES_PER_S, _QUOTA_S = 30_000, 30.0


def broker_kill(rig: Rig) -> Iterator[Result]:
    """Killed with -9 while transactions are open, and started again."""
    with rig.own_broker("broker_kill") as kafka, rig.case("broker_kill", _PROMISE, kafka=kafka) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        kills = max(2, rig.times(4))
        for number in range(kills):
            case.until_more(f"before kill {number + 1}", _RECOVERY_S)
            case.let_pass(case.random.uniform(0, 2))
            kafka.kill()
            case.let_pass(case.random.uniform(0, 3))
            kafka.restart()
        case.until_more("after the last restart", _RECOVERY_S)
        case.figures["kills"] = kills
        yield case.finish(_RECOVERY_S)


def broker_freeze(rig: Rig) -> Iterator[Result]:
    """Frozen (SIGSTOP), for less and for more than the transaction time-out."""
    for name, frozen_s, transaction_s in (("shorter", 20.0, 30.0), ("longer", 25.0, 15.0)):
        settings = {"KAFKA__TRANSACTION_TIMEOUT_S": str(transaction_s)}
        fault = f"broker_freeze: {frozen_s:.0f} s, {name} than the transaction time-out"
        with rig.own_broker("broker_freeze") as kafka, rig.case(fault, _PROMISE, settings, kafka=kafka) as case:
            case.fleet.grow(2)
            case.until(case.fleet.ready, "two workers ready")
            case.load(_LOAD_PER_S)
            case.until_more("before the freeze")
            case.let_pass(case.random.uniform(0, 2))
            kafka.pause()
            case.let_pass(frozen_s)
            kafka.resume()
            case.until_more("after the freeze", _RECOVERY_S)
            yield case.finish(_RECOVERY_S)


def proxy(rig: Rig) -> Iterator[Result]:
    """Connections that are cut, half-closed, silent or slow while a transaction is on its way."""
    for fault, share, delay_s in (
        (Fault.CUT, 0.05, 0.0),
        (Fault.CUT_ANSWER, 0.05, 0.0),
        (Fault.HALF_CLOSE, 0.05, 0.0),
        (Fault.SILENCE, 0.02, 0.0),
        (Fault.DELAY, 0.1, 1.0),
        (Fault.DELAY, 0.02, 7.0),  # longer than the client waits for an answer
    ):
        name = f"proxy: {fault.name.lower()}" + (f" {delay_s:.0f} s" if delay_s else "")
        yield _spoil(rig, name, [Rule(fault, COMMIT, share, delay_s)])


def coordinator(rig: Rig) -> Iterator[Result]:
    """Its answers are errors that mean *try again*, whether it has done what was asked or not."""
    for name, code in COORDINATOR_ERRORS.items():
        rules = [
            Rule(Fault.REFUSE, {END_TXN, ADD_OFFSETS_TO_TXN}, 0.5, error=code),
            Rule(Fault.DENY, {END_TXN, ADD_OFFSETS_TO_TXN, TXN_OFFSET_COMMIT}, 0.5, error=code),
        ]
        yield _spoil(rig, f"coordinator: {name}", rules)


def produce(rig: Rig) -> Iterator[Result]:
    """It has written the records, and answers with an error that means *try again*."""
    for name, code in PRODUCE_ERRORS.items():
        yield _spoil(rig, f"produce: {name}", [Rule(Fault.DENY, {PRODUCE}, 0.2, error=code)])


def quota(rig: Rig) -> Iterator[Result]:
    """It holds back the answers to workers that read and write more than they may."""
    of_workers = ("--alter", "--entity-type", "clients", "--entity-name", "genprint")
    with rig.own_broker("quota") as kafka, rig.case("quota: a tenth of what comes", _PROMISE, kafka=kafka) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        case.until_more("before the quota")
        rates = dict.fromkeys(("producer_byte_rate", "consumer_byte_rate"), _QUOTA_BYTES_PER_S)
        configure(
            kafka.bootstrap, *of_workers, "--add-config", ",".join(f"{name}={rate}" for name, rate in rates.items())
        )
        already = case.answered
        case.let_pass(_QUOTA_S)
        case.figures["answers/s under it"] = rate = (case.answered - already) / _QUOTA_S
        case.require(0 < rate < _LOAD_PER_S / 2, f"{rate:.0f} answers/s under the quota")
        configure(kafka.bootstrap, *of_workers, "--delete-config", ",".join(rates))
        yield case.finish(_RECOVERY_S)


def _spoil(rig: Rig, name: str, rules: list[Rule]) -> Result:
    """Each rule for a while, with a pause after it."""
    with Proxy(rig.kafka, rig.seed) as between, rig.case(name, _PROMISE, bootstrap=between.bootstrap) as case:
        case.fleet.grow(2)
        case.until(case.fleet.ready, "two workers ready")
        case.load(_LOAD_PER_S)
        for rule in rules:
            case.until_more("before the fault", _RECOVERY_S)
            spoiled = _more_spoiled(between)
            between.rule = rule
            case.let_pass(3 + 12 * rig.scale / len(rules))
            case.until(spoiled, "a spoiled request", _RECOVERY_S)
            between.rule = None
        case.until_more("after the fault", _RECOVERY_S)
        case.figures["spoiled requests"] = between.spoiled.total()
        return case.finish(_RECOVERY_S)


def _more_spoiled(between: Proxy) -> Callable[[], bool]:
    already = between.spoiled.total()
    return lambda: between.spoiled.total() > already
