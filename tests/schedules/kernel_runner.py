"""Operands for low-bit kernels, and running many kernels from one compilation, here or on a board."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import te

from schedules import reference
from schedules.cores import CORES, CoreSpec, host_core
from schedules.dot_problem import DotProblem, Thresholds
from schedules.layout import pack
from schedules.slants import fit_slants, narrowed, reach
from schedules.techniques import TECHNIQUES, Technique
from schedules.threshold_lines import fit_lines
from tvm_lowbit.boards import Session
from tvm_lowbit.linker import find_linker

Array = npt.NDArray[Any]

# The techniques that take any shape and width; the others have tests of their own.
SPECIAL = (
    *("bit_madd", "bit_select", "depthwise", "mla_madd", "tbl_lookup", "ternary"),
    *("u8_mla", "winograd", "winograd_mla", "winograd_sdot"),
)
GENERAL = tuple(name for name in TECHNIQUES if name not in SPECIAL)


def placed(cores: Sequence[str]) -> list[tuple[str, str]]:
    """Each general technique on those of the cores that have its instructions; where none has, on one that has."""

    def able(name: str, among: Iterable[str]) -> list[str]:
        rows = {core: host_core() if core == "host" else CORES[core] for core in among}
        return [core for core, row in rows.items() if TECHNIQUES[name].needs <= row.features]

    return [(core, name) for name in GENERAL for core in able(name, cores) or able(name, CORES)[:1]]


@dataclass(frozen=True)
class Kernel:
    """A PrimFunc, its arguments in order, and what it must write."""

    function: Any
    arguments: Sequence[Array]
    expected: Array
    title: str


@dataclass(frozen=True)
class Machine:
    """A core and the session that runs its code; None is this process."""

    core: CoreSpec
    session: Session | None = None

    def load(self, functions: Mapping[str, Any]) -> Any:
        """Compile all functions at once and load them."""
        symbols = {name: function.with_attr("global_symbol", name) for name, function in functions.items()}
        compiled = tvm.compile(tvm.IRModule(symbols), tvm.target.Target(self.core.target_dict()))
        if self.session is None:
            return compiled
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernels.so"
            compiled.export_library(str(path), fcompile=find_linker(self.core.mtriple.split("-")[0]))
            return self.session.load(path)

    def call(self, function: Any, arguments: Sequence[Array], out: Array) -> Array:
        """What the function writes over ``out``."""
        if self.session is None:
            tensors = [tvm.runtime.tensor(array) for array in (*arguments, out)]
            function(*tensors)
        else:
            tensors = [self.session.tensor(array) for array in (*arguments, out)]
            with self.session.guarded("running a kernel"):
                function(*tensors)
        return np.asarray(tensors[-1].numpy())

    def check(self, kernels: Sequence[Kernel]) -> None:
        """Run the kernels and compare all that they write bit for bit."""
        # Compiling takes most of the time, and widths that only the operands know of give the same code.
        distinct: list[Any] = []
        which = [_place_of(kernel.function, distinct) for kernel in kernels]
        module = self.load({f"kernel{i}": function for i, function in enumerate(distinct)})
        for i, kernel in zip(which, kernels, strict=True):
            # What a kernel forgets to write must not look right by chance.
            out = np.full_like(kernel.expected, 0xA5)
            got = self.call(module[f"kernel{i}"], kernel.arguments, out)
            assert got.dtype == kernel.expected.dtype
            np.testing.assert_array_equal(got, kernel.expected, err_msg=f"{self.core.name}: {kernel.title}")


def _place_of(function: Any, distinct: list[Any]) -> int:
    """Where in the list an equal function is, appended if there is none."""
    for i, other in enumerate(distinct):
        if tvm_ffi.structural_equal(function, other):
            return i
    distinct.append(function)
    return len(distinct) - 1


@dataclass(frozen=True)
class Operands:
    """Codes of both sides, the offset of each output channel's weights, and the tables of the epilogue."""

    activations: Array
    weights: Array
    weight_offset: Array
    tables: tuple[Array, ...] = ()


def generator(of: object) -> np.random.Generator:
    """Random numbers that depend on nothing but ``repr(of)``."""
    return np.random.default_rng(zlib.crc32(repr(of).encode()))


