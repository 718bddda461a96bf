import json
from pathlib import Path

import pytest
from pydantic import BaseModel

from trainer.experiments.steps import Steps, key_of


class Found(BaseModel):
    number: int


class Interrupted(Exception):
    pass


def test_a_run_that_is_interrupted_goes_on_where_it_stopped(tmp_path: Path) -> None:
    worked: list[str] = []

    def run(stop_before: str | None) -> list[int]:
        steps = Steps(tmp_path)
        found = []
        for number, name in enumerate("abc"):

            def compute(name: str = name, number: int = number) -> Found:
                if name == stop_before:
                    raise Interrupted
                worked.append(name)
                return Found(number=number)

            found.append(steps.value("step", {"name": name}, Found, compute).number)
        return found

    with pytest.raises(Interrupted):
        run(stop_before="c")
    assert run(stop_before=None) == [0, 1, 2]
    assert worked == ["a", "b", "c"]


def test_a_file_that_was_half_written_is_not_taken_for_a_result(tmp_path: Path) -> None:
    steps = Steps(tmp_path)

    def half(path: Path) -> None:
        path.write_text("half")
        raise Interrupted

    with pytest.raises(Interrupted):
        steps.file("train", {"seed": 1}, "pt", half)
    path = steps.file("train", {"seed": 1}, "pt", lambda path: path.write_text("whole"))
    assert path.read_text() == "whole"
    assert {p.name for p in tmp_path.iterdir()} == {path.name, path.with_suffix(".inputs.json").name}


def test_other_inputs_are_another_step_and_words_for_people_are_not(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    first = steps.file("train", {"seed": 1, "what": "one"}, "pt", lambda path: path.write_text("1"))
    same = steps.file("train", {"what": "other words", "seed": 1}, "pt", lambda path: path.write_text("2"))
    other = steps.file("train", {"seed": 2}, "pt", lambda path: path.write_text("3"))
    assert first == same != other
    assert first.read_text() == "1"
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})


def test_fresh_works_everything_out_anew_but_only_once(tmp_path: Path) -> None:
    numbers = iter(range(9))

    def compute() -> Found:
        return Found(number=next(numbers))

    assert Steps(tmp_path).value("step", {}, Found, compute).number == 0
    fresh = Steps(tmp_path, fresh=True)
    assert [fresh.value("step", {}, Found, compute).number for _ in range(2)] == [1, 1]


def test_a_value_of_another_version_is_worked_out_anew(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    steps.value("step", {}, Found, lambda: Found(number=1))
    (path,) = tmp_path.glob("*.json")
    path.write_text(json.dumps({"value": {"count": 3}}))
    assert steps.value("step", {}, Found, lambda: Found(number=2)).number == 2
