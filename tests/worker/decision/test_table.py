"""The decision table, written a second time and independently of the code."""

import pytest

from bundle.scores import Band
from worker.decision.table import Judgement, judge

# detector, nearest accepted template -> decision, source, conflict, reasons
TABLE: dict[tuple[Band, str | None], tuple[str, str | None, bool, tuple[str, ...]]] = {
    ("high", "gan"): ("generated", "gan", False, ()),
    ("high", None): ("generated", "unknown", False, ("no_template",)),
    ("high", "photo"): ("unsure", None, True, ("conflict",)),
    ("low", "gan"): ("unsure", "gan", True, ("conflict",)),
    ("low", "photo"): ("real", None, False, ()),
    ("low", None): ("unsure", "unknown", False, ("no_template",)),
    ("middle", "gan"): ("unsure", None, False, ("detector_unsure",)),
    ("middle", "photo"): ("unsure", None, False, ("detector_unsure",)),
    ("middle", None): ("unsure", None, False, ("detector_unsure",)),
}
BANDS: tuple[Band, ...] = ("low", "middle", "high")
TEMPLATES = ("gan", "photo", None)


def judged(band: Band | None, accepted: str | None, *, disagree: bool = False, ambiguous: bool = False) -> Judgement:
    return judge(band, accepted, is_real=accepted == "photo", views_disagree=disagree, ambiguous=ambiguous)


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("accepted", TEMPLATES)
def test_table(band: Band, accepted: str | None) -> None:
    found = judged(band, accepted)
    assert (found.decision, found.source, found.conflict, found.reasons) == TABLE[band, accepted]


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("accepted", TEMPLATES)
def test_nothing_is_called_real_that_viewers_may_show_otherwise(band: Band, accepted: str | None) -> None:
    decision, source, conflict, reasons = TABLE[band, accepted]
    found = judged(band, accepted, ambiguous=True)
    assert found.decision == ("unsure" if decision == "real" else decision)
    assert (found.source, found.conflict, found.reasons) == (source, conflict, (*reasons, "ambiguous_rendering"))


@pytest.mark.parametrize("band", BANDS)
@pytest.mark.parametrize("accepted", TEMPLATES)
def test_views_that_disagree_leave_nothing_but_candidates(band: Band, accepted: str | None) -> None:
    expected = Judgement("unsure", None, conflict=False, reasons=("views_disagree",))
    assert judged(band, accepted, disagree=True) == expected


@pytest.mark.parametrize("accepted", TEMPLATES)
@pytest.mark.parametrize("disagree", [False, True])
def test_an_image_too_small_for_any_view(accepted: str | None, disagree: bool) -> None:
    expected = Judgement("unsure", None, conflict=False, reasons=("image_too_small",))
    assert judged(None, accepted, disagree=disagree) == expected
