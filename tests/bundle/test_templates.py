import io
import zipfile

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import cdist

from bundle.errors import BundleCorrupt
from bundle.templates import TemplateLibrary, npz_arrays, npz_bytes

Floats = npt.NDArray[np.float32]


def library(**changes: object) -> TemplateLibrary:
    """A library of two labels in the plane; ``b`` has two templates."""
    parts: dict[str, object] = {
        "labels": ("a", "b"),
        "vectors": np.array([[0, 0], [10, 0], [0, 10]], np.float32),
        "label_of": np.array([0, 1, 1]),
        "counts": np.array([5, 3, 2]),
        "calibration": (np.array([1, 2, 2, 4], np.float32), np.empty(0, np.float32)),
    }
    return TemplateLibrary(**{**parts, **changes})  # type: ignore[arg-type]


def test_distance_is_to_the_nearest_template_of_a_label() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(0, 8, (50, 2)).astype(np.float32)
    to_vectors = cdist(embeddings, library().vectors)
    expected = np.stack([to_vectors[:, 0], to_vectors[:, 1:].min(axis=1)], axis=1)
    found = library().distances(embeddings)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("distance", "p_value"), [(0, 5 / 5), (1, 5 / 5), (1.5, 4 / 5), (2, 4 / 5), (3, 2 / 5), (4, 2 / 5), (4.5, 1 / 5)]
)
def test_p_value_is_the_share_at_least_as_far(distance: float, p_value: float) -> None:
    """Calibration distances of ``a`` are 1, 2, 2 and 4; the image itself counts as one more."""
    embedding = np.array([[0, -distance]], np.float32)
    match = library().match(embedding, alpha=0.2)[0]
    assert match.candidates[0].label == "a"
    assert match.p_value == pytest.approx(p_value)
    assert match.accepted is (p_value > 0.2)


def test_without_calibration_nothing_is_rejected() -> None:
    assert library().match(np.array([[500, 0]], np.float32), alpha=0.5)[0].p_value == 1


def test_candidates_come_nearest_first_and_no_more_than_asked_for() -> None:
    match, best = (library().match(np.array([[9, 1]], np.float32), 0.01, best=n)[0] for n in (5, 1))
    assert [(c.label, pytest.approx(c.distance)) for c in match.candidates] == [("b", 2**0.5), ("a", 82**0.5)]
    assert best.candidates == match.candidates[:1]


def test_at_most_alpha_of_a_label_s_own_is_rejected() -> None:
    """The promise of conformal prediction, over many draws of calibration and test images."""
    rng = np.random.default_rng(1)
    one = library(
        labels=("a",),
        vectors=np.zeros((1, 2), np.float32),
        label_of=np.array([0]),
        counts=np.array([1]),
        calibration=(np.empty(0, np.float32),),
    )
    rejected = 0
    for _ in range(400):
        calibrated = one.with_calibration({"a": rng.normal(size=(39, 2)).astype(np.float32)})
        rejected += sum(not m.accepted for m in calibrated.match(rng.normal(size=(5, 2)).astype(np.float32), 0.1))
    assert 0.08 < rejected / 2000 < 0.12


def test_calibration_distances_are_to_the_own_label_and_ascend() -> None:
    held_out = {"b": np.array([[10, 3], [0, 9], [1, 0]], np.float32)}
    found = library().with_calibration(held_out)
    assert found.calibration[0].tolist() == []
    assert found.calibration[1].tolist() == [1, 3, 9]
    assert np.array_equal(found.vectors, library().vectors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vectors": np.zeros(3, np.float32)}, "same templates"),
        ({"counts": np.array([1])}, "same templates"),
        ({"label_of": np.array([0, 0, 0])}, "every label needs a template"),
        ({"label_of": np.array([0, 1, 2])}, "every label needs a template"),
        ({"calibration": ()}, "every label needs calibration"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        library(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ("a", "c")},
        {"vectors": np.array([[0, 0], [10, 0], [0, 11]], np.float32)},
        {"label_of": np.array([1, 0, 1])},
        {"calibration": (np.array([1, 2], np.float32), np.array([2, 4], np.float32))},
    ],
)
def test_the_version_is_of_all_that_matching_depends_on(changes: dict[str, object]) -> None:
    assert library().version == library(counts=np.array([1, 1, 1])).version
    assert library(**changes).version != library().version


