"""The networks against where they come from."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision

from bundle.manifest import Label
from exporter.onnx.graph import export_graph
from exporter.onnx.parity import check_parity
from exporter.onnx.runner import GraphOutputs, runner
from tests.bundles import one_thread
from trainer.errors import BadConfig
from trainer.models.backbones import BackboneConfig, BackboneNet
from trainer.training.detector import Detector
from trainer.training.embedding import embed
from trainer.training.systems import read_config, system

pytestmark = pytest.mark.slow

LABELS = (Label(id=0, name="a", kind="generator"), Label(id=1, name="real", kind="real"))


def images(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8))


def test_vgg19_is_torchvisions_up_to_its_mean(tmp_path: Path) -> None:
    config = BackboneConfig(architecture="vgg19", size=32)
    donor = torchvision.models.vgg.VGG(torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["E"]), 2, False)
    donor.classifier = torch.nn.Identity()
    state = donor.state_dict() | {"classifier.0.weight": torch.zeros(1)}
    torch.save(state, tmp_path / "vgg19.pth")
    config = config.model_copy(update={"pretrained": tmp_path / "vgg19.pth"})
    net = BackboneNet(config, 1).eval()
    system("backbone").start(config, net)
    assert [m.out_channels for m in net.features.modules() if isinstance(m, torch.nn.Conv2d)] == [
        64, 64, 128, 128, *[256] * 4, *[512] * 8,
    ]  # fmt: skip
    normalise = torchvision.transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    pixels = images(2, 32)
    with torch.no_grad():
        wanted = donor.features(normalise(pixels.permute(0, 3, 1, 2) / 255)).mean((2, 3))
        np.testing.assert_allclose(net(pixels)[1].numpy(), wanted.numpy(), rtol=1e-3, atol=1e-5)


def test_xception_is_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    donor: Any = timm.create_model("legacy_xception", pretrained=False, num_classes=3).eval()
    torch.save(donor.state_dict(), tmp_path / "xception.pth")
    config = BackboneConfig(architecture="xception", size=64, pretrained=tmp_path / "xception.pth")
    net = BackboneNet(config, 1).eval()
    system("backbone").start(config, net)
    pixels = images(1, 64)
    with torch.no_grad():
        wanted = donor.forward_head(donor.forward_features(pixels.permute(0, 3, 1, 2) / 127.5 - 1), pre_logits=True)
        np.testing.assert_allclose(net(pixels)[1].numpy(), wanted.numpy(), rtol=1e-3, atol=1e-5)


def test_a_narrow_nasnet_has_the_layers_of_the_published_one() -> None:
    with torch.device("meta"):
        wide = BackboneNet(BackboneConfig(architecture="nasnet"), 2)
        published = timm.create_model("nasnetalarge", pretrained=False, num_classes=2)
        narrow = BackboneNet(BackboneConfig(architecture="nasnet", width=1 / 42), 2)
    count = sum(parameter.numel() for parameter in published.parameters())
    assert sum(parameter.numel() for parameter in wide.parameters()) == count
    assert len(list(narrow.parameters())) == len(list(wide.parameters()))


def test_shallownets_layers() -> None:
    net = BackboneNet(BackboneConfig(architecture="shallownet", size=64), 1)
    assert isinstance(net.features, torch.nn.Sequential)
    layers = [
        (module.out_channels, module.kernel_size[0]) for module in net.features if isinstance(module, torch.nn.Conv2d)
    ]
    assert layers == [(32, 5), (32, 1), (32, 1), (64, 3), (64, 1), (64, 1), (128, 3), (32, 1)]
    kinds = [type(module).__name__ for module in net.features]
    assert kinds[6:9] == ["Conv2d", "ReLU", "MaxPool2d"]
    assert (kinds.count("MaxPool2d"), kinds.count("Dropout")) == (2, 9)
    dense = next(module for module in net.features if isinstance(module, torch.nn.Linear))
    assert (dense.in_features, dense.out_features) == (32 * 12 * 12, 1024)


def test_the_graph_of_separable_convolutions_computes_the_same() -> None:
    config = BackboneConfig(architecture="xception", size=32, fit="crop")
    torch.manual_seed(0)
    net = BackboneNet(config, 2).train()
    with torch.no_grad(), one_thread():
        for _ in range(8):  # untrained batch norm lets values explode
            net(images(8, 32))
        detector = Detector(net, LABELS, binary=False, l2_normalised=False).eval()
        views = images(3, 32).numpy()
        graph = export_graph(detector, config.preprocessing, name="backbone", file="model.onnx")
        check_parity(runner(graph)(views), GraphOutputs(*embed(detector, views)), 1e-3)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(BadConfig, match="architecture: Field required"):
        read_config(None, {"system": "backbone"})
    with pytest.raises(BadConfig, match=r"width must be 1 for xception, got 0\.5"):
        read_config(None, {"system": "backbone", "architecture": "xception", "width": 0.5})
    with pytest.raises(BadConfig, match="there are no pretrained weights of shallownet"):
        read_config(None, {"system": "backbone", "architecture": "shallownet", "pretrained": "x.pth"})
