"""``meter_layers``: the estimated cycles of techniques on problems, with operands made up and results checked."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from schedules import reference, slants
from schedules.cores import CoreSpec, find_core
from schedules.dot_problem import DotProblem, Thresholds
from schedules.errors import LowbitError
from schedules.layout import pack
from schedules.techniques import TECHNIQUES, Technique
from schedules.threshold_lines import fit_lines
from tvm_lowbit.metering.estimate import Estimate
from tvm_lowbit.metering.kernels import meter_kernels

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Candidate:
    """A problem, the technique to compute it by, and those of its knobs that are not left as they are."""

    problem: DotProblem
    technique: str
    knobs: Mapping[str, int] | None = None


@dataclass(frozen=True)
class MeteredLayer:
    """A candidate's estimate.

    Attributes
    ----------
    candidate : Candidate
        What was metered.
    estimate : Estimate or None
        None where the kernel did not run to its end; ``failure`` says why.
    exact : bool
        Whether all that it wrote equals the reference; an estimate of a wrong kernel counts for nothing.
    failure : str or None
        Why there is no estimate.
    """

    candidate: Candidate
    estimate: Estimate | None
    exact: bool
    failure: str | None = None

    @property
    def macs_per_cycle(self) -> float:
        """Multiply-accumulates of the layer per estimated cycle; 0 without an estimate."""
        return self.candidate.problem.macs / self.estimate.cycles if self.estimate is not None else 0.0


def meter_layers(
    candidates: Sequence[Candidate], core: str | CoreSpec, *, caches: bool = False, patience: float = 300.0
) -> list[MeteredLayer]:
    """Build, run and price candidates on the emulated core, in one run of the emulator.

    Parameters
    ----------
    candidates : sequence of Candidate
        What to meter.
    core : str or CoreSpec
        An Arm core.
    caches : bool
        Whether to follow caches too.
    patience : float
        Seconds to wait for each.

    Returns
    -------
    list of MeteredLayer
        One for each, in order.

    Raises
    ------
    LowbitError
        When a technique declines its problem, the core is not known, or something is not installed.
    """
    spec = find_core(core) if isinstance(core, str) else core
    built = [_build(candidate, spec) for candidate in candidates]
    metered = meter_kernels(
        [(function, arguments) for function, arguments, _ in built], spec, caches=caches, patience=patience
    )
    return [
        MeteredLayer(
            candidate,
            row.estimate,
            row.output is not None and np.array_equal(row.output, expected),
            row.failure,
        )
        for candidate, row, (_, _, expected) in zip(candidates, metered, built, strict=True)
    ]


@dataclass(frozen=True)
class MadeUp:
    """A problem's operands, made up from nothing but the problem, and what its kernel must write.

    ``problem`` knows what the weights tell; ``tables`` are the epilogue's parameters, a second operand among them.
    """

    problem: DotProblem
    codes: Array
    weights: Array
    offset: Array
    tables: Sequence[Array]
    expected: Array

    @classmethod
    def of(cls, p: DotProblem) -> MadeUp:
        """For a problem; the same each time."""
        random = np.random.default_rng(zlib.crc32(repr(p).encode()))
        codes = random.integers(0, p.a.max_code, (p.batch, p.height, p.width, p.channels), np.uint8, endpoint=True)
        least, most = p.w.span or (0, p.w.max_code)
        weights = random.integers(least, most, (p.out_channels, p.group_channels, *p.kernel), np.uint8, endpoint=True)
        # One offset for all channels, as almost all networks have it.
        offset = np.full(p.out_channels, p.w.offset if p.w.one_offset else -p.w.offset_bound, np.int32)
        p = p.knowing(weights, offset)
        sums: Array = reference.accumulate(p, codes, weights, offset)
        dtype = p.threshold_dtype if p.epilogue is None else p.epilogue.dtype or p.threshold_dtype
        while p.epilogue is not None and not np.iinfo(dtype).min <= sums.min() <= sums.max() < np.iinfo(dtype).max:
            codes = np.where(random.integers(0, 2, codes.shape), codes, np.uint8(p.a.zero_code or 0))
            sums = reference.accumulate(p, codes, weights, offset)
        if p.epilogue is None:
            return cls(p, codes, weights, offset, (), sums.astype(np.int32))
        tables, expected = _epilogue(p.epilogue, sums, p, random)
        return cls(p, codes, weights, offset, tables, expected)

    def arguments(self, technique: Technique) -> list[Array]:
        """What a technique's kernel takes; the last is what it writes, filled with what it will not."""
        constants = technique.constants(self.problem, self.weights, self.offset)
        codes = pack(self.codes, technique.in_layout(self.problem))
        return [codes, *constants, *self.tables, np.full_like(self.expected, 0xA5)]


def _build(candidate: Candidate, core: CoreSpec) -> tuple[Any, list[Array], Array]:
    """The kernel, its arguments, and what it must write over the last one."""
    if candidate.technique not in TECHNIQUES:
        raise LowbitError("technique", f"one of {', '.join(TECHNIQUES)}", repr(candidate.technique))
    technique, made = TECHNIQUES[candidate.technique], MadeUp.of(candidate.problem)
    p = made.problem
    reason = technique.declines(p, core)
    if reason is not None:
        raise LowbitError(f"metering {p.name}", f"a problem that {technique.name} takes", reason)
    knobs = {**technique.knobs(p, core), **(candidate.knobs or {})}
    return technique.build(p, knobs, core), made.arguments(technique), made.expected


def _epilogue(spec: Thresholds, sums: Array, p: DotProblem, random: Any) -> tuple[list[Array], Array]:
    """Thresholds and, where there is one, a second operand, made up; and the codes that they give."""
    channels = sums.shape[-1]
    flat = sums.reshape(-1, channels)
    dtype = spec.dtype or p.threshold_dtype

    def table(count: int) -> Array:
        picked = flat[random.integers(0, len(flat), (spec.rows, count, channels)), np.arange(channels)]
        return np.sort(picked, axis=1).astype(dtype)

    thresholds, flip = table(spec.levels), random.integers(0, 2, channels, np.uint8)
    if spec.lines:
        thresholds = _even(flat, spec.levels).astype(dtype)
        lines = fit_lines(thresholds, p.accumulator_bound())
        assert not isinstance(lines, str), lines
        return [thresholds, flip, lines], pack(reference.count_thresholds(sums, thresholds, flip), spec.out)
    falls = table(spec.falls) if spec.falls else None
    side = random.integers(0, spec.rows, sums.shape, np.uint8) if spec.side is not None else None
    tables = [thresholds, flip, *([] if falls is None else [falls])]
    if side is not None and spec.shift is not None:
        found, sums = slants.made_up(spec, sums, side, dtype, random)
        tables[0] = thresholds = found.thresholds
        tables.append(found.steps)
        codes = reference.count_thresholds(sums, thresholds, flip)
    else:
        codes = reference.count_thresholds(sums, thresholds, flip, side, falls)
    if side is not None and spec.side is not None:
        tables.append(pack(side, spec.side))
    return tables, pack(codes, spec.out)


def _even(sums: Array, levels: int) -> Array:
    """Thresholds ``(1, levels, C)`` at even distances over the sums ``(..., C)``, as after a scale and a bias."""
    low, high = sums.min(axis=0), sums.max(axis=0)
    step = np.maximum((high - low) / levels, 1.0)
    return np.ceil(low + step * (np.arange(levels)[:, None] + 0.5))[None]
