"""The auditor notices what it is there for."""

import json

import pytest

from tests.chaos.audit import Answer, Audit, Kind, audit, read_answer, silences
from tests.chaos.feed import Sent

SENT = {f"images/0/{number}": Sent(float(number), 1.0) for number in range(4)}


def answer(
    number: int,
    found: float | str = 1.0,
    kind: Kind = "verdicts",
    *,
    attempt: int = 1,
    verdict_id: str | None = None,
    at: float | None = None,
) -> Answer:
    moment = number + 0.5 if at is None else at
    return Answer(kind, f"images/0/{number}", attempt, found, verdict_id or f"v{number}", moment)


def found(*answers: Answer) -> Audit:
    return audit(SENT, answers)


ALL = tuple(answer(number) for number in range(4))


def test_one_answer_each_is_what_is_wanted() -> None:
    result = found(*ALL)
    assert (result.events, result.answered) == (4, 4)
    assert (result.lost, result.duplicated, result.unlike, result.wrong, result.foreign) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("answers", "counted"),
    [
        (ALL[:3], {"lost": 1, "lost_example": "images/0/3"}),
        ((*ALL, ALL[0]), {"duplicated": 1, "unlike": 0}),
        ((*ALL, answer(0, verdict_id="other")), {"duplicated": 1, "unlike": 1}),
        ((*ALL[:3], answer(3, 1.1)), {"wrong": 1}),
        ((*ALL[:3], answer(3, "broken_image", kind="dead")), {"wrong": 1}),
        ((*ALL, answer(9)), {"foreign": 1}),
        ((*ALL, answer(1, "slow", kind="retry"), answer(1, "slow", kind="retry")), {"deferred": 2, "duplicated": 1}),
        ((*ALL, answer(1, "slow", kind="retry"), answer(1, "slow", kind="retry", attempt=2)), {"duplicated": 0}),
        ((*ALL[:3], answer(3, "slow", kind="retry")), {"lost": 1}),
    ],
)
def test_everything_else_is_counted(answers: tuple[Answer, ...], counted: dict[str, int]) -> None:
    result = vars(found(*answers))
    assert {name: result[name] for name in counted} == counted


def test_silence_is_the_time_without_an_answer_while_one_was_due() -> None:
    late = (answer(0), answer(1), answer(2, at=9.0), answer(3, at=9.1))
    assert silences(SENT, late) == {"images/0": 7.0}  # from when the third was sent


def test_answers_are_read_as_the_topics_say() -> None:
    verdict = {
        "verdict_id": "v",
        "event": {"origin": "images/0/7", "attempt": 2},
        "generated": {"scores": [{"logit": -1.5}]},
    }
    read = read_answer("verdicts", json.dumps(verdict).encode(), [])
    assert (read.origin, read.attempt, read.found, read.verdict_id) == ("images/0/7", 2, -1.5, "v")
    headers = [("genprint-origin", b"images/0/8"), ("genprint-attempt", b"1"), ("genprint-reason", b"empty_event")]
    letter = read_answer("dead", b"", headers)
    assert (letter.origin, letter.found, letter.is_final) == ("images/0/8", "empty_event", True)
    assert not read_answer("retry", b"", headers).is_final
