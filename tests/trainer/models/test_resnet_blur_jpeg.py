from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from bundle.preprocess import DecodedImage, decode, make_views
from trainer.errors import BadConfig
from trainer.models.resnet_blur_jpeg import SYSTEM, BlurJpegResnet, S3Config


def test_the_defaults_are_the_papers() -> None:
    config = S3Config()
    assert (config.size, config.load, config.batch, config.lr, config.patience) == (224, 256, 64, 1e-4, 5)
    assert (config.blur, config.jpeg, config.flip, config.binary, config.keep) == (0.5, 0.5, True, True, "best")
    assert config.needs_val
    group = SYSTEM.optimiser(config, torch.nn.Linear(1, 1)).param_groups[0]
    assert (group["lr"], group["betas"]) == (1e-4, (0.9, 0.999))


@pytest.fixture
def decoded(tmp_path: Path) -> DecodedImage:
    """300 wide, 280 high."""
    pixels = np.random.default_rng(0).integers(0, 256, (280, 300, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    return decode((tmp_path / "a.png").read_bytes())


def test_test_images_are_cropped_and_not_resized(decoded: DecodedImage) -> None:
    [view] = make_views(decoded, S3Config().preprocessing)
    np.testing.assert_array_equal(view, np.asarray(decoded.image)[28:252, 38:262])


def test_training_images_are_resized_to_256_at_the_shorter_side(decoded: DecodedImage) -> None:
    [view] = make_views(decoded, S3Config().training_preprocessing)
    wanted = decoded.image.resize((274, 256), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(view, np.asarray(wanted)[:, 9:265])


def test_at_64_pixels_nothing_is_resized() -> None:
    config = S3Config(size=64, load=64, resize=False)
    assert config.training_preprocessing == config.preprocessing
    augment = SYSTEM.augment_image(config.model_copy(update={"blur": 0, "jpeg": 0}))
    assert augment is not None
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    np.testing.assert_array_equal(augment(image, np.random.default_rng(0)), image)


def test_the_network_is_resnet50_on_imagenets_scale() -> None:
    torch.manual_seed(0)
    net = BlurJpegResnet(S3Config(), 1).eval()
    images = torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8)
    plain = torchvision.models.resnet50(weights=None, num_classes=1).eval()
    plain.load_state_dict({**net.resnet.state_dict(), "fc.weight": net.head.weight, "fc.bias": net.head.bias})
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    with torch.no_grad():
        scores, embedding = net(images)
        wanted = plain(torch.stack([normalise(image.permute(2, 0, 1) / 255) for image in images]))
    torch.testing.assert_close(scores, wanted, rtol=1e-3, atol=1e-3)
    assert embedding.shape == (2, 2048)
    assert float(net.head.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


class TestPretrained:
    def test_all_but_the_last_layer_is_taken_over(self, tmp_path: Path) -> None:
        trained = torchvision.models.resnet18(weights=None)
        torch.save(trained.state_dict(), tmp_path / "a.pth")
        config = S3Config(backbone="resnet18", pretrained=tmp_path / "a.pth")
        net = BlurJpegResnet(config, 1)
        head = net.head.weight.clone()
        SYSTEM.start(config, net)
        assert torch.equal(net.resnet.conv1.weight, trained.conv1.weight)
        assert torch.equal(net.resnet.layer4[1].bn2.running_var, trained.layer4[1].bn2.running_var)
        assert torch.equal(net.head.weight, head)

    def test_what_is_no_such_file_is_named(self, tmp_path: Path) -> None:
        net = BlurJpegResnet(S3Config(backbone="resnet18"), 1)
        with pytest.raises(BadConfig, match=r"a\.pth: no weights here"):
            SYSTEM.start(S3Config(pretrained=tmp_path / "a.pth"), net)
        (tmp_path / "a.pth").write_bytes(b"nothing")
        with pytest.raises(BadConfig, match="not a torchvision state dict of resnet50"):
            SYSTEM.start(S3Config(pretrained=tmp_path / "a.pth"), net)
        torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "a.pth")
        with pytest.raises(BadConfig, match=r"not a torchvision state dict of resnet50: .*bn1"):
            SYSTEM.start(S3Config(pretrained=tmp_path / "a.pth"), net)