def random_operands(problem: DotProblem) -> Operands:
    """Codes, offsets and thresholds of the whole range."""
    p, random = problem, generator(problem)
    activations = random.integers(0, p.a.max_code, (p.batch, p.height, p.width, p.channels), np.uint8, endpoint=True)
    least, most = p.w.span or (0, p.w.max_code)
    weights = random.integers(least, most, (p.out_channels, p.group_channels, *p.kernel), np.uint8, endpoint=True)
    low, high = (p.w.offset,) * 2 if p.w.uniform else (-p.w.offset_bound, p.w.offset_bound)
    operands = Operands(activations, weights, random.integers(low, high, p.out_channels, np.int32, endpoint=True))
    return operands if p.epilogue is None else with_tables(problem, p.epilogue, operands)


def constant_operands(problem: DotProblem, activation: int, weight: int, offset: int) -> Operands:
    """One value everywhere."""
    p = problem
    return Operands(
        np.full((p.batch, p.height, p.width, p.channels), activation, np.uint8),
        np.full((p.out_channels, p.group_channels, *p.kernel), weight, np.uint8),
        np.full(p.out_channels, offset, np.int32),
    )


def random_tables(spec: Thresholds, accumulators: Array, bound: int, dtype: str, random: Any) -> tuple[Array, Array]:
    """Thresholds ``(rows, levels, C)`` among accumulators ``(..., C)`` and at the ends of the range, and flips."""
    channels = accumulators.shape[-1]
    per_channel = accumulators.reshape(-1, channels)
    pick = random.integers(0, len(per_channel), (spec.rows, spec.levels, channels))
    # Many are equal to an accumulator or one off it: where >= and > differ.
    tables = per_channel[pick, np.arange(channels)] + random.integers(-1, 2, pick.shape)
    # At least one is, however few thresholds there are.
    tables[0, 0, channels // 2] = per_channel[0, channels // 2]
    # One channel never reaches its last threshold, another always reaches its first.
    tables[:, -1, 0] = bound + 1
    tables[:, 0, -1] = -bound
    thresholds = np.sort(tables, axis=1).astype(dtype)
    np.testing.assert_array_equal(thresholds, np.sort(tables, axis=1), err_msg="thresholds do not fit their type")
    return thresholds, random.integers(0, 2, channels, np.uint8)


def even_tables(spec: Thresholds, accumulators: Array, bound: int, dtype: str) -> Array:
    """Thresholds at even distances; some channels reach them all, or none, or always some."""
    low, high = (end(accumulators.reshape(-1, accumulators.shape[-1]), axis=0) for end in (np.min, np.max))
    step = np.maximum((high - low) / spec.levels, 3.0) * np.resize([1.0, 1.5, 40.0, 0.7], low.shape)
    tables = np.ceil(low + step * (np.arange(spec.levels)[:, None] + np.resize([0.5, -3.2, 7.0], low.shape)))
    tables = np.where(tables > bound, np.iinfo(dtype).max, np.maximum(tables, -bound)).astype(np.int64)
    tables[:, -1] = np.where(np.arange(spec.levels) < spec.levels // 2, -bound, np.iinfo(dtype).max)
    return tables[None].astype(dtype)


def slanted_tables(spec: Thresholds, accumulators: Array, dtype: str, random: Any) -> Array:
    """A row for each code of a second operand, evenly apart but for rounding; some are beyond the type's ends."""
    flat = accumulators.reshape(-1, accumulators.shape[-1])
    picked = flat[random.integers(0, len(flat), (1, spec.levels, flat.shape[1])), np.arange(flat.shape[1])]
    apart = random.integers(-(flat.std() // 2 + 2), flat.std() // 2 + 2, flat.shape[1]) + random.random(flat.shape[1])
    tables = np.ceil(np.sort(picked, axis=1) + 0.25 - np.arange(1 << spec.side_bits)[:, None, None] * apart)
    tables[:, -1, 0], tables[:, 0, -1] = np.iinfo(dtype).max, np.iinfo(dtype).min
    return np.clip(tables, np.iinfo(dtype).min, np.iinfo(dtype).max).astype(dtype)


def with_tables(problem: DotProblem, spec: Thresholds, operands: Operands) -> Operands:
    """The operands with thresholds, flips and, if the epilogue has one, a side operand in its layout."""
    random = generator((problem, "tables"))
    accumulators = reference.accumulate(problem, operands.activations, operands.weights, operands.weight_offset)
    bound, dtype = problem.accumulator_bound(), problem.threshold_dtype
    tables: tuple[Array, ...] = random_tables(spec, accumulators, bound, dtype, random)
    if spec.lines:
        tables = even_tables(spec, accumulators, bound, dtype), tables[1]
    if spec.dtype == "int16":
        ends = reach(problem, operands.weights, operands.weight_offset)
        assert dtype == "int32", "there is nothing to be made narrow"
        short = narrowed([tables[0]], *ends)
        assert short is not None, ends
        tables, dtype = (*short, tables[1]), "int16"
    if spec.shift is not None:
        tables = slanted_tables(spec, accumulators, dtype, random), tables[1]
    if spec.side is not None:
        tables += (random.integers(0, 1 << spec.side_bits, accumulators.shape, np.uint8),)
    return Operands(operands.activations, operands.weights, operands.weight_offset, tables)


def expected_output(problem: DotProblem, operands: Operands) -> Array:
    """What the definition says: int32 accumulators, or packed codes."""
    sums = reference.accumulate(problem, operands.activations, operands.weights, operands.weight_offset)
    if problem.epilogue is None:
        exact = sums.astype(np.int32)
        np.testing.assert_array_equal(exact, sums, err_msg="the accumulators themselves do not fit int32")
        return exact
    return pack(reference.count_thresholds(sums, *operands.tables), problem.epilogue.out)


def build_kernel(
    technique: Technique,
    problem: DotProblem,
    core: CoreSpec,
    operands: Operands | None = None,
    knobs: Mapping[str, int] | None = None,
) -> Kernel:
    """The technique's kernel for a problem, with its default knobs where none are given."""
    operands = operands or random_operands(problem)
    knobs = {**technique.knobs(problem, core), **(knobs or {})}
    tables = list(operands.tables)
    if problem.epilogue is not None and problem.epilogue.side is not None:
        tables[2] = pack(tables[2], problem.epilogue.side)
    if problem.epilogue is not None and problem.epilogue.lines:
        lines = fit_lines(tables[0], problem.accumulator_bound())
        assert not isinstance(lines, str), lines
        tables.append(lines)
    if problem.epilogue is not None and problem.epilogue.shift is not None:
        slants = fit_slants(
            tables[0], *reach(problem, operands.weights, operands.weight_offset), problem.epilogue.dtype
        )
        assert not isinstance(slants, str), slants
        tables = [slants.thresholds, tables[1], slants.steps, *tables[2:]]
        problem = replace(problem, epilogue=replace(problem.epilogue, shift=slants.shift))
    arguments = [
        pack(operands.activations, technique.in_layout(problem)),
        *technique.constants(problem, operands.weights, operands.weight_offset),
        *tables,
    ]
    function = technique.build(problem, knobs, core)
    return Kernel(function, arguments, expected_output(problem, operands), f"{technique.name} {knobs} {problem}")


def check_technique(name: str, problems: Sequence[DotProblem], machine: Machine) -> None:
    """Hold a technique against the definition on the problems it takes."""
    technique, core = TECHNIQUES[name], machine.core
    declined = [technique.declines(problem, core) for problem in problems]
    taken = [problem for problem, reason in zip(problems, declined, strict=True) if reason is None]
    assert taken, f"{name} declines every problem: {declined}"
    machine.check([build_kernel(technique, problem, core) for problem in taken])


def evaluate(shape: tuple[int, ...], element: Callable[..., Any], source: Array) -> Array:
    """Compile ``element(read, *position)`` for this machine and evaluate it at every position of ``shape``."""
    packed = te.placeholder(source.shape, str(source.dtype), "packed")
    out = te.compute(shape, lambda *i: element(lambda *at: packed(*at), *i), "out")
    function = te.create_prim_func([packed, out]).with_attr("global_symbol", "main")
    compiled = tvm.compile(tvm.IRModule({"main": function}), tvm.target.Target({"kind": "llvm"}))
    result = tvm.runtime.empty(shape, str(out.dtype))
    compiled["main"](tvm.runtime.tensor(source), result)
    return np.asarray(result.numpy())
