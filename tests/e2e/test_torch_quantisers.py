"""Every fake-quantising operator and module of torch, exported: codes as torch's, layers low-bit, or a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.ao.quantization as ao
import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import nn
from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize
from torch_nets import SHAPE, Net, bits, compiled, inputs, reasons

import tvm_lowbit

Q = torch.ops.quantized_decomposed
THREE = np.array([0.21, 0.3, 0.17])
SIX = np.linspace(0.1, 0.21, 6)


class Op(nn.Module):
    """An operator with its scale and zero point as buffers or parameters."""

    def __init__(self, call: Any, scale: Any, zero: Any, low: int, high: int, **options: Any) -> None:
        super().__init__()
        self.call, self.low, self.high, self.options = call, low, high, options
        learnt = "learnable" in call.__name__
        self.scale = nn.Parameter(torch.tensor(scale, dtype=torch.float32), requires_grad=learnt)
        self.register_buffer("zero", torch.tensor(zero, dtype=torch.float32 if learnt else torch.int32))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Call it."""
        return self.call(x, self.scale, self.zero, self.low, self.high, **self.options)


def numbers(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """Scale and zero point as numbers."""
    return torch.fake_quantize_per_tensor_affine(x, 0.21, int(low) + 2, low, high)


def tensors(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """Scale and zero point as tensors of one element."""
    return torch.fake_quantize_per_tensor_affine(x, s, z, low, high)


def cachemask(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """As autograd calls it."""
    return torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(x, 0.3, int(low) + 1, low, high)[0]


def channels(x: Any, s: Any, z: Any, low: int, high: int, axis: int = 1) -> Any:
    """Per channel."""
    return torch.fake_quantize_per_channel_affine(x, s, z, axis, low, high)


def cachemask_channels(x: Any, s: Any, z: Any, low: int, high: int, axis: int = 1) -> Any:
    """Per channel, as autograd calls it."""
    return torch.ops.aten.fake_quantize_per_channel_affine_cachemask(x, s, z, axis, low, high)[0]


def learnable(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """LSQ's."""
    return torch._fake_quantize_learnable_per_tensor_affine(x, s, z, low, high, 1.0)


def learnable_channels(x: Any, s: Any, z: Any, low: int, high: int, axis: int = 1) -> Any:
    """LSQ's per channel."""
    return torch._fake_quantize_learnable_per_channel_affine(x, s, z, axis, low, high, 1.0)


def pair(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """quantized_decomposed, numbers that float32 cannot hold."""
    args = (0.21, low + 2, low, high, torch.int8 if low < 0 else torch.uint8)
    return Q.dequantize_per_tensor(Q.quantize_per_tensor(x, *args), *args)


def pair_tensors(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """quantized_decomposed with tensors."""
    args = (s, z, low, high, torch.int8 if low < 0 else torch.uint8)
    return Q.dequantize_per_tensor.tensor(Q.quantize_per_tensor.tensor(x, *args), *args)


def pair_tensors2(x: Any, s: Any, z: Any, low: int, high: int) -> Any:
    """quantized_decomposed, all tensors."""
    args = (s, z, torch.tensor(low), torch.tensor(high), torch.int8 if low < 0 else torch.uint8)
    return Q.dequantize_per_tensor.tensor2(Q.quantize_per_tensor.tensor2(x, *args), *args)


def pair_channels(x: Any, s: Any, z: Any, low: int, high: int, axis: int = 1) -> Any:
    """quantized_decomposed per channel."""
    args = (s, z, axis, low, high, torch.int8 if low < 0 else torch.uint8)
    return Q.dequantize_per_channel(Q.quantize_per_channel(x, *args), *args)


PER_TENSOR = (numbers, tensors, cachemask, learnable, pair, pair_tensors, pair_tensors2)
PER_CHANNEL = (channels, cachemask_channels, learnable_channels, pair_channels)


def named(calls: tuple[Any, ...]) -> list[Any]:
    return [pytest.param(call, id=call.__name__) for call in calls]


# All widths for one of them, a narrow and a wide range for the others.
CASES = [(call, low, width) for call in PER_TENSOR for low, width in ((0, 8), (-2, 2))]
CASES += [(tensors, -(1 << width - 1) if width % 2 else 0, width) for width in (1, 3, 4, 5, 6, 7)]


@pytest.mark.parametrize(("call", "low", "width"), [pytest.param(*c, id=f"{c[0].__name__}-{c[1:]}") for c in CASES])
def test_per_tensor(call: Any, low: int, width: int) -> None:
    """Zero points that are not 0, all widths; ties and one float beside."""
    high = low + (1 << width) - 1
    act = Op(call, [0.21], [min(low + 1, high)], low, high)
    weight = Op(channels, SIX, [0] * 6, -2, 1, axis=0)
    artifact = compiled(Net(act, weight), inputs(0.21))
    assert bits(artifact) == [f"W2A{width}"]


@pytest.mark.parametrize("call", named(PER_CHANNEL))
def test_per_channel_weights(call: Any) -> None:
    """Along the outputs: low-bit, zero points or none."""
    for zero in ([0] * 6, [1, -2, 0, 3, -4, 2]):
        artifact = compiled(Net(Op(tensors, [0.25], [3], 0, 15), Op(call, SIX, zero, -4, 3, axis=0)), inputs())
        assert bits(artifact) == ["W3A4"]


@pytest.mark.parametrize("call", named(PER_CHANNEL))
def test_per_channel_activations(call: Any) -> None:
    """The same values; a convolution over channels of different scales stays float and says so."""
    weight = Op(channels, SIX, [0] * 6, -2, 1, axis=0)
    artifact = compiled(Net(Op(call, THREE, [2, 0, 15], 0, 15, axis=1), weight), inputs(THREE))
    assert "its input is quantised per channel" in reasons(artifact)["convolution"]


@pytest.mark.parametrize("zero", [2.5, 3.5, -1.0, 99.0])
@pytest.mark.parametrize("call", [learnable, learnable_channels])
def test_learnt_zero_points_are_rounded_as_torch_does(call: Any, zero: float) -> None:
    """Half up, into the range."""
    per_channel = call is learnable_channels
    act = Op(call, THREE if per_channel else [0.21], [zero] * 3 if per_channel else [zero], 0, 15)
    compiled(Net(act, Op(tensors, [0.1], [0], -2, 1)), inputs(0.21))


def fake_quantize(**options: Any) -> Any:
    observer = options.pop("observer", ao.MovingAverageMinMaxObserver)
    return ao.FakeQuantize(observer, **options)


def make_modules() -> dict[str, Any]:
    per_channel = {"qscheme": torch.per_channel_symmetric, "dtype": torch.qint8, "ch_axis": 0}
    fused = ao.FusedMovingAvgObsFakeQuantize
    channel = ao.MovingAveragePerChannelMinMaxObserver
    learning = {"scale": 0.21, "zero_point": 3.0, "quant_min": 0, "quant_max": 15}
    signed = {"quant_min": -8, "quant_max": 7, "dtype": torch.qint8}
    return {
        "FakeQuantize": (fake_quantize(quant_min=0, quant_max=15), fake_quantize(**signed)),
        "per_channel": (
            fake_quantize(quant_min=0, quant_max=15),
            fake_quantize(observer=channel, quant_min=-8, quant_max=7, **per_channel),
        ),
        "fused": (
            fused(quant_min=0, quant_max=15),
            fused(observer=channel, quant_min=-8, quant_max=7, **per_channel),
        ),
        "learnable": (
            _LearnableFakeQuantize(ao.MinMaxObserver, **learning, use_grad_scaling=True),
            _LearnableFakeQuantize(
                ao.PerChannelMinMaxObserver.with_args(qscheme=torch.per_channel_symmetric, dtype=torch.qint8),
                quant_min=-8,
                quant_max=7,
                channel_len=6,
                scale=0.1,
            ),
        ),
    }


@pytest.mark.parametrize("name", make_modules())
def test_modules(name: str) -> None:
    """Calibrated, then their observers off; the user's module stays as it is."""
    act, weight = make_modules()[name]
    net = Net(act, weight)
    x = inputs()
    for module in (act, weight):
        if name == "learnable":
            module.enable_param_learning()
            module.toggle_fake_quant(True)
    net(x)
    if name != "learnable":
        net.apply(ao.disable_observer)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert bits(compiled(net.eval(), x)) == ["W4A4"]
    assert type(net.activations) is type(act)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_quantisation_aware_training_in_eager_mode() -> None:
    """Weights scaled by batch norm before they are quantised, as prepare_qat's fused modules have them."""

    class Fused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.quant, self.conv = ao.QuantStub(), nn.Conv2d(3, 4, 3, bias=False)
            self.norm, self.relu, self.fc = nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.relu(self.norm(self.conv(self.quant(x))))
            return self.fc(nn.functional.max_pool2d(x, 3).flatten(1))

    act = ao.FakeQuantize.with_args(observer=ao.MovingAverageMinMaxObserver, quant_min=0, quant_max=15)
    symmetric = {"dtype": torch.qint8, "qscheme": torch.per_channel_symmetric, "quant_min": -2, "quant_max": 1}
    weight = ao.FakeQuantize.with_args(observer=ao.MovingAveragePerChannelMinMaxObserver, **symmetric)
    net = ao.fuse_modules_qat(Fused().train(), [["conv", "norm", "relu"]])
    net.qconfig = ao.QConfig(activation=act, weight=weight)
    net, x = ao.prepare_qat(net), inputs()
    net(x)
    net.apply(ao.disable_observer)
    artifact = compiled(net.eval(), x)
    assert bits(artifact) == ["W2A4", "W2A4"]


def test_disabled_fake_quantize_is_nothing() -> None:
    """As the module does."""
    act = fake_quantize(quant_min=0, quant_max=15)
    act(inputs())
    net = Net(act, nn.Identity()).apply(ao.disable_observer).apply(ao.disable_fake_quant)
    assert "its input is not quantised" in reasons(compiled(net.eval(), inputs()))["convolution"]


@pytest.mark.parametrize("kind", [ao.FakeQuantize, ao.FusedMovingAvgObsFakeQuantize])
def test_observers_must_be_off(kind: Any) -> None:
    """Or the scale changes with every input."""
    act = kind(quant_min=0, quant_max=15)
    with pytest.raises(tvm_lowbit.LowbitError, match=r"(?s)activations.*a fixed scale.*disable_observer"):
        tvm_lowbit.build(Net(act, nn.Identity()), "host", example_inputs=(torch.zeros(SHAPE),))


class Stored(nn.Module):
    """Weights stored as int8, as convert_pt2e leaves them."""

    def __init__(self, low: int, high: int, per_channel: bool, zero: int = 0) -> None:
        super().__init__()
        count = 6 if per_channel else 1
        self.per_channel = per_channel
        weight = torch.randint(low, high + 1, (6, 3, 3, 3), generator=torch.Generator().manual_seed(1))
        self.register_buffer("weight", weight.to(torch.int8))
        self.register_buffer("scale", torch.linspace(0.05, 0.1, count))
        self.register_buffer("zero", torch.full((count,), zero))
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Quantised activations, stored weights."""
        x = pair(x, None, None, 0, 15)
        if self.per_channel:
            w = Q.dequantize_per_channel(self.weight, self.scale, self.zero, 0, self.low, self.high, torch.int8)
        else:
            w = Q.dequantize_per_tensor(self.weight, 0.07, 0, self.low, self.high, torch.int8)
        return nn.functional.conv2d(x, w)


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("width", [2, 5, 8])
def test_stored_weights(width: int, per_channel: bool) -> None:
    """quant_min and quant_max give the width, not the type."""
    half = 1 << width - 1
    x = inputs()
    assert bits(compiled(Stored(-half, half - 1, per_channel, zero=1), x)) == [f"W{width}A4"]


def test_pairs_that_do_not_belong_together() -> None:
    """Computed in float, and right."""

    def rescaled(x: torch.Tensor) -> torch.Tensor:
        q = Q.quantize_per_tensor(x, 0.25, 0, 0, 15, torch.uint8)
        return Q.dequantize_per_tensor(q, 0.5, 1, 0, 15, torch.uint8)

    artifact = compiled(Net(rescaled, Op(tensors, [0.1], [0], -2, 1)), inputs())
    assert "its input is not quantised" in reasons(artifact)["convolution"]


def test_dynamic_scales_are_refused() -> None:
    """By the quantiser's name."""

    def dynamic(x: torch.Tensor) -> torch.Tensor:
        scale, zero = Q.choose_qparams(x, 0, 15, 1e-5, torch.uint8)
        q = Q.quantize_per_tensor.tensor(x, scale, zero, 0, 15, torch.uint8)
        return Q.dequantize_per_tensor.tensor(q, scale, zero, 0, 15, torch.uint8)

    with pytest.raises(tvm_lowbit.LowbitError, match=r"(?s)quantiser .*a constant scale.*choose_qparams"):
        tvm_lowbit.build(Net(dynamic, nn.Identity()), "host", example_inputs=(torch.zeros(SHAPE),))
    learnt = Net(lambda x: torch.fake_quantize_per_tensor_affine(x, x.max(), torch.tensor(0), 0, 15), nn.Identity())
    with pytest.raises(tvm_lowbit.LowbitError, match=r"(?s)quantiser .*a constant scale.*at run time"):
        tvm_lowbit.build(learnt, "host", example_inputs=(torch.zeros(SHAPE),))


def test_a_program_from_a_file(tmp_path: Any) -> None:
    """Saved and loaded: torch's loaded programs take other ways through decomposition."""
    x = inputs(0.21)
    net = Net(Op(tensors, 0.21, 0, 0, 15), Op(tensors, 0.2, 0, -2, 1)).eval()
    path = tmp_path / "net.pt2"
    torch.export.save(torch.export.export(net, (x,)), path)
    artifact = tvm_lowbit.build(torch.export.load(path), "host")
    assert bits(artifact)
    got = next(iter(artifact.run(x.numpy()).outputs.values()))
    np.testing.assert_allclose(got, net(x)[0].detach().numpy(), rtol=1e-5, atol=1e-5)
