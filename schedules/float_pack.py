"""Packing float weights at run time, from whatever constant holds them: a scratch panel of all, or of one block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from schedules.float_block import frame
from schedules.float_taps import TapPlan, packed_shape, weight_place
from schedules.intrinsics import const
from schedules.techniques.base import PARALLEL_MACS

Sources = Sequence[tuple[tuple[int, ...], str]]
# ``read(buffers, *place)``: the weight at a place of ``(O, C / groups, kh, kw)``, or of ``(K, N)``.
Read = Callable[..., Any]


def pack_kernel(plan: TapPlan, channels: int, sources: Sources, read: Read) -> Any:
    """A PrimFunc of (sources..., the panel that `float_taps.pack` would give)."""
    shape = packed_shape(plan, channels)
    groups, blocks, *_ = shape
    pack = pack_block(plan, channels, read)

    def body(*buffers: Any) -> None:
        *given, panel = buffers
        with _loop(shape)(0, groups * blocks) as index:
            g, cb = index // blocks, index % blocks
            pack(given, panel, g, cb, (g, cb))

    return frame([*named_sources(sources), ("panel", shape)], body)


def pack_block(plan: TapPlan, channels: int, read: Read) -> Callable[..., None]:
    """``pack(given, panel, g, cb, at)`` emits what packs a block of a group's channels into the panel at ``at``."""

    def pack(given: Any, panel: Any, g: Any, cb: Any, at: tuple[Any, Any]) -> None:
        with T.serial(0, plan.inputs) as i:
            for t, tap in enumerate(plan.taps):
                with T.serial(0, channels) as j:
                    output = _within(cb * channels + j, plan.outputs, channels)
                    # What is past the last channel is computed and not kept: any weight will do.
                    T.buffer_store(panel, read(given, *weight_place(plan, g, output, i, tap)), [*at, i, t, j])

    return pack


def pack_dense_kernel(k: int, outputs: int, channels: int, sources: Sources, read: Read) -> Any:
    """A PrimFunc of (sources..., the panel that `float_dense.pack_dense` would give)."""
    shape = (-(-outputs // channels), k, channels)

    def body(*buffers: Any) -> None:
        *given, panel = buffers
        with _loop(shape)(0, shape[0]) as cb, T.serial(0, k) as i, T.serial(0, channels) as j:
            output = _within(cb * channels + j, outputs, channels)
            T.buffer_store(panel, read(given, i, output), [cb, i, j])

    return frame([*named_sources(sources), ("panel", shape)], body)


def _within(output: Any, outputs: int, channels: int) -> Any:
    return output if outputs % channels == 0 else tirx.min(output, const(outputs - 1))


def _loop(shape: Sequence[int]) -> Any:
    count = 1
    for extent in shape:
        count *= extent
    return T.parallel if count >= PARALLEL_MACS else T.serial


def named_sources(sources: Sources) -> list[tuple[str, tuple[int, ...], str]]:
    """Parameters of a kernel."""
    return [(f"source{i}", shape, dtype) for i, (shape, dtype) in enumerate(sources)]