class TestBytes:
    def test_round_trip(self) -> None:
        written = library().to_bytes()
        read = TemplateLibrary.from_bytes(written)
        assert written == library().to_bytes() == read.to_bytes()
        assert read.version == library().version
        assert read.labels == ("a", "b")
        assert [d.tolist() for d in read.calibration] == [[1, 2, 2, 4], []]
        assert read.counts.tolist() == [5, 3, 2]

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"no archive",
            library().to_bytes()[:200],
            npz_bytes({"labels": np.array(["a"])}),
        ],
        ids=["empty", "text", "cut", "incomplete"],
    )
    def test_damage(self, data: bytes) -> None:
        with pytest.raises(BundleCorrupt, match=r"^templates\.npz is no template library: .*; export the"):
            TemplateLibrary.from_bytes(data)

    @pytest.mark.parametrize(
        ("name", "array", "fault"),
        [
            ("labels", np.array([b"a", b"b"]), "labels has another type"),
            ("labels", np.array(["a", "a"]), "labels must differ"),
            ("labels", np.broadcast_to(np.array(""), 10**5), "calibration_counts must have a number for each label"),
            ("label_of", np.array([0, 0, 0]), "every label needs a template"),
            ("vectors", np.array(["x"]), "vectors has another type"),
            ("vectors", np.full((3, 2), np.nan, np.float32), "vectors must hold finite numbers"),
            ("vectors", np.full((3, 2), 1e300), "vectors must hold finite numbers"),
            ("calibration", np.array(1, np.float32), "calibration has another type or number of axes"),
            ("calibration", np.array([1, 2, 2, np.inf], np.float32), "calibration must hold finite numbers"),
            ("calibration", np.array([2, 1, 2, 4], np.float32), "calibration distances must not be negative, and asc"),
            ("calibration", np.array([-1, 1, 2, 4], np.float32), "calibration distances must not be negative, and asc"),
            ("calibration_counts", np.array(4), "calibration_counts has another type or number of axes"),
            ("calibration_counts", np.array([5, -1]), "calibration_counts must have a number for each label, and add"),
            ("calibration_counts", np.array([1, 2]), "calibration_counts must have a number for each label, and add"),
            ("calibration_counts", np.array([4]), "calibration_counts must have a number for each label, and add"),
        ],
    )
    def test_arrays_that_mean_nothing_are_named(self, name: str, array: npt.NDArray[np.generic], fault: str) -> None:
        data = npz_bytes(npz_arrays(library().to_bytes()) | {name: array})
        with pytest.raises(BundleCorrupt, match=f": {fault}.*; export the bundle again$"):
            TemplateLibrary.from_bytes(data)

    @pytest.mark.parametrize("count", [10**6, 10**12, 10**30])
    def test_a_head_that_promises_more_than_there_is(self, count: int) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            member = io.BytesIO()
            np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (count,)})
            archive.writestr("calibration.npy", member.getvalue())
        with pytest.raises(BundleCorrupt, match="export the bundle again"):
            TemplateLibrary.from_bytes(buffer.getvalue())

    def test_what_could_unfold_without_bounds_is_not_unpacked(self) -> None:
        packed = io.BytesIO()
        np.savez_compressed(packed, labels=np.array(["a", "b"]))
        with pytest.raises(BundleCorrupt, match="an array is compressed"):
            TemplateLibrary.from_bytes(packed.getvalue())

    def test_a_pickle_is_not_run(self) -> None:
        pickled = io.BytesIO()
        np.savez(pickled, x=np.array([object()]), allow_pickle=True)
        with pytest.raises(ValueError, match="Object arrays cannot be loaded"):
            npz_arrays(pickled.getvalue())
