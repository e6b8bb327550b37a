"""What the library keeps of a reference run: little, and bit for bit what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from explained import explain
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes.ops import collapsed, fake_quant, narrowest

SHAPE = (1, 2, 32, 32)
WEIGHTS = np.random.default_rng(0).normal(size=(4, 2, 1, 1)).astype(np.float32)
HEAD = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)


def test_equal_along_an_axis_is_kept_once() -> None:
    """Zeros of different signs are not equal, nor is anything lost."""
    array = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1) * np.ones((2, 3, 4, 5), np.float32)
    assert collapsed(array).shape == (1, 3, 1, 1)
    np.testing.assert_array_equal(np.broadcast_to(collapsed(array), array.shape), array)
    array[0, 0, 1, 2] = -0.0
    assert collapsed(array).tobytes() == array.tobytes()
    assert collapsed(np.float32(2)) == 2


@pytest.mark.parametrize(("low", "high", "kind"), [(-128, 127, "int8"), (0, 128, "int16"), (-40000, 0, "int32")])
def test_integers_are_kept_in_as_few_bits_as_hold_them(low: int, high: int, kind: str) -> None:
    """Both ends stay."""
    kept = narrowest(np.array([low, high], np.int32))
    assert str(kept.dtype) == kind and kept.tolist() == [low, high]


def network(emit: Any, x: Any) -> Any:
    """A quantised pointwise convolution, whose planes are even where the image is, then max pooling."""
    weights = emit(fake_quant(const(WEIGHTS), spec(0.3, -2, 1)), "w")
    y = emit(relax.op.nn.conv2d(quantised(emit, x, "q"), weights), "conv")
    y = emit(relax.op.nn.max_pool2d(quantised(emit, y, "r"), (2, 2), (2, 2)), "pool")
    return emit(relax.op.matmul(emit(relax.op.mean(y, [2, 3]), "mean"), const(HEAD)), "head")


def test_an_even_reference_takes_no_room_in_the_library() -> None:
    """Against an uneven one, which takes its bytes; the contributions are those of a reference spelled out."""
    mod, random = module(network, SHAPE), np.random.default_rng(2)
    x = random.normal(size=SHAPE).astype(np.float32)
    even, uneven = np.float32(0.7), (random.random(SHAPE[1:]) * 2).astype(np.float32)
    methods = [tvm_lowbit.DeepLift(target=0, reference=reference) for reference in (even, uneven)]
    built = [tvm_lowbit.build(mod, "host", explain=[method]) for method in methods]
    sizes = [artifact.library().stat().st_size for artifact in built]
    # Of the uneven one input, codes and accumulators, 4 bytes, 1 byte and at least 1 byte each.
    assert sizes[1] - sizes[0] > 4 * uneven.size
    at_run_time = tvm_lowbit.build(mod, "host", explain=[tvm_lowbit.DeepLift(target=0, reference="input")])
    (other,) = at_run_time.run({"x": x, "deeplift.reference": np.full(SHAPE, even)}).explanations.values()
    found = explain(mod, x, reference=even)
    assert np.abs(found.contributions).max() > 0
    np.testing.assert_allclose(found.contributions, other.contributions, rtol=1e-5, atol=1e-6)
    assert np.abs(found.gap).max() < 1e-5
