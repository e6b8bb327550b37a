"""Resize: the pixels that ONNX Runtime and torch choose; nearest and simple bilinear ones stay integer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_graphs import GraphBuilder, run_onnx
from test_moving_forms import check, first, last, quant

import tvm_lowbit
from schedules.errors import LowbitError
from tvm_lowbit.from_onnx.resize import COORDINATES, ROUNDING

SHAPE = (2, 7, 9)
SCALES = [(2.0, 2.0), (1.5, 2.5), (0.5, 0.6), (1.3, 2.6), (0.3, 4.0), (1.0, 3.0)]
MODES = [mode for mode in COORDINATES if mode != "tf_half_pixel_for_nn"]


def resized(g: GraphBuilder, x: str, *scales: float, sizes: tuple[int, ...] = (), name: str = "", **attrs: Any) -> str:
    """A Resize by scales or to sizes."""
    if sizes:
        return g.add("Resize", x, "", "", g.constant(sizes, np.int64), name=name, **attrs)
    return g.add("Resize", x, "", g.constant([1.0, 1.0, *scales]), name=name, **attrs)


def many(cases: list[dict[str, Any]], opset: int = 19) -> None:
    """All cases as the outputs of one float graph, against ONNX Runtime."""
    g = GraphBuilder(opset=opset)
    g.input(*SHAPE)
    outputs = [resized(g, "x", *case.pop("scales", ()), name=f"y{i}", **case) for i, case in enumerate(cases)]
    model = g.model(*outputs)
    x = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    result = tvm_lowbit.build(model, target="host").run(x).outputs
    for name, expected in zip(outputs, run_onnx(model, x, outputs), strict=True):
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("rounding", [mode for mode in ROUNDING if mode != "simple"])
@pytest.mark.parametrize("mode", COORDINATES)
def test_positions_are_those_of_onnx_runtime(mode: str, rounding: str) -> None:
    """Every pixel of many sizes and scales, those that float32 puts beside a half among them."""
    for extent in (2, 3, 7, 10, 14):
        g = GraphBuilder(opset=19)
        g.inputs.append(onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 1, 1, extent]))
        factors = [np.float32(size) / np.float32(extent) for size in range(1, 22) if size != extent]
        factors += [np.float32(scale) for scale in (1.5, 2.5, 0.6, 1.3, 2.6, 0.7, 1.25)]
        factors = [factor for factor in factors if int(factor * np.float32(extent)) not in (0, extent)]
        attrs = {"mode": "nearest", "nearest_mode": rounding, "coordinate_transformation_mode": mode}
        outputs = [g.add("Resize", "x", "", g.constant([1, 1, 1, factor]), **attrs) for factor in factors]
        pixels = np.arange(extent, dtype=np.float32).reshape(1, 1, 1, extent)
        for factor, chosen in zip(factors, run_onnx(g.model(*outputs), pixels, outputs), strict=True):
            size = int(factor * np.float32(extent))
            positions = COORDINATES[mode](np.arange(size, dtype=np.float32), extent, size, factor)
            found = np.clip(ROUNDING[rounding](positions.astype(np.float32), factor), 0, extent - 1)
            np.testing.assert_array_equal(found, chosen.reshape(-1), err_msg=f"{extent} times {factor}")


def test_nearest_as_onnx_runtime() -> None:
    """Compiled: all modes of coordinates, scales that are no ratio of sizes, and sizes."""
    cases: list[dict[str, Any]] = [
        {"scales": scales, "coordinate_transformation_mode": mode, "nearest_mode": rounding}
        for (mode, scales), rounding in zip(
            itertools.product(MODES, SCALES), itertools.cycle(["floor", "ceil", "round_prefer_floor"])
        )
    ]
    cases += [{"sizes": (1, 2, 10, 5), "coordinate_transformation_mode": mode} for mode in MODES]
    many(cases)


def test_linear_as_onnx_runtime() -> None:
    """All modes of coordinates."""
    cases: list[dict[str, Any]] = [
        {"scales": scales, "coordinate_transformation_mode": mode, "mode": "linear"}
        for mode in MODES
        for scales in SCALES
    ]
    cases += [{"sizes": (1, 2, 10, 5), "coordinate_transformation_mode": mode, "mode": "linear"} for mode in MODES]
    many(cases)


@pytest.mark.parametrize("operator", ["Upsample", "Resize"])
def test_operators_of_old_opsets(operator: str) -> None:
    """Upsample 9 and Resize 10: no modes of coordinates."""
    opset = 9 if operator == "Upsample" else 10
    g = GraphBuilder(opset=opset)
    g.input(*SHAPE)
    outputs = [
        g.add(operator, "x", g.constant([1.0, 1.0, *scales]), name=f"y{i}", mode=mode)
        for i, (scales, mode) in enumerate([((2.0, 3.0), "nearest"), ((1.5, 2.5), "nearest"), ((2.0, 1.5), "linear")])
    ]
    model = g.model(*outputs)
    x = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    result = tvm_lowbit.build(model, target="host").run(x).outputs
    for name, expected in zip(outputs, run_onnx(model, x, outputs), strict=True):
        np.testing.assert_allclose(result[name], expected, rtol=1e-5, atol=2e-6, err_msg=name)


NEAREST: list[dict[str, Any]] = [
    {"scales": (2.0, 2.0), "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    {"scales": (1.3, 0.6), "coordinate_transformation_mode": "half_pixel", "nearest_mode": "round_prefer_ceil"},
    {"sizes": (2, 8, 11, 4), "coordinate_transformation_mode": "align_corners"},
]


@pytest.mark.parametrize("where", ["codes", "accumulator"])
@pytest.mark.parametrize("case", NEAREST, ids=["doubled", "fractional", "sizes"])
def test_nearest_stays_integer(case: dict[str, Any], where: str) -> None:
    """On codes and, with a batch norm behind it, on an accumulator."""

    def graph(g: GraphBuilder) -> str:
        attrs = dict(case)
        scales = attrs.pop("scales", ())
        x = quant(g, first(g)) if where == "codes" else first(g)
        x = resized(g, x, *scales, **attrs)
        return last(g, x if where == "codes" else quant(g, g.add("Relu", g.batch_norm(x, 8))), 8)

    check(graph, 3, 5, 7)


BILINEAR: list[dict[str, Any]] = [
    {"scales": (2.0, 2.0), "coordinate_transformation_mode": "half_pixel"},
    {"scales": (4.0, 2.0), "coordinate_transformation_mode": "asymmetric"},
    {"scales": (0.5, 1.0), "coordinate_transformation_mode": "pytorch_half_pixel"},
    {"sizes": (2, 3, 9, 33), "coordinate_transformation_mode": "align_corners"},
]


@pytest.mark.parametrize("case", BILINEAR, ids=["doubled", "asymmetric", "halved", "aligned corners"])
def test_bilinear_with_dyadic_weights_stays_integer(case: dict[str, Any]) -> None:
    """Sums of codes, scaled once; followed by a quantiser."""

    def graph(g: GraphBuilder) -> str:
        attrs = dict(case)
        scales = attrs.pop("scales", ())
        x = resized(g, g.quantiser("x", 0.37, -4, 3), *scales, mode="linear", **attrs)
        return last(g, quant(g, g.batch_norm(x, 3), 0.211, 3), 3)

    check(graph, 3, 6, 9)


@pytest.mark.parametrize("scales", [(3.0, 3.0), (1.3, 1.3)])
def test_bilinear_with_other_weights_is_float(scales: tuple[float, float]) -> None:
    """With a reason, and right."""
    g = GraphBuilder()
    g.input(3, 5, 7)
    x = resized(g, g.quantiser("x", 0.37, -4, 3), *scales, mode="linear", name="up")
    model = g.model(x)
    artifact = tvm_lowbit.build(model, target="host")
    data = np.random.default_rng(1).normal(size=(1, 3, 5, 7)).astype(np.float32)
    (expected,) = run_onnx(model, data, [x])
    np.testing.assert_allclose(artifact.run(data).outputs[x], expected, rtol=1e-5, atol=2e-6)


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "antialias": ({"scales": (0.5, 0.5), "mode": "linear", "antialias": 1}, "antialiasing"),
    "crop": ({"scales": (2.0, 2.0), "coordinate_transformation_mode": "tf_crop_and_resize"}, "tf_crop_and_resize"),
    "policy": ({"sizes": (1, 2, 9, 9), "keep_aspect_ratio_policy": "not_larger"}, "not_larger"),
    "cubic": ({"scales": (1.3, 1.3), "mode": "cubic"}, "cubic"),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_would_be_computed_wrongly_is_refused(name: str) -> None:
    """TVM's own converter takes these silently."""
    attrs, words = dict(UNSUPPORTED[name][0]), UNSUPPORTED[name][1]
    g = GraphBuilder(opset=19)
    g.input(*SHAPE)
    model = g.model(resized(g, "x", *attrs.pop("scales", ()), name="up", **attrs))
    with pytest.raises(LowbitError, match=words):
        tvm_lowbit.build(model, target="host")


