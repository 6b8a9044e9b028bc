import numpy as np
import pytest
import torch
from torch import nn

from bcd.features.engines import export_onnx
from bcd.features.quantize import first_layers, quantize_onnx


class _Twice(nn.Module):
    """One convolution that is applied to an image and to the output of another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = x.permute(0, 3, 1, 2).float() / 255
        found: torch.Tensor = self.shared(image) + self.shared(torch.relu(self.shared(image)) * 20)
        return found.mean((2, 3))


class _Scaled(nn.Module):
    """Convolutions of images with channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.ReLU6(),
            nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU6(), nn.Conv2d(6, 6, 1), nn.ReLU6(),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.layers(x.permute(0, 3, 1, 2).float() / 255)
        return found.mean((2, 3))


def test_layers_are_quantized_per_channel_the_same_each_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    import onnx
    import onnxruntime

    torch.manual_seed(0)
    module = _Scaled().eval()
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    exported = export_onnx(module, 32)
    first, second = (
        quantize_onnx(exported, ({"images": i[None]} for i in images), first_layers) for _ in "ab"
    )
    assert first == second
    assert capsys.readouterr() == ("", "")

    graph = onnx.load_from_string(first).graph
    scales = {n.input[1] for n in graph.node if n.op_type == "DequantizeLinear"}
    sizes = [int(np.prod(i.dims)) for i in graph.initializer if i.name in scales]
    assert sizes.count(6) >= 2  # one scale per channel of the weights of the later layers
    assert 8 not in sizes  # the first layers stay in float32
    assert sizes.count(1) >= 2  # one scale per activation
    session = onnxruntime.InferenceSession(first, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images})
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    assert not np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, atol=0.02 * wanted.max())


def test_each_use_of_a_convolution_has_a_corrected_bias_of_its_own() -> None:
    import onnxruntime

    torch.manual_seed(0)
    module = _Twice().eval()
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    found = quantize_onnx(export_onnx(module, 32), ({"images": i[None]} for i in images))
    session = onnxruntime.InferenceSession(found, providers=["CPUExecutionProvider"])
    (given,) = session.run(None, {"images": images})
    with torch.no_grad():
        wanted = module(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(given, wanted, atol=0.005 * np.abs(wanted).max())
