"""What codes of two operands ``u8_mla`` multiplies in a byte, and how often it empties it: pairs, chunks, centring."""

from __future__ import annotations

from schedules.compact import per_byte
from schedules.dot_problem import DotProblem, Operand
from schedules.ordered_pairs import UNIT, body

# A round of the loop multiplies no more pairs than this.
MOST_PAIRS = 32


def pairs(problem: DotProblem) -> int:
    """Pairs of codes of a patch, filled up to eight bytes."""
    return -(-problem.k // (2 * UNIT)) * UNIT


def padded_pairs(problem: DotProblem) -> int:
    """The same, filled up to whole vectors of packed codes."""
    per = per_byte(problem.w.bits)
    return -(-pairs(problem) // per) * per


def largest_product(problem: DotProblem) -> int:
    """Of two codes."""
    return problem.a.max_code * (problem.w.span or (0, problem.w.max_code))[1]


def fitting(problem: DotProblem) -> int:
    """Pairs of products that fit a byte."""
    return 255 // max(1, 2 * largest_product(problem))


def centre(operand: Operand) -> int:
    """The middle of an operand's codes."""
    return 1 << (operand.bits - 1)


def products(problem: DotProblem) -> tuple[int, int]:
    """The least and the largest product of centred codes."""
    p = problem
    activations = [code - centre(p.a) for code in (0, p.a.max_code)]
    weights = [code - centre(p.w) for code in p.w.span or (0, p.w.max_code)]
    corners = [a * w for a in activations for w in weights]
    return min(corners), max(corners)


def fitting_centred(problem: DotProblem) -> int:
    """Pairs of products of centred codes whose range fits a byte; 0 where the weights' zero is not their centre.

    Otherwise the sum of the codes would be needed, of which centring leaves no trace.
    """
    w, (low, high) = problem.w, products(problem)
    if not (w.one_offset and w.multiplier == 1 and w.offset == -centre(w)):
        return 0
    # Weights of a single code next to codes of one value leave a range of 0, which any number of pairs fits.
    return min(255 // max(1, 2 * (high - low)), 127 // max(1, high), 128 // max(1, -low))


def centred(problem: DotProblem) -> bool:
    """Whether centring saves more flushes than what lanes begin with costs."""
    return 1.5 * short(fitting(problem)) < short(fitting_centred(problem)) and short(fitting_centred(problem)) > 0


def short(fitting: int) -> int:
    """The most pairs between flushes that fit, while the loop over them stays short."""
    return max((n for n in range(1, min(fitting, MOST_PAIRS) + 1) if body(n) <= MOST_PAIRS), default=0)


def chunk(problem: DotProblem) -> int:
    """Pairs between flushes."""
    return short(fitting_centred(problem) if centred(problem) else fitting(problem))


def bias(problem: DotProblem) -> int:
    """What lanes begin with: see `PairDot`."""
    return 128 - 512 * chunk(problem) * products(problem)[0] if centred(problem) else 0


def span(problem: DotProblem) -> int:
    """Flushes that fit 16 bits, at least as many as whole loads need."""
    p = problem
    low, high = products(p)
    largest = high - low if centred(p) else largest_product(p)
    return 65535 // max(1, 2 * largest * chunk(p))


def needs_sum(problem: DotProblem) -> bool:
    """Whether the sum of a patch's codes is needed."""
    return problem.needs_code_sum and not centred(problem)
