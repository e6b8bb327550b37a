"""Pads: taken by the convolution behind them, or done on codes; results are ONNX Runtime's and torch's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from onnx_graphs import GraphBuilder, assert_like_onnx
from test_moving_forms import check, conv, first, ints, last, quant

import tvm_lowbit

PADS = (0, 0, 1, 0, 0, 0, 2, 1)


def pad(g: GraphBuilder, x: str, *pads: int, by: float | None = None) -> str:
    more = [] if by is None else [g.constant(by)]
    return g.add("Pad", x, ints(g, *(pads or PADS)), *more, name="pad")


def strided(g: GraphBuilder, x: str, inputs: int) -> str:
    """With uneven padding of its own."""
    return g.add("Conv", x, g.weights(5, inputs, 3, 3), name="last", pads=[0, 1, 0, 2], strides=[2, 2])


@pytest.mark.parametrize("spelling", ["raw", "qonnx"])
def test_a_pad_before_a_convolution_is_its_padding(spelling: str) -> None:
    """Asymmetric codes too: 0.0 has a code."""
    artifact = check(lambda g: strided(g, pad(g, g.quantiser("x", 0.37, -3, 4)), 3), 3, 7, 6, spelling=spelling)
    assert [row.name for row in artifact.report.rows] == ["last"]


# Between the accumulator and the convolution: what a quantiser does to 0.0, and with it what stays float.
BEHIND: dict[str, tuple[Callable[[GraphBuilder, str], str], bool]] = {
    "per tensor": (quant, True),
    "per channel": (lambda g, x: quant(g, x, scale=np.linspace(0.2, 0.9, 8).reshape(8, 1, 1)), True),
    "no zero": (lambda g, x: g.quantiser(x, 0.4, 1, 4), False),
}


@pytest.mark.parametrize("name", BEHIND)
def test_a_quantiser_behind_a_pad(name: str) -> None:
    """It moves before the pad where it gives 0.0 for 0.0, so that its codes come from the accumulator."""
    make, moves = BEHIND[name]
    g = GraphBuilder()
    g.input(3, 7, 6)
    model = g.model(strided(g, make(g, pad(g, g.add("Relu", first(g)))), 8))
    artifact = tvm_lowbit.build(model, "host", batch=2, probe=True)
    stayed = [row.name for row in artifact.report.stays_float]
    assert ("pad" not in stayed) == moves
    x = np.random.default_rng(1).normal(size=(2, 3, 7, 6)).astype(np.float32)
    assert_like_onnx(artifact, g, model, x)


def test_folded_weights_behind_a_pad() -> None:
    """Weights are taken back to their grid where the pad stands between."""
    g = GraphBuilder()
    codes = g.random.integers(-2, 2, (5, 3, 3, 3)).astype(np.float32)
    x = pad(g, g.quantiser(g.input(3, 7, 6), 0.37, -3, 4))
    model = g.model(g.add("Conv", x, g.constant(codes * np.float32(0.137)), name="last"))
    artifact = tvm_lowbit.build(model, "host")
    assert [(row.name, row.bits) for row in artifact.report.rows] == [("last", "W2A3")]


@pytest.mark.parametrize("by", [None, 0.41, 3 * 0.41])
@pytest.mark.parametrize("pads", [PADS, (0, 1, 0, 2, 0, 0, 1, 0), (0, 0, -1, 2, 0, 0, 1, -2)])
def test_a_pad_of_codes(by: float | None, pads: tuple[int, ...]) -> None:
    """Keras pads before a max pool; channels may be padded, negative numbers take away."""

    def body(g: GraphBuilder) -> str:
        codes = pad(g, quant(g, first(g)), *pads, by=by)
        pooled = g.add("MaxPool", codes, kernel_shape=[3, 3], strides=[2, 2])
        return last(g, pooled, 8 + pads[1] + pads[5])

    check(body, 3, 7, 6)


def test_a_pad_by_another_number_stays_float() -> None:
    def body(g: GraphBuilder) -> str:
        return g.add("MaxPool", pad(g, quant(g, first(g)), by=0.3), kernel_shape=[3, 3])

    artifact = check(body, 3, 7, 6, float_ops=("pad",))
    (row,) = artifact.report.stays_float
    assert "it pads by 0.3, which is no value of the quantiser before it" in row.reason


@pytest.mark.parametrize("behind", [False, True])
def test_pads_of_torch(behind: bool) -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randint(-2, 2, (4, 3, 3, 3)) * 0.25)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            f = torch.nn.functional
            steps = [
                lambda v: torch.fake_quantize_per_tensor_affine(v, 0.3137, 3, 0, 15),
                lambda v: f.pad(v, (0, 1, 2, 1)),
            ]
            for step in reversed(steps) if behind else steps:
                x = step(x)
            return f.conv2d(x, torch.fake_quantize_per_tensor_affine(self.weight, 0.25, 0, -2, 1), stride=2)

    torch.manual_seed(0)
    net, x = Net(), torch.randn(2, 3, 7, 6)
    artifact = tvm_lowbit.build(net, "host", example_inputs=(x,))
    assert [row.bits for row in artifact.report.rows] == ["W2A4"]
    (got,) = artifact.run(x.numpy()).outputs.values()
    np.testing.assert_allclose(got, net(x).detach().numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zeros", [[3, 3, 3], [1, 2, 3]])
def test_probed_codes_of_channels_with_zero_points(zeros: list[int]) -> None:
    """Where channels have different codes of 0.0, the quantiser stays behind the pad."""

    class Net(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.nn.functional.pad(x, (1, 0, 1, 0))
            points = torch.tensor(zeros, dtype=torch.int32)
            return torch.fake_quantize_per_channel_affine(x, torch.tensor([0.3, 0.2, 0.1]), points, 1, 0, 7)

    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    result = tvm_lowbit.build(Net(), "host", example_inputs=(x,), probe=True).run(x.numpy())
    (got,), (codes,) = result.outputs.values(), result.codes.values()
    np.testing.assert_allclose(got, Net()(x), rtol=1e-6)
    assert codes.shape == (2, 3, 6, 6)
    np.testing.assert_array_equal(codes[:, :, 0, 0], [zeros] * 2)


def test_probed_codes_where_values_may_be_nan() -> None:
    """Roots of negative accumulators: the quantiser is computed in float, and so are its probed codes."""
    g = GraphBuilder()
    g.input(3, 5, 5)
    x = g.add("Sqrt", conv(g, g.quantiser("x", 0.37, -4, 3), 3, 4, name="c"))
    model = g.model(g.add("MaxPool", quant(g, pad(g, x), name="q"), kernel_shape=[2, 2]))
    artifact = tvm_lowbit.build(model, "host", probe=True)
    result = artifact.run(np.random.default_rng(1).normal(size=(1, 3, 5, 5)).astype(np.float32))
    assert result.codes["q"].shape == (1, 4, 8, 6)
    assert np.all(result.codes["q"][:, :, 0] == 0)


def test_pads_that_leave_nothing_of_the_input() -> None:
    """Five less nine and twelve more are eight zeros."""
    g = GraphBuilder()
    model = g.model(g.add("Pad", g.input(3, 5, 5), ints(g, 0, 0, -9, 0, 0, 0, 12, 0), name="p"))
    (got,) = tvm_lowbit.build(model, "host").run(np.ones((1, 3, 5, 5), np.float32)).outputs.values()
    assert got.shape == (1, 3, 8, 5)
