"""Float kernels: against NumPy in float64 and torch's gradient, and the same bits whatever the core and its vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kernel_runner import Machine

from schedules import float_block, float_dense
from schedules.cores import CORES, host_core
from schedules.float_block import conv_kernel, width
from schedules.float_dense import dense_kernel, pack_dense
from schedules.float_pack import pack_dense_kernel, pack_kernel
from schedules.float_taps import FloatConv, TapPlan, forward, pack, transpose

Array = npt.NDArray[Any]
Machines = Callable[[str], Machine]
CORE_NAMES = ("host", "cortex-a53", "cortex-a76")
# Rounding errors of a sum of n products are within n units of half an ulp of the sum of magnitudes, to first order.
ULP = 2.0**-24

CONVS = (
    FloatConv(1, 1, 1, 1, 1),
    FloatConv(1, 5, 7, 9, 13),
    FloatConv(2, 3, 11, 13, 9, (3, 3), padding=(1, 1, 1, 1)),
    FloatConv(1, 3, 17, 19, 7, (7, 7), (2, 2), padding=(3, 3, 3, 3)),
    FloatConv(1, 4, 12, 9, 5, (3, 2), (2, 3), padding=(0, 2, 1, 0)),
    FloatConv(1, 4, 14, 15, 6, (3, 3), (1, 1), (2, 3), (2, 3, 2, 3)),
    FloatConv(1, 4, 14, 15, 6, (3, 3), (2, 3), (3, 2), (2, 1, 0, 4)),
    # Steps that leave positions out, and more of them than taps.
    FloatConv(1, 2, 10, 11, 3, (1, 1), (3, 2)),
    FloatConv(1, 2, 13, 12, 3, (2, 2), (4, 3)),
    # Rows that no window reaches; cropped by a negative padding; padding wider than the kernel.
    FloatConv(1, 2, 10, 10, 3, (3, 3), (4, 4)),
    FloatConv(1, 2, 9, 9, 3, (3, 3), padding=(-1, 0, -2, -1)),
    FloatConv(1, 2, 4, 3, 3, (2, 2), padding=(4, 5, 3, 4)),
    FloatConv(2, 6, 9, 8, 9, (3, 3), (2, 1), padding=(1, 1, 1, 1), groups=3),
    FloatConv(1, 10, 13, 13, 10, (5, 5), (2, 2), padding=(2, 2, 2, 2), groups=10),
    FloatConv(1, 4, 9, 9, 8, (3, 3), padding=(1, 1, 1, 1), groups=4),
    # Images side by side: small ones with many weights, eight at most.
    FloatConv(5, 6, 4, 4, 40, (3, 3), padding=(1, 1, 1, 1)),
    FloatConv(6, 5, 5, 4, 64, (3, 3), (2, 2), padding=(1, 0, 1, 2)),
    FloatConv(4, 6, 3, 5, 48, (3, 2), (1, 2), (2, 1), (2, 1, 0, 3), groups=2),
    FloatConv(9, 4, 6, 6, 50, (3, 3), (1, 1), (1, 1), (-1, 0, 1, -2)),
    FloatConv(2, 3, 4, 5, 33, (2, 2), (3, 3), padding=(0, 3, 0, 4)),
    # More taps than are unrolled, and a row only.
    FloatConv(1, 2, 20, 20, 3, (9, 9), padding=(4, 4, 4, 4)),
    FloatConv(1, 3, 1, 33, 4, (1, 5), (1, 2), padding=(0, 2, 0, 2)),
    # Enough for several threads; whole blocks and rests of both.
    FloatConv(1, 32, 14, 15, 36, (3, 3), padding=(1, 1, 1, 1)),
)
DENSE = ((1, 1, 1), (1, 37, 10), (1, 40, 1000), (3, 65, 17), (5, 16, 130), (9, 33, 64), (64, 256, 160))


def arrays(conv: FloatConv, seed: int = 0) -> tuple[Array, Array]:
    """An input and weights."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(conv.batch, conv.channels, *conv.size)).astype(np.float32)
    w = random.normal(size=(conv.out_channels, conv.channels // conv.groups, *conv.kernel)).astype(np.float32)
    return x, w


def convolved(conv: FloatConv, x: Array, w: Array) -> Array:
    """The definition, tap by tap, in float64."""
    top, left, bottom, right = conv.padding
    padded = np.pad(
        x.astype(np.float64), ((0, 0), (0, 0), *((max(p, 0), max(q, 0)) for p, q in ((top, bottom), (left, right))))
    )
    rows, columns = padded.shape[2:]
    padded = padded[:, :, max(-top, 0) : rows + min(bottom, 0), max(-left, 0) : columns + min(right, 0)]
    (oh, ow), (sy, sx), (dy, dx) = conv.out_size, conv.stride, conv.dilation
    grouped = w.astype(np.float64).reshape(conv.groups, -1, *w.shape[1:])
    out = np.zeros((conv.batch, conv.groups, conv.out_channels // conv.groups, oh, ow))
    for ky in range(conv.kernel[0]):
        for kx in range(conv.kernel[1]):
            seen = padded[:, :, ky * dy :: sy, kx * dx :: sx][:, :, :oh, :ow]
            seen = seen.reshape(conv.batch, conv.groups, -1, oh, ow)
            out += np.einsum("ngchw,goc->ngohw", seen, grouped[..., ky, kx])
    return out.reshape(conv.batch, conv.out_channels, oh, ow)


def input_gradient(conv: FloatConv, g: Array, w: Array) -> Array:
    """Torch's, in float64."""
    x = torch.zeros((conv.batch, conv.channels, *conv.size), dtype=torch.float64, requires_grad=True)
    top, left, bottom, right = conv.padding
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    weights = torch.tensor(w, dtype=torch.float64)
    y = torch.nn.functional.conv2d(padded, weights, stride=conv.stride, dilation=conv.dilation, groups=conv.groups)
    y.backward(torch.tensor(g, dtype=torch.float64))
    return x.grad.numpy()  # type: ignore[union-attr] - backward has made it


def run(machine: Machine, functions: Sequence[Any], arguments: Sequence[Sequence[Array]], shapes: Sequence[Any]) -> Any:
    """What each function writes, all compiled at once."""
    module = machine.load({f"kernel{i}": function for i, function in enumerate(functions)})
    filled = [np.full(shape, np.nan, np.float32) for shape in shapes]
    return [
        machine.call(module[f"kernel{i}"], given, out)
        for i, (given, out) in enumerate(zip(arguments, filled, strict=True))
    ]


def run_plans(machine: Machine, plans: Sequence[TapPlan], operands: Sequence[tuple[Array, Array]]) -> list[Array]:
    """What the kernels of plans write."""
    by = width(machine.core)
    assert by is not None
    given = [(x, pack(plan, w, float_block.block(plan, by)[1])) for plan, (x, w) in zip(plans, operands, strict=True)]
    shapes = [(plan.batch, plan.groups * plan.outputs, *plan.out_size) for plan in plans]
    return list(run(machine, [conv_kernel(plan, machine.core) for plan in plans], given, shapes))


def gradient_operands(conv: FloatConv) -> tuple[Array, Array]:
    """Values at the output, and weights."""
    shape = (conv.batch, conv.out_channels, *conv.out_size)
    return np.random.default_rng(1).normal(size=shape).astype(np.float32), arrays(conv)[1]


PLANS = tuple(plan(conv) for conv in CONVS for plan in (forward, transpose))
OPERANDS = tuple(both(conv) for conv in CONVS for both in (arrays, gradient_operands))


@pytest.fixture(scope="module")
def found(machines: Machines) -> Callable[[str], list[Array]]:
    """What a core's kernels write: convolutions and transposes in turn, compiled and run once."""
    seen: dict[str, list[Array]] = {}

    def find(core: str) -> list[Array]:
        if core not in seen:
            machine = Machine(CORES[core]) if core in NARROWER.get(host_core().name, ()) else machines(core)
            seen[core] = run_plans(machine, PLANS, OPERANDS)
        return seen[core]

    return find


# Rows of `CORES` that a machine can run, with narrower vectors than its own.
NARROWER = {"x86-64-v4": ("x86-64-v3",)}


def test_convolutions(found: Callable[[str], list[Array]]) -> None:
    for conv, (x, w), got in zip(CONVS, OPERANDS[::2], found("host")[::2], strict=True):
        bound = ULP * (w[0].size + 1) * convolved(conv, np.abs(x), np.abs(w))
        assert np.all(np.abs(got - convolved(conv, x, w)) <= bound), conv


def test_transposes(found: Callable[[str], list[Array]]) -> None:
    for conv, (g, w), got in zip(CONVS, OPERANDS[1::2], found("host")[1::2], strict=True):
        terms = w[:, 0].size // conv.groups + 1
        bound = ULP * terms * input_gradient(conv, np.abs(g), np.abs(w))
        assert np.all(np.abs(got - input_gradient(conv, g, w)) <= bound), conv


@pytest.mark.parametrize("core", [*CORE_NAMES[1:], *NARROWER.get(host_core().name, ())])
def test_bits_are_the_same_on_every_core(core: str, found: Callable[[str], list[Array]]) -> None:
    for plan, expected, got in zip(PLANS, found("host"), found(core), strict=True):
        np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32), err_msg=str(plan))


def test_a_transpose_reads_the_weights_of_its_convolution(
    machines: Machines, found: Callable[[str], list[Array]]
) -> None:
    machine = machines("host")
    by = width(machine.core)
    assert by is not None
    functions, given = [], []
    for conv, (g, w) in zip(CONVS, OPERANDS[1::2], strict=True):
        functions.append(conv_kernel(transpose(conv), machine.core, forward(conv)))
        given.append((g, pack(forward(conv), w, float_block.block(forward(conv), by)[1])))
    expected = found("host")[1::2]
    for got, own in zip(run(machine, functions, given, [e.shape for e in expected]), expected, strict=True):
        np.testing.assert_array_equal(got.view(np.uint32), own.view(np.uint32))


def test_no_product_with_an_inserted_zero() -> None:
    """Of a 3 x 3 kernel with stride 2, one position in four meets four taps, two meet two, one meets one."""
    plan = transpose(FloatConv(1, 2, 12, 12, 3, (3, 3), (2, 2), padding=(1, 1, 1, 1)))
    assert sorted(len(part.taps) for part in plan.parts) == [1, 2, 2, 4]
    assert all(part.count == (6, 6) for part in plan.parts)


@pytest.mark.parametrize("core", CORE_NAMES)
def test_matrix_products(core: str, machines: Machines) -> None:
    machine, random = machines(core), np.random.default_rng(2)
    operands = [(random.normal(size=(m, k)), random.normal(size=(k, n))) for m, k, n in DENSE]
    found = run_dense(machine, operands)
    for (x, w), got in zip(operands, found, strict=True):
        x, w = x.astype(np.float32).astype(np.float64), w.astype(np.float32).astype(np.float64)
        assert np.all(np.abs(got - x @ w) <= ULP * (len(w) + 1) * (np.abs(x) @ np.abs(w)))
    if core != "host":
        for expected, got in zip(run_dense(machines("host"), operands), found, strict=True):
            np.testing.assert_array_equal(got.view(np.uint32), expected.view(np.uint32))


def run_dense(machine: Machine, operands: Sequence[tuple[Array, Array]]) -> list[Array]:
    """What the kernels of matrix products write."""
    by = width(machine.core)
    assert by is not None
    functions, given, shapes = [], [], []
    for x, w in operands:
        (m, k), n = x.shape, w.shape[1]
        channels = float_dense.block(m, n, by)[1] * by.lanes
        functions.append(dense_kernel(m, k, n, machine.core))
        given.append((x.astype(np.float32), pack_dense(w.astype(np.float32), channels)))
        shapes.append((m, n))
    return list(run(machine, functions, given, shapes))


def test_weights_made_in_the_kernel_give_the_same_bits(machines: Machines) -> None:
    """Those that meet nothing but zeros are not made: what begins with one class reads one row."""

    def read(given: Any, *at: Any) -> Any:
        return given[0][at]

    machine, random = machines("host"), np.random.default_rng(4)
    by = width(machine.core)
    assert by is not None
    functions, given, operands = [], [], []
    for (m, k, n), kept in ((shape, kept) for shape in DENSE for kept in (0.0, 0.3, 1.0)):
        if not float_dense.rows_at_once(m, n, by):
            continue
        x = (random.normal(size=(m, k)) * (random.random((m, k)) < kept)).astype(np.float32)
        w = random.normal(size=(k, n)).astype(np.float32)
        functions.append(dense_kernel(m, k, n, machine.core, ([("source0", (k, n), "float32")], read)))
        given.append((x, w))
        operands.append((x, w))
    assert len(operands) >= 9
    got = run(machine, functions, given, [(len(x), w.shape[1]) for x, w in operands])
    for mine, packed in zip(got, run_dense(machine, operands), strict=True):
        np.testing.assert_array_equal(mine.view(np.uint32), packed.view(np.uint32))


def test_panels_made_at_run_time_are_those_of_compile_time(machines: Machines) -> None:
    def read(given: Any, *at: Any) -> Any:
        return given[0][at]

    machine, functions, given, expected = machines("host"), [], [], []
    for conv in CONVS:
        for plan in (forward(conv), transpose(conv)):
            w = arrays(conv)[1]
            # Padded channels hold anything: those of whole blocks only.
            block = next(b for b in (4, 3, 1) if plan.outputs % b == 0)
            functions.append(pack_kernel(plan, block, [(w.shape, "float32")], read))
            given.append((w,))
            expected.append(pack(plan, w, block))
    w = np.random.default_rng(3).normal(size=(7, 12)).astype(np.float32)
    functions.append(pack_dense_kernel(7, 12, 4, [(w.shape, "float32")], read))
    given.append((w,))
    expected.append(pack_dense(w, 4))
    for got, panel in zip(run(machine, functions, given, [p.shape for p in expected]), expected, strict=True):
        np.testing.assert_array_equal(got, panel)


@pytest.mark.parametrize(
    ("by", "registers"), [(float_block._ARM, 32), (float_block._AVX2, 16), (float_block._AVX512, 32)]
)
def test_blocks_fit_the_registers(by: float_block.Width, registers: int) -> None:
    for vectors, channels in by.blocks:
        weights = -(-channels // by.lanes) if by.by_lane and channels % by.lanes == 0 else 1
        # With one channel, each vector of positions is used once and need not be held.
        held = vectors if channels > 1 else 1
        assert vectors * channels + held + weights <= registers


def test_a_core_without_fused_multiply_adds_is_refused() -> None:
    assert width(CORES["x86-64"]) is None
    with pytest.raises(ValueError, match="x86-64 has no fused multiply-add"):
        conv_kernel(forward(CONVS[0]), CORES["x86-64"])
    with pytest.raises(ValueError, match="x86-64 has no fused multiply-add"):
        dense_kernel(1, 1, 1, CORES["x86-64"])


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [({"groups": 2}, "groups 2 must divide"), ({"kernel": (9, 1)}, r"kernel \(9, 1\) does not fit")],
)
def test_geometry_is_checked(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        FloatConv(**({"batch": 1, "channels": 3, "height": 5, "width": 5, "out_channels": 4} | wrong))