TORCH: dict[str, dict[str, Any]] = {
    "nearest, doubled": {"scale_factor": 2},
    "nearest, fractional": {"scale_factor": (1.7, 0.6)},
    "nearest, sizes": {"size": (3, 11)},
    "bilinear, doubled": {"scale_factor": 2, "mode": "bilinear"},
    "bilinear, aligned": {"size": (13, 15), "mode": "bilinear", "align_corners": True},
}


@pytest.mark.parametrize("name", TORCH)
def test_interpolation_of_torch_stays_integer(name: str) -> None:
    """Between two quantisers: values equal, no layer in float."""

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            x = torch.fake_quantize_per_tensor_affine(x, 0.3137, 3, 0, 15)
            x = torch.nn.functional.interpolate(x, **TORCH[name])
            return torch.fake_quantize_per_tensor_affine(x, 0.0713, 20, 0, 63)

    x = torch.randn(1, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    artifact = tvm_lowbit.build(Net(), target="host", example_inputs=(x,))
    assert [row for row in artifact.report.rows if row.reason] == []
    (result,) = artifact.run(x.numpy()).outputs.values()
    np.testing.assert_array_equal(result, Net()(x).numpy())


def test_other_operators_of_torch() -> None:
    """In float: bilinear by a factor that is no ratio of sizes, maxima over pixels."""

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            f = torch.nn.functional
            y = f.interpolate(x, scale_factor=1.3, mode="bilinear")
            return y, x.amax((2, 3)), f.adaptive_max_pool2d(x, 1), f.pixel_shuffle(torch.cat([x, x], 1)[:, :4], 2)

    x = torch.randn(1, 3, 7, 8, generator=torch.Generator().manual_seed(0))
    artifact = tvm_lowbit.build(Net(), target="host", example_inputs=(x,))
    for result, expected in zip(artifact.run(x.numpy()).outputs.values(), Net()(x), strict=True):
        np.testing.assert_allclose(result, expected.numpy(), rtol=1e-5, atol=2e-6)
