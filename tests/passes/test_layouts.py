"""Between logical codes and physical layouts: TIR against numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from relax_models import evaluate
from tvm import relax

from relay_passes import layouts
from relay_passes.dataflow import Scope
from relay_passes.forms import Forms
from schedules.layout import Layout
from schedules.layout import pack as pack_numpy

LAYOUTS = [Layout(), *[Layout("planes", bits, groups) for bits in (1, 2, 3, 8) for groups in (1, 3)]]


def program(shape: tuple[int, ...], layout: Layout) -> Any:
    """Casts to codes, packs, unpacks; returns both forms."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(shape), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            scope = Scope(builder)
            codes = scope.emit(relax.op.astype(x, "uint8"), "codes")
            packed = Forms(scope).get(codes, layout, "packed")
            # What was written in a layout is there in all others.
            again = Forms(scope).produced(packed, layout, shape, "again")
            output = builder.emit_output(relax.Tuple([packed, again]))
        builder.emit_func_output(output)
    return builder.get()


@pytest.mark.parametrize("shape", [(2, 27, 3, 2), (1, 3, 1, 1), (2, 9, 5), (5, 24), (1, 9)])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda v: f"{v.kind}{v.bits}x{v.groups}")
def test_pack_and_back(shape: tuple[int, ...], layout: Layout) -> None:
    """The physical form is numpy's, and unpacking gives the codes again."""
    bits = layout.bits if layout.kind == "planes" else 8
    codes = np.random.default_rng(0).integers(0, 1 << bits, shape).astype(np.uint8)
    mod = program(shape, layout)
    packed, again = evaluate(mod, codes)
    n, h, w, c = layouts.nhwc_shape(shape)
    nhwc = (np.moveaxis(codes, 1, -1) if len(shape) > 2 else codes).reshape(n, h, w, c)
    np.testing.assert_array_equal(packed, pack_numpy(np.ascontiguousarray(nhwc), layout))
    np.testing.assert_array_equal(again, codes)


def test_packing_is_opaque_to_fusion() -> None:
    """A packed byte would else compute what it is fused with once per bit."""
    mod = program((1, 9), Layout("planes", 2))
    (pack,) = [f for gv, f in mod.functions.items() if gv.name_hint.startswith("pack")]
    assert int(pack.attrs["op_pattern"]) == 8
    assert isinstance(pack, tvm.tirx.PrimFunc)


def test_rows_of_a_dense_layer_are_pixels() -> None:
    """So that kernels block over them."""
    assert layouts.nhwc_shape((7, 5)) == (1, 1, 7, 5)
    assert layouts.nhwc_shape((2, 3, 4, 5)) == (2, 4, 5, 3)
    assert layouts.nhwc_shape((2, 3, 5)) == (2, 1, 5, 3)
