"""Whatever is assigned, the codes are the same; and what a program looks like to the assignment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, evaluate, module, quantised, spec, text
from tvm import relax

from relay_passes import chosen, notes
from relay_passes.assign import Assignment, Network, cycles
from relay_passes.detect import detect_quantizers
from relay_passes.lower import lower_lowbit
from relay_passes.ops import fake_quant
from relay_passes.rewrite import rewrite_lowbit
from schedules.cores import CORES, host_core
from schedules.errors import LowbitError
from schedules.layout import Layout

SHAPE = (1, 8, 9, 9)


def convolution(emit: Any, q: Any, name: str, out: int, groups: int = 1, side: int = 3) -> Any:
    """2-bit weights."""
    channels = int(q.ty.shape[1]) // groups
    numbers = np.random.default_rng(len(name)).normal(size=(out, channels, side, side)) * 0.5
    weights = emit(fake_quant(const(numbers), spec(0.25, -2, 1)), f"{name}_w")
    return emit(relax.op.nn.conv2d(q, weights, padding=side // 2, groups=groups), name)


def body(emit: Any, x: Any) -> Any:
    """A residual, a grouped branch, a concatenation, codes added twice; a pool whose windows leave the image."""
    stem = quantised(emit, convolution(emit, quantised(emit, x, "in", qmax=255, scale=0.02), "stem", 16), "stem_q")
    pool = emit(relax.op.nn.max_pool2d(stem, (2, 2), (2, 2), ceil_mode=True), "pool")
    inner = quantised(emit, convolution(emit, pool, "first", 16), "first_q", scale=0.7)
    second = quantised(emit, convolution(emit, inner, "second", 16), "second_q", qmin=-2, qmax=1)
    join = quantised(emit, emit(relax.op.nn.relu(emit(relax.op.add(second, pool), "sum")), "relu"), "join")
    branch = quantised(emit, convolution(emit, pool, "grouped", 16, groups=4), "branch")
    both = emit(relax.op.concat([join, branch], axis=1), "both")
    again = quantised(emit, emit(relax.op.add(join, branch), "again"), "again_q", scale=1.0)
    end = convolution(emit, both, "end", 4, side=1)
    other = convolution(emit, again, "other", 4)
    return relax.Tuple([end, other, emit(relax.op.negative(join), "codes_too")])


def upsampled(emit: Any, x: Any) -> Any:
    """Nearest upsampling as two gathers, joined with what it came from, rows and columns of that in another order."""
    stem = quantised(emit, convolution(emit, quantised(emit, x, "in", qmax=255, scale=0.02), "stem", 16), "stem_q")
    low = quantised(emit, convolution(emit, emit(relax.op.nn.max_pool2d(stem, (2, 2), (2, 2)), "pool"), "low", 8), "q")
    for axis in (2, 3):
        indices = relax.const(np.arange(SHAPE[axis] // 2 * 2, dtype=np.int64) // 2)
        low = emit(relax.op.take(low, indices, axis=axis), f"up{axis}")
    order = relax.const(np.array([5, 0, 2, 2, 8, 1, 4, 7], np.int64))
    mixed = emit(relax.op.take(emit(relax.op.take(stem, order, axis=3), "columns"), order, axis=2), "mixed")
    return convolution(emit, emit(relax.op.concat([low, mixed], axis=1), "both"), "end", 4)


def binary(emit: Any, x: Any) -> Any:
    """Codes of one bit through a pool: planes may stay planes."""
    one = {"qmax": 1, "scale": 1.0}
    stem = quantised(emit, convolution(emit, quantised(emit, x, "in", **one), "stem", 16), "stem_q", **one)
    pool = emit(relax.op.nn.max_pool2d(stem, (3, 3), (1, 1), (1, 1)), "pool")
    return convolution(emit, pool, "end", 8)


def at_random(seed: int) -> Any:
    """An `assign` that picks anything that can be written."""
    random = np.random.default_rng(seed)

    def pick(network: Network, **_: Any) -> Assignment:
        while True:
            picks = {node.name: int(random.integers(len(node.options))) for node in network.nodes}
            forms = {t.name: list(t.written)[random.integers(len(t.written))] for t in network.tensors}
            if (cost := cycles(network, picks, forms)) != float("inf"):
                return Assignment(picks, forms, cost, exact=False)

    return pick


@pytest.mark.parametrize("network", [body, binary, upsampled])
def test_every_assignment_gives_the_same_codes(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six at random, against TVM's compilation of the float graph."""
    mod = detect_quantizers(module(network, SHAPE))
    x = np.random.default_rng(2).random(SHAPE).astype(np.float32) * 4
    expected = evaluate(mod, x)
    assert all(len(np.unique(e)) > 3 for e in expected)
    rewritten, ways = rewrite_lowbit(mod), set()
    for seed in range(6):
        monkeypatch.setattr(chosen, "assign", at_random(seed))
        lowered = lower_lowbit(rewritten, host_core())
        rows = notes.read(lowered)["layers"]
        ways.add(tuple((row.get("technique"), row.get("layouts")) for row in rows.values()))
        for got, want in zip(evaluate(lowered, x), expected, strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)
    assert len(ways) > 2, "the assignments must differ"


