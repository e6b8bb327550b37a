"""``weighted_take``: how multipliers go back through what reads fixed positions along an axis with fixed weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
from tvm import relax, te

from relay_passes.attribution.carriers.base import LinearMap
from relay_passes.ops import call, literal, register, shape_of

WEIGHTED_TAKE = "tvm_lowbit.weighted_take"
Matrix = npt.NDArray[np.float32]


def _typed(call_: Any, ctx: Any) -> Any:
    shape = list(shape_of(call_.args[0]))
    shape[int(call_.attrs["axis"])] = shape_of(call_.args[1])[0]
    return relax.TensorType(shape, "float32")


def _legalize(bb: Any, call_: Any) -> Any:
    axis = int(call_.attrs["axis"])

    def compute(x: Any, index: Any, weight: Any) -> Any:
        k = te.reduce_axis((0, int(index.shape[1])), "k")

        def element(*i: Any) -> Any:
            at = [index[i[axis], k] if j == axis else v for j, v in enumerate(i)]
            return te.sum(x[tuple(at)] * weight[i[axis], k], axis=k)

        return te.compute([*x.shape[:axis], index.shape[0], *x.shape[axis + 1 :]], element, name="weighted_take")

    return bb.call_te(compute, *call_.args, primfunc_name_hint="weighted_take")


register(WEIGHTED_TAKE, 3, _typed, _legalize)


def transposed_tables(matrix: Matrix) -> tuple[npt.NDArray[np.int32], Matrix]:
    """For each input of ``y = matrix @ x``, (inputs, taps): the outputs that read it and with what weight, else 0."""
    columns = [np.flatnonzero(column) for column in matrix.T]
    taps = max(1, *(len(column) for column in columns))
    index, weight = np.zeros((len(columns), taps), np.int32), np.zeros((len(columns), taps), np.float32)
    for i, column in enumerate(columns):
        index[i, : len(column)], weight[i, : len(column)] = column, matrix[column, i]
    return index, weight


def transposed(g: Any, axis: int, matrix: Matrix) -> Any:
    """Multipliers at the input of ``y = matrix @ x`` along an axis; ``matrix`` is (outputs, inputs), mostly zeros."""
    index, weight = transposed_tables(matrix)
    return call(WEIGHTED_TAKE, g, literal(index), literal(weight), axis=axis)


def taking(axis: int, matrix: Matrix) -> LinearMap:
    """The map ``y = matrix @ x`` along an axis."""
    return LinearMap(
        "take",
        matrix,
        lambda context, g, w: transposed(g, axis, w),
        lambda context, x, w: transposed(x, axis, w.T),
        operands=(axis,),
    )


def chosen(indices: Any, extent: int) -> Matrix:
    """The matrix of what takes one position for each output."""
    matrix = np.zeros((len(indices), extent), np.float32)
    matrix[np.arange(len(indices)), np.asarray(indices, np.int64)] = 1
    return matrix


def resize_matrix(attrs: Any, extent: int, size: int) -> Matrix:
    """What ``image.resize2d`` does to one axis, found by resizing the unit matrix with the operator itself."""
    x = relax.Var("x", relax.TensorType([1, extent, extent, 2], "float32"))
    builder = relax.BlockBuilder()
    names = ("method", "coordinate_transformation_mode", "rounding_method", "cubic_alpha", "cubic_exclude")
    options = {name: getattr(attrs, name) for name in names}
    with builder.function("main", [x]):
        resized = relax.op.image.resize2d(x, relax.ShapeExpr([size, 2]), layout="NCHW", **options)
        builder.emit_func_output(builder.emit(resized))
    machine = relax.VirtualMachine(relax.build(builder.get(), tvm.target.Target("llvm")), tvm.cpu())
    unit = np.repeat(np.eye(extent, dtype=np.float32)[None, :, :, None], 2, axis=3)
    result: Matrix = machine["main"](tvm.runtime.tensor(unit)).numpy()[0, :, :, 0].T
    return result
