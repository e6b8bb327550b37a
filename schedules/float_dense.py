"""Float32 products with weights: lanes are neighbouring outputs, each one chain of fused multiply-adds over K."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.float_block import Unpacked, Width, fma, frame, width
from schedules.intrinsics import const, splat, vload, vstore
from schedules.reads import FIRST, FIRST_BYTES
from schedules.registers import Registers
from schedules.techniques.base import PARALLEL_MACS

# Rows and vectors of outputs in a block: eight sums are under way at least, and registers are left for the weights.
_BLOCKS = ((1, 8), (2, 4), (4, 2), (8, 1), (6, 2), (4, 4))
_NARROW = ((1, 8), (2, 4), (4, 2), (8, 1), (6, 2))


def block(rows: int, outputs: int, by: Width) -> tuple[int, int]:
    """Rows and vectors of outputs of a block that compute the product in the fewest steps."""

    def steps(shape: tuple[int, int]) -> float:
        height, vectors = shape
        whole, rest = divmod(rows, height)
        blocks = -(-outputs // (vectors * by.lanes))
        return blocks * sum(
            n * max(each * vectors / 2, (each + vectors) / 2, 4) for n, each in ((whole, height), (bool(rest), rest))
        )

    return min(_NARROW if by.narrow else _BLOCKS, key=steps)


def rows_at_once(rows: int, outputs: int, by: Width) -> bool:
    """Whether all rows are in one block, so that each weight is read once."""
    return rows <= block(rows, outputs, by)[0]


def pack_dense(weights: npt.NDArray[np.float32], channels: int) -> npt.NDArray[np.float32]:
    """Weights ``(K, N)`` as the kernel reads them: ``(blocks, K, channels)``."""
    k, n = weights.shape
    blocks = -(-n // channels)
    padded = np.pad(weights, ((0, 0), (0, blocks * channels - n)))
    return np.ascontiguousarray(padded.reshape(k, blocks, channels).transpose(1, 0, 2), np.float32)


def dense_kernel(rows: int, k: int, outputs: int, core: CoreSpec, unpacked: Unpacked | None = None) -> Any:
    """A PrimFunc of (``(rows, K)``, packed weights or what they are made from, ``(rows, outputs)``).

    Parameters
    ----------
    rows, k, outputs : int
        Extents.
    core : CoreSpec
        What to compile for.
    unpacked : tuple, optional
        What weights are made from where they are not packed: the parameters, and ``read(buffers, i, output)``, one of
        them. Each is made once, in the kernel, which needs all rows to be in one block (`rows_at_once`), and only where
        a row has anything but 0 to multiply it with: they must be finite. What an explanation begins with is one class
        out of a thousand.

    Raises
    ------
    ValueError
        If the core has no fused multiply-add.
    """
    by = width(core)
    if by is None:
        raise ValueError(f"{core.name} has no fused multiply-add")
    height, vectors = block(rows, outputs, by)
    channels = vectors * by.lanes
    blocks = -(-outputs // channels)
    loop = T.parallel if rows * k * outputs >= PARALLEL_MACS else T.serial

    sources, read = unpacked or ([("weights", (blocks, k, channels))], None)

    def body(x: Any, *buffers: Any) -> None:
        *given, out = buffers

        def tile(cb: Any, row: Any, number: int) -> None:
            acc = Registers([(i, j) for i in range(number) for j in range(vectors)], "float32", by.lanes)

            def add(panel: Any, at: Any, place: list[Any]) -> None:
                ws = Registers([(0, j) for j in range(vectors)], "float32", by.lanes, clear=False)
                for j in range(vectors):
                    ws[0, j] = vload(panel, [*place, const(j * by.lanes)], by.lanes)
                for i in range(number):
                    value = splat(x[row + i, at], by.lanes)
                    for j in range(vectors):
                        acc[i, j] = fma(value, ws[0, j], acc[i, j], by.lanes)

            with T.serial(0, k) as at:
                if read is None:
                    add(given[0], at, [cb, at])
                else:
                    with T.If(tirx.any(*(x[row + i, at] != const(0, "float32") for i in range(number)))), T.Then():
                        line = T.alloc_buffer((channels,), "float32")
                        with T.serial(0, channels) as j:
                            # What is past the last output is computed and not kept: any weight will do.
                            output = tirx.min(cb * channels + j, const(outputs - 1))
                            T.buffer_store(line, read(given, at, output), [j])
                        add(line, at, [])
            sums = T.alloc_buffer((number, channels), "float32")
            for i in range(number):
                for j in range(vectors):
                    vstore(T, sums, acc[i, j], [const(i), const(j * by.lanes)], by.lanes)
            kept = channels if outputs % channels == 0 else tirx.min(const(channels), outputs - cb * channels)
            with T.serial(0, number) as i, T.serial(0, kept) as j:
                T.buffer_store(out, sums[i, j], [row + i, cb * channels + j])

        with loop(0, blocks) as cb:
            whole, rest = divmod(rows, height)
            if whole:
                with T.serial(0, whole) as i:
                    tile(cb, i * height, height)
            if rest:
                tile(cb, const(whole * height), rest)

    kernel = frame([("x", (rows, k)), *sources, ("out", (rows, outputs))], body)
    return kernel.with_attr(FIRST, [0]) if rows * k * 4 <= FIRST_BYTES else kernel