def test_codes_stay_where_they_lie() -> None:
    """Pool, join, concatenation and sum are kernels of this project; nothing is unpacked but what the graph reads."""
    lowered = lower_lowbit(rewrite_lowbit(detect_quantizers(module(body, SHAPE))), CORES["cortex-a72"])
    program = text(lowered)
    for kernel, count in (("max_pool", 1), ("concat", 1), ("requantize", 1)):
        assert program.count(f"R.call_tir(cls.{kernel}") == count
    # The input's codes; the codes that are an output too, and the sums of both ends.
    assert (program.count("R.call_tir(cls.pack"), program.count("R.call_tir(cls.unpack")) == (1, 3)
    summary = notes.read(lowered)["assignment"]
    assert summary["exact"]
    assert 0 < summary["kernels"] < summary["cycles"] <= summary["greedy"]


def test_gathers_stay_where_codes_lie() -> None:
    """Nothing between the stem and the last layer is left to TVM; indices that are no rows or columns are."""
    lowered = lower_lowbit(rewrite_lowbit(detect_quantizers(module(upsampled, SHAPE))), CORES["cortex-a72"])
    program = text(lowered)
    assert program.count("R.call_tir(cls.take") == 4 and "R.take" not in program
    assert (program.count("R.call_tir(cls.pack"), program.count("R.call_tir(cls.unpack")) == (1, 1)

    def channels(emit: Any, x: Any) -> Any:
        stem = quantised(emit, convolution(emit, quantised(emit, x, "in"), "stem", 16), "stem_q")
        picked = emit(relax.op.take(stem, relax.const(np.array([3, 1], np.int64)), axis=1), "picked")
        return convolution(emit, picked, "end", 4)

    kept = lower_lowbit(rewrite_lowbit(detect_quantizers(module(channels, SHAPE))), CORES["cortex-a72"])
    assert "R.take" in text(kept)


def test_planes_of_one_bit_are_pooled_as_planes() -> None:
    """No plain codes between two bit-serial layers and the pool between them."""
    lowered = lower_lowbit(rewrite_lowbit(detect_quantizers(module(binary, SHAPE))), CORES["cortex-a72"], "bit_serial")
    assert f"{Layout('planes', 1)} > {Layout('planes', 1)}" == notes.read(lowered)["layers"]["stem"]["layouts"]
    assert "repack" not in text(lowered).split("def main")[1].split("max_pool")[1]


def test_a_technique_that_is_not_there() -> None:
    """As `select` says."""
    with pytest.raises(LowbitError, match="technique: expected one of"):
        lower_lowbit(rewrite_lowbit(detect_quantizers(module(binary, SHAPE))), host_core(), "quickest")
