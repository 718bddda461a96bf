import pytest

from worker.errors import StartupError
from worker.kafka.span import read_span, replay_settings
from worker.settings import Settings


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("earliest", "latest"),
        ("earliest", "now"),
        ("2026-11-24T08:00+00:00", "2026-11-24T09:00+00:00"),
        ("2026-11-24T08:00Z", "now"),
        ("0:100,1:250", "0:200,1:250"),
        ("0:100", "2026-11-24T09:00+01:00"),
    ],
)
def test_a_span_is_read(start: str, end: str) -> None:
    span = read_span(start, end)
    assert (span.start.text, span.end.text) == (start, end)


def test_times_are_milliseconds_and_offsets_name_their_partitions() -> None:
    assert read_span("1970-01-01T01:00+01:00", "1970-01-01T00:00:01.500+00:00").start.at_ms == 0
    assert read_span("1970-01-01T01:00+01:00", "1970-01-01T00:00:01.500+00:00").end.at_ms == 1500
    span = read_span("0:100,2:250", "latest")
    assert span.start.offsets == {0: 100, 2: 250}
    assert span.partitions([0, 1, 2], "images") == {0, 2}
    assert read_span("earliest", "latest").partitions([0, 1, 2], "images") == {0, 1, 2}


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("yesterday", "now", "--from yesterday: expected a time with zone"),
        ("2026-11-24T08:00", "now", "a time without its zone"),
        ("earliest", "0:1,0:2", "--to 0:1,0:2: a partition is named twice"),
        ("2026-11-24T09:00Z", "2026-11-24T08:00Z", "is not before"),
        ("latest", "now", "nothing between"),
        ("earliest", "earliest", "nothing between"),
        ("0:5", "0:4", "partition 0: --from is after --to"),
    ],
)
def test_what_is_no_span_says_why(start: str, end: str, message: str) -> None:
    with pytest.raises(StartupError, match=message):
        read_span(start, end)


@pytest.mark.parametrize(("start", "end"), [("0:1,3:1", "now"), ("0:1", "1:5")])
def test_partitions_must_be_there_and_agree(start: str, end: str) -> None:
    with pytest.raises(StartupError, match=r"no partition 3|different partitions"):
        read_span(start, end).partitions([0, 1], "images")


def test_a_replay_shares_nothing_with_live_workers_but_where_answers_go() -> None:
    live = Settings()
    own = replay_settings(live, "audit-7", None)
    assert own.run_id == "audit-7"
    assert own.kafka.group_id == "genprint.replay.audit-7"
    assert own.kafka.retry_topic == "images.retry.replay.audit-7"
    assert (own.kafka.images_topic, own.kafka.verdicts_topic) == ("images", "verdicts")
    assert own.http.port == 0
    assert replay_settings(live, "x", "archive").kafka.images_topic == "archive"
    said = Settings.model_validate({"http": {"port": live.http.port}})
    assert replay_settings(said, "x", None).http.port == live.http.port


@pytest.mark.parametrize("run_id", ["", "live", "a b", "a/b", "x" * 101])
def test_a_run_needs_a_name_of_its_own(run_id: str) -> None:
    with pytest.raises(StartupError, match="--run-id"):
        replay_settings(Settings(), run_id, None)
