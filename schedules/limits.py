"""Cycles that no schedule of a technique can beat on a core: its arithmetic, with loads and all else left out.

Each technique's inner step is a handful of vector instructions that do a fixed number of multiply-accumulates; the
core's execution units say how fast those can start (`schedules.pipelines`). What must be done only every so many
steps, since narrow accumulators overflow, counts by its share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from schedules.cores import CoreSpec
from schedules.dot_problem import DotProblem
from schedules.pipelines import PIPELINES, Pipeline

# Multiply-accumulates, and how many 128-bit instructions of each class they take.
Step = tuple[float, Mapping[str, float]]

# A 3x3 convolution by F(2x2, 3x3) takes 16 products where the direct one takes 36.
WINOGRAD_GAIN = 36 / 16
# A 4x4 tile takes 36 products where the direct convolution takes 144.
FOUR_GAIN = 144 / 36
# A byte holds 31 popcounts of bytes, each at most 8.
_BYTE_COUNTS = 31


def _bit_serial(p: DotProblem) -> list[Step]:
    macs = 128 / (p.a.bits * p.w.bits)
    # Pairwise sums into 16 bits at every step, or sums in bytes that are widened just before they overflow.
    return [
        (macs, {"logic": 1, "count": 1, "adalp": 1}),
        (macs, {"logic": 1, "count": 1, "simple": 1, "adalp": 1 / _BYTE_COUNTS}),
    ]


def _bit_select(p: DotProblem) -> list[Step]:
    # EOR and two BSL, which are started as CNT is; each counted and added in bytes.
    step = {"logic": 1, "count": 5, "simple": 3, "adalp": 3 / _BYTE_COUNTS}
    return [(128, step)] if (p.a.bits, p.w.bits) == (2, 2) else []


def _bit_madd(p: DotProblem) -> list[Step]:
    # Three vector operations each for three counts give 128 products; beside each of them an instruction of general
    # registers: of a word of 24 products two AND, three multiplications and an addition.
    return [(128 + 9 * 24 / 6, {"logic": 3, "count": 3, "simple": 3, "adalp": 3 / _BYTE_COUNTS})]


def _ternary(p: DotProblem) -> list[Step]:
    # popcount((a XOR sign) AND mask): both planes of the weights in one pass over each plane of the activations.
    macs = 128 / p.a.bits
    return [
        (macs, {"logic": 2, "count": 1, "adalp": 1}),
        (macs, {"logic": 2, "count": 1, "simple": 1, "adalp": 1 / _BYTE_COUNTS}),
    ]


def _u8_mla(p: DotProblem) -> list[Step]:
    products = 255 // (p.a.max_code * p.w.max_code)
    return [(16, {"mul": 1, "adalp": 1 / products})] if products else []


def _mla_madd(p: DotProblem) -> list[Step]:
    # Beside each vector operation half a multiplication of eight products: the core starts one every other cycle.
    return [(macs + 8 / 2, counts) for macs, counts in _u8_mla(p)]


def _magnitude(p: DotProblem) -> int:
    """The least that weights' magnitudes can be: those around the middle of the codes that occur."""
    least, most = p.w.span or (0, p.w.max_code)
    return max(1, (most - least + 1) // 2)


def _smlal(p: DotProblem) -> list[Step]:
    # 16 bits hold that many products.
    products = 65535 // (p.a.max_code * _magnitude(p))
    if products < 4:  # bytes: a product of each half, then widened
        return [(16, {"mul_long": 2, "adalp": 1})]
    return [(8, {"mul_long": 1, "adalp": 1 / products})]


def _tbl_lookup(p: DotProblem) -> list[Step]:
    # One look-up sums 4 activations for 16 outputs; its indices are unpacked four registers at a time, its bytes
    # widened, half by half, before they overflow.
    sums = 255 // (4 * p.a.max_code)
    return [(64 / p.w.bits, {"tbl1": 1, "simple": 1.25, "simple3": 2 / sums})] if sums else []


def _sdot(p: DotProblem) -> list[Step]:
    return [(16, {"dot": 1})]


def _winograd(p: DotProblem) -> list[Step]:
    return [(WINOGRAD_GAIN * 8, {"mul_long": 1})]


def _winograd_sdot(p: DotProblem) -> list[Step]:
    return [(WINOGRAD_GAIN * 16, {"dot": 1})]


def _winograd_mla(p: DotProblem) -> list[Step]:
    return [(FOUR_GAIN * 8, {"mul": 1})]


def _depthwise(p: DotProblem) -> list[Step]:
    # Bytes where all taps' products fit one, else 16 bits, else each product is widened again.
    largest = p.k * min(p.a.max_code, 128) * _magnitude(p)
    if largest < 1 << 7:
        return [(16, {"mul": 1})]
    return [(8, {"mul_long": 1} if largest < 1 << 15 else {"mul_long": 1, "simple": 2})]


_STEPS: Mapping[str, Callable[[DotProblem], list[Step]]] = MappingProxyType(
    {
        "bit_serial": _bit_serial,
        "bit_select": _bit_select,
        "bit_madd": _bit_madd,
        "ternary": _ternary,
        "mla_madd": _mla_madd,
        "u8_mla": _u8_mla,
        "smlal": _smlal,
        "tbl_lookup": _tbl_lookup,
        "sdot": _sdot,
        "winograd": _winograd,
        "winograd_sdot": _winograd_sdot,
        "winograd_mla": _winograd_mla,
        "depthwise": _depthwise,
    }
)


def limit_cycles(problem: DotProblem, technique: str, core: CoreSpec) -> float | None:
    """Fewest cycles in which the core can do a layer's arithmetic by a technique, on one thread.

    Parameters
    ----------
    problem : DotProblem
        The layer.
    technique : str
        Name of a row of `schedules.techniques.TECHNIQUES`.
    core : CoreSpec
        Where it runs.

    Returns
    -------
    float or None
        None for techniques without a limit of their own (``portable``, ``reference``), for widths that a technique
        cannot do in its accumulators, and for cores whose execution units are not known.
    """
    if core.name not in PIPELINES or technique not in _STEPS:
        return None
    cycles = [
        problem.macs / macs * start_cycles(PIPELINES[core.name], counts)
        for macs, counts in _STEPS[technique](problem)
        if "dot" not in counts or "dotprod" in core.features
    ]
    return min(cycles, default=None)


def start_cycles(pipeline: Pipeline, counts: Mapping[str, float]) -> float:
    """Fewest cycles in which a core can start so many 128-bit instructions of each class."""
    busy = dict.fromkeys(pipeline.units, 0.0)
    for kind, count in counts.items():
        for unit, amount in pipeline.costs[kind].wide.items():
            busy[unit] += count * amount
    slots = sum(count * pipeline.slots(kind, True) for kind, count in counts.items())
    return max([slots / pipeline.issue, *(amount / pipeline.units[unit] for unit, amount in busy.items())])
