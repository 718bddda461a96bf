"""The layers against the paper's words, the network against plain loops over them."""

import pytest
import torch
from torch import nn

from trainer.data.augment import blur_batch
from trainer.models.dcgan_discriminator import SYSTEM, DcganDiscriminator, S2Config


def images(count: int, size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, size, size, 3), dtype=torch.uint8, generator=generator)


def test_four_convolutions_as_the_paper_says() -> None:
    layers = list(DcganDiscriminator(S2Config(), 1).features)
    convolutions = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in convolutions] == [64, 128, 256, 512]
    for layer in convolutions:
        assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))
    kinds = [type(layer).__name__ for layer in layers]
    assert kinds == ["Conv2d", "LeakyReLU", *["Conv2d", "BatchNorm2d", "LeakyReLU"] * 3]
    assert {layer.negative_slope for layer in layers if isinstance(layer, nn.LeakyReLU)} == {0.2}


def test_at_64_pixels_the_head_is_dcgans_last_convolution() -> None:
    net = DcganDiscriminator(S2Config(size=64, width=4), 1).eval()
    last = nn.Conv2d(32, 1, 4)
    last.load_state_dict({"weight": net.head.weight.reshape(1, 32, 4, 4), "bias": net.head.bias})
    batch = images(3, 64)
    with torch.no_grad():
        scores, embedding = net(batch)
        maps = net.features(batch.permute(0, 3, 1, 2).double().float() * 2 / 255 - 1)
        torch.testing.assert_close(scores, last(maps).flatten(1))
    wanted = [[float(plane.sum()) / 16 for plane in image] for image in maps]
    torch.testing.assert_close(embedding, torch.tensor(wanted))


def test_weights_start_as_dcgans() -> None:
    torch.manual_seed(0)
    net = DcganDiscriminator(S2Config(), 1)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert float(module.weight.detach().mean()) == pytest.approx(1, abs=0.01)


def test_adam_is_dcgans() -> None:
    config = S2Config()
    group = SYSTEM.optimiser(config, nn.Linear(1, 1)).param_groups[0]
    assert (config.batch, config.binary, group["lr"], group["betas"]) == (128, True, 2e-4, (0.5, 0.999))


def test_batches_are_augmented_as_the_config_says() -> None:
    torch.manual_seed(0)
    batch = images(2, 32)
    assert SYSTEM.augment_batch(S2Config()) is None
    blur = SYSTEM.augment_batch(S2Config(train_preprocessing="blur"))
    noise = SYSTEM.augment_batch(S2Config(train_preprocessing="noise"))
    assert blur is not None
    assert noise is not None
    found = blur(batch)
    assert any(torch.equal(found, blur_batch(batch, kernel)) for kernel in (1, 3, 5, 7))
    assert 0 < float((noise(batch).float() - batch.float()).std()) < 6
