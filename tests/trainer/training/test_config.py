import pytest
from pydantic import ValidationError

from trainer.training.config import TrainConfig


def test_a_whole_image_is_resized() -> None:
    view = TrainConfig(system="s1", size=96).preprocessing.views[0]
    assert (view.resize.mode, view.resize.size, view.crop.mode) == ("exact", 96, "none")


def test_a_crop_does_not_resize() -> None:
    view = TrainConfig(system="s1", fit="crop", size=64).preprocessing.views[0]
    assert (view.resize.mode, view.crop.mode, view.crop.size, view.on_small) == ("none", "centre", 64, "unsure")


def test_images_are_watched_where_they_decide() -> None:
    assert not TrainConfig(system="s1").needs_val
    assert TrainConfig(system="s1", keep="best").needs_val


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainConfig(system="s1").epochs = 3  # type: ignore[misc]
