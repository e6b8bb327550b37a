"""Phases of a transposed convolution against its definition, and what puts them together."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from relax_models import evaluate
from tvm import relax

from relay_passes.integer_forms.transposed import phases
from relay_passes.interleave import interleave

GRID = list(itertools.product((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4), (0, 1, 3), (0, 1)))


def by_definition(x: Any, w: Any, out: int, stride: int, dilation: int, padding: int) -> Any:
    """Every input is added to a window of the outputs."""
    result = np.zeros(out, np.int64)
    for q, k in np.ndindex(len(x), len(w)):
        p = q * stride - padding + k * dilation
        if 0 <= p < out:
            result[p] += x[q] * w[k]
    return result


def ordinary(x: Any, w: Any, dilation: int, before: int, after: int) -> Any:
    """A convolution of stride 1; negative padding leaves out inputs."""
    padded = np.pad(x, (max(before, 0), max(after, 0)))
    padded = padded[max(-before, 0) : len(padded) - max(-after, 0)]
    span = (len(w) - 1) * dilation + 1
    return [padded[p : p + span : dilation] @ w for p in range(len(padded) - span + 1)]


@pytest.mark.parametrize("size", [1, 2, 5])
def test_phases_are_ordinary_convolutions(size: int) -> None:
    random, tried = np.random.default_rng(size), 0
    for kernel, stride, dilation, padding, extra in GRID:
        out = (size - 1) * stride + (kernel - 1) * dilation + 1 - 2 * padding + extra
        if out < 1:
            continue
        x, w = random.integers(-9, 9, size), random.integers(-9, 9, kernel)
        expected = by_definition(x, w, out, stride, dilation, padding)
        found = phases(size, out, kernel, stride, dilation, padding)
        assert len(found) == min(stride, out)
        products = 0
        for first, phase in enumerate(found):
            count = len(expected[first::stride])
            taps = list(phase.taps)
            got = ordinary(x, w[taps], phase.dilation, phase.before, phase.after) if taps else [0] * count
            np.testing.assert_array_equal(got, expected[first::stride])
            products += len(taps)
        assert products == kernel or out < stride, "each tap serves one phase: no product is wasted"
        tried += 1
    assert tried > 100


@pytest.mark.parametrize(("shape", "stride"), [((2, 3, 7), (3,)), ((1, 2, 5, 4), (2, 3)), ((1, 2, 2, 3), (1, 3))])
def test_interleave(shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    """Parts of different lengths, one of them zero."""
    whole = np.random.default_rng(0).integers(-99, 99, shape)
    slices = [
        (slice(None), slice(None), *(slice(f, None, s) for f, s in zip(first, stride, strict=True)))
        for first in np.ndindex(*stride)
    ]
    whole[slices[-1]] = 0
    parts = [whole[each] for each in slices[:-1]]
    builder = relax.BlockBuilder()
    params = [relax.Var(f"p{i}", relax.TensorType(list(part.shape), "float32")) for i, part in enumerate(parts)]
    with builder.function("main", params):
        with builder.dataflow():
            integers = [builder.emit(relax.op.astype(p, "int32")) for p in params]
            output = builder.emit_output(builder.emit(interleave([*integers, None], stride, shape)))
        builder.emit_func_output(output)
    (found,) = evaluate(builder.get(), *parts)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, whole)
