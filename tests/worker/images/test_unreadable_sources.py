"""When nothing of a source can be read any more, and when that is over."""

from worker.images.unreadable_sources import UnreadableSources

SOURCE, OTHER = "s3://uploads", "file:///images"


def denied(sources: UnreadableSources, numbers: range, source: str = SOURCE) -> list[bool]:
    return [sources.note_denied(source, f"{source}/{number}.png") for number in numbers]


def test_ten_addresses_in_a_row_are_all_of_it() -> None:
    sources = UnreadableSources(60)
    assert denied(sources, range(12)) == [False] * 9 + [True] * 3
    assert sources.names == (SOURCE,)


def test_one_address_again_and_again_proves_nothing() -> None:
    sources = UnreadableSources(60)
    assert not any(sources.note_denied(SOURCE, "s3://uploads/x.png") for _ in range(100))
    assert not sources.names


def test_any_other_answer_ends_it() -> None:
    sources = UnreadableSources(60)
    denied(sources, range(9))
    sources.note_readable(SOURCE)
    assert not any(denied(sources, range(9)))
    assert denied(sources, range(9, 10)) == [True]
    sources.note_readable(SOURCE)
    assert not sources.names


def test_sources_are_kept_apart() -> None:
    sources = UnreadableSources(60)
    assert denied(sources, range(10))[-1]
    assert not any(denied(sources, range(9), OTHER))
    sources.note_readable(OTHER)
    assert sources.names == (SOURCE,)


def test_a_source_that_nobody_asks_any_more_is_forgotten() -> None:
    now = [1000.0]
    sources = UnreadableSources(60, lambda: now[0])
    denied(sources, range(10))
    now[0] += 60
    assert sources.names == (SOURCE,)
    now[0] += 1
    assert not sources.names
    assert not any(denied(sources, range(9)))
