"""A `DotProblem` as a line of text that means the same on every machine, and the typical problem that it stands for.

Tuned rows are found by it. What a trained network happens to hold is left out where it hardly changes a kernel's speed:
zero points are told apart only by whether they need corrections, weights by whether they use their whole range, and the
layouts of the epilogue's codes, which the network around decides, do not count at all.
"""

from __future__ import annotations

import re
from dataclasses import replace

from schedules.counting import LINEAR_LEVELS
from schedules.dot_problem import DotProblem, Operand, Thresholds

# What tells an epilogue's own type.
_TYPES = {None: "", "int16": "n", "int32": "w"}
_N, _S = r"(\d+)", r"(-?\d+)"
_KEY = re.compile(
    rf"n{_N}h{_N}w{_N}c{_N}o{_N} k{_N}x{_N} s{_N}x{_N} d{_N}x{_N} p{_S},{_S},{_S},{_S} g{_N} "
    rf"a{_N}(x2)?([zn])? w{_N}(x2)?([tfr0uc])(?: to{_N}/{_N}([nw])?(?: side{_N}(?:<<{_N})?)?(?: falls{_N})?| sums)"
)


def problem_key(problem: DotProblem) -> str:
    """The line: ``n1h56w56c64o64 k3x3 s1x1 d1x1 p1,1,1,1 g1 a2 w2f to2/3``.

    Activations: bits, ``x2`` for steps of two, ``z`` where 0 has a code other than 0, ``n`` where it has none. Weights:
    the same, and one of ``t`` (-1, 0, +1), ``0`` (offset 0), ``f`` (one offset), ``r`` (one, the least code unused),
    ``u`` (values outside a signed byte), ``c`` (an offset per channel).
    Then ``sums``, or the codes' bits and levels (``n`` where they are counted in 16 bits as weights are, ``w`` where a
    shift takes 32), the second operand's
    bits (``side2``, ``side2<<3`` where its code moves the shifted accumulator) and falls.
    """
    p, e = problem, problem.epilogue
    key = f"n{p.batch}h{p.height}w{p.width}c{p.channels}o{p.out_channels} k{_pair(p.kernel)} s{_pair(p.stride)} "
    key += f"d{_pair(p.dilation)} p{','.join(map(str, p.padding))} g{p.groups} "
    key += f"a{_width(p.a)}{_activations(p.a)} w{_width(p.w)}{_weights(p.w)}"
    if e is None:
        return f"{key} sums"
    side, falls = (f" {name}{count}" if count else "" for name, count in (("side", e.side_bits), ("falls", e.falls)))
    side += "" if e.shift is None else f"<<{e.shift}"
    return f"{key} to{e.bits}/{e.levels}{_TYPES[e.dtype]}{side}{falls}"


def problem_of(key: str) -> DotProblem:
    """The typical problem of a key; its own key is the same.

    Raises
    ------
    ValueError
        If the text is no key.
    """
    match = _KEY.fullmatch(key)
    if match is None:
        raise ValueError(f"no problem's key: {key!r}")
    found = match.groups()
    n, h, w, c, o, ky, kx, sy, sx, dy, dx, top, left, bottom, right, g = map(int, found[:16])
    a_bits, a_twice, a_zero, w_bits, w_twice, w_kind = found[16:22]
    bits, count, side, falls = (int(found[at] or 0) for at in (22, 23, 25, 27))
    shift = None if found[26] is None else int(found[26])
    problem = DotProblem(
        n,
        h,
        w,
        c,
        o,
        _typical_activations(int(a_bits), 2 if a_twice else 1, a_zero or ""),
        _typical_weights(int(w_bits), 2 if w_twice else 1, w_kind),
        (ky, kx),
        (sy, sx),
        (dy, dx),
        (top, left, bottom, right),
        g,
    )
    if not bits:
        return problem
    # Many thresholds mostly rise evenly, as a scale and a bias leave them.
    lines = count > LINEAR_LEVELS and not side and not falls
    dtype = next(name for name, letter in _TYPES.items() if letter == (found[24] or ""))
    epilogue = Thresholds(bits, count, side, falls=falls, lines=lines, shift=shift, dtype=dtype)
    return replace(problem, epilogue=replace(epilogue, side=epilogue.out) if side else epilogue)


def family_of(key: str) -> str:
    """The key without its epilogue: what these problems share decides most of a kernel's speed."""
    return re.split(r" to| sums", key)[0]


def _pair(values: tuple[int, int]) -> str:
    return f"{values[0]}x{values[1]}"


def _width(operand: Operand) -> str:
    return f"{operand.bits}{'x2' if operand.multiplier == 2 else ''}"


def _activations(a: Operand) -> str:
    if a.offset == 0:
        return ""
    return "n" if a.zero_code is None else "z"


def _weights(w: Operand) -> str:
    low, high = w.values
    if not w.one_offset:
        return "c"
    if w.bits == 2 and w.multiplier == 1 and low >= -1 and high <= 1:
        return "t"
    if low < -128 or high > 127:
        return "u"
    if w.offset == 0:
        return "0"
    return "r" if w.multiplier == 1 and w.bits > 1 and max(-low, high) < 1 << (w.bits - 1) else "f"


def _typical_activations(bits: int, multiplier: int, zero: str) -> Operand:
    if not zero:
        return Operand(bits, multiplier)
    if zero == "z":
        return Operand(bits, multiplier, -multiplier << (bits - 1))
    return Operand(bits, multiplier, -((1 << bits) - 1) if multiplier == 2 else 1)


def _typical_weights(bits: int, multiplier: int, kind: str) -> Operand:
    half, most = 1 << (bits - 1), (1 << bits) - 1
    if kind == "c":
        return Operand(bits, multiplier, offset_bound=multiplier * half)
    if kind == "t":
        return Operand(bits, multiplier, -1, uniform=True, span=(0, 2))
    if kind == "0":
        # Of 8 bits only codes that stand for signed bytes.
        return Operand(bits, multiplier, span=(0, min(most, 127 // multiplier)))
    offset = {"u": -200}.get(kind, -most if multiplier == 2 and bits < 8 else -half)
    return Operand(bits, multiplier, offset, uniform=True, span=_typical_span(bits, multiplier, kind))


def _typical_span(bits: int, multiplier: int, kind: str) -> tuple[int, int]:
    if kind == "r":
        return 1, (1 << bits) - 1
    if kind == "f" and multiplier == 2 and bits == 8:
        return 0, 127
    return 0, (1 << bits) - 1
