"""What a technique is, and the frame that every technique's kernel is built in."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.epilogue import Epilogue
from schedules.knob_space import Space, around
from schedules.layout import Layout
from schedules.padding import runs

Array = npt.NDArray[Any]
Knobs = Mapping[str, int]

# Below this many multiply-accumulates, waking the other threads takes longer than the work.
PARALLEL_MACS = 2_000_000


class Technique(abc.ABC):
    """One way to compute a `DotProblem`. Stateless; a row of `TECHNIQUES`."""

    name: str
    needs: frozenset[str] = frozenset()

    def declines(self, problem: DotProblem, core: CoreSpec) -> str | None:
        """Why this technique cannot take the problem on this core, or None."""
        missing = self.needs - core.features
        if missing:
            return f"{core.name} lacks {', '.join(sorted(missing))}"
        return problem.declines()

    @abc.abstractmethod
    def cycles(self, problem: DotProblem, core: CoreSpec) -> float:
        """Estimated cycles on one core, to rank techniques."""

    def knobs(self, problem: DotProblem, core: CoreSpec) -> Knobs:
        """The values of the technique's knobs for this problem."""
        return {"parallel": int(problem.macs >= PARALLEL_MACS)}

    def space(self, problem: DotProblem, core: CoreSpec) -> Space:
        """The values that each knob may take; the kernel is exact with any of them."""
        return around(self.knobs(problem, core), problem)

    @abc.abstractmethod
    def in_layout(self, problem: DotProblem) -> Layout:
        """The layout this technique reads activations in."""

    @abc.abstractmethod
    def constants(self, problem: DotProblem, weights: Array, weight_offset: Array) -> list[Array]:
        """The kernel's constant parameters, made at compile time.

        ``weights`` are uint8 codes ``(O, C / groups, kh, kw)``, ``weight_offset`` int32 ``(O,)``.
        """

    @abc.abstractmethod
    def unpack_weights(self, problem: DotProblem, constant: Array) -> Array:
        """The weight codes ``(O, C / groups, kh, kw)`` back from ``constants(...)[0]``."""

    @abc.abstractmethod
    def weight_at(self, problem: DotProblem, at: Callable[..., Any], o: Any, c: Any, y: Any, x: Any) -> Any:
        """One weight code as an expression; ``at(*indices)`` reads ``constants(...)[0]``."""

    @abc.abstractmethod
    def build(self, problem: DotProblem, knobs: Knobs, core: CoreSpec) -> Any:
        """The kernel: a PrimFunc of (activations, constants..., epilogue parameters..., out)."""


def frame(
    problem: DotProblem,
    layout: Layout,
    constants: Sequence[tuple[tuple[int, ...], str]],
    body: Callable[[Any, list[Any], Epilogue], None],
) -> Any:
    """A PrimFunc with the parameters every technique shares; ``body(x, constants, epilogue)`` emits its loops."""
    p = problem
    with IRBuilder() as builder, T.prim_func():
        T.func_name("main")
        # 8 is "opaque": fusion must leave a hand-scheduled kernel alone.
        T.func_attr({"global_symbol": "main", "tirx.noalias": True, "op_pattern": 8, "tirx.is_scheduled": True})
        x = T.arg("x", T.buffer(layout.shape(p.batch, p.height, p.width, p.channels), "uint8"))
        buffers = [T.arg(f"constant{i}", T.buffer(shape, dtype)) for i, (shape, dtype) in enumerate(constants)]
        body(x, buffers, Epilogue(problem))
    return builder.get()


def rows(problem: DotProblem, knobs: Knobs) -> Any:
    """The loop over all output rows of the batch, parallel if the knobs say so."""
    loop = T.parallel if knobs["parallel"] else T.serial
    return loop(0, problem.batch * problem.out_height)


def corrections(problem: DotProblem, weights: Array, weight_offset: Array, skipped: bool = False) -> list[Array]:
    """Per-channel terms that turn a sum of code products into the accumulator.

    With values ``ma a + oa`` and ``mw w + ow[c]``, the accumulator is
    ``ma mw sum(a w) + beta[c] sum(a) + gamma[c]`` where ``beta = ma ow`` and ``gamma = oa sum(mw w + ow)``.
    Where padded positions count as code 0 though it is not 0.0, gamma sums over the taps inside the image only: they
    differ from one of `padding.runs` to the next, and the other two terms are 0 outside by themselves. The same holds
    where a kernel leaves out padded positions (``skipped``).

    Returns
    -------
    beta : ``(O,)``
    gamma : ``(runs of rows, runs of columns, O)``
        Both in the problem's ``threshold_dtype``, which holds every partial sum.
    """
    if np.abs(weight_offset, dtype=np.int64).max() > problem.w.offset_bound:
        raise ValueError(f"weight offsets exceed the problem's bound {problem.w.offset_bound}")
    offset = weight_offset.astype(np.int64)
    beta = problem.a.multiplier * offset
    sums = problem.w.multiplier * weights.sum(axis=1, dtype=np.int64)
    sums += problem.group_channels * offset[:, None, None]
    inside_rows, inside_columns = (np.array(along.inside, np.int64) for along in runs(problem, skipped))
    gamma = problem.a.offset * np.einsum("ry,cx,oyx->rco", inside_rows, inside_columns, sums, optimize=True)
    dtype = problem.threshold_dtype
    return [beta.astype(dtype), gamma.astype(dtype)]


def correction_shapes(problem: DotProblem, skipped: bool = False) -> list[tuple[tuple[int, ...], str]]:
    """Shapes and types of `corrections`."""
    counts = (len(along.starts) for along in runs(problem, skipped))
    dtype = problem.threshold_dtype
    return [((problem.out_channels,), dtype), ((*counts, problem.out_channels), dtype)]
