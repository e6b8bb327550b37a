"""``einsum`` as products: sums over what one operand has alone, then a matmul or a product for each further one.

A matmul of codes and weights is a low-bit layer, one of two tensors that vary has an attribution rule, and both have
better kernels than a loop over all letters. Operands are multiplied from the left to the right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax

from relay_passes.ops import constant, literal, op_name, shape_of
from relay_passes.positions import as_takes

EINSUM = "relax.einsum"
Emit = Callable[[Any, str], Any]


@dataclass(frozen=True)
class _Term:
    """A tensor and the letters of its axes; ``part`` is the name that it is still to be bound under."""

    expr: Any
    letters: tuple[str, ...]
    part: str = ""


@dataclass(frozen=True)
class _Writer:
    """Binds terms, and knows the extent of each letter."""

    emit: Emit
    extents: Mapping[str, int]

    def bound(self, term: _Term) -> Any:
        """Its variable, or constant."""
        return self.emit(term.expr, term.part) if term.part else term.expr

    def sizes(self, letters: Sequence[str]) -> list[int]:
        """Their extents."""
        return [self.extents[v] for v in letters]

    def arranged(self, term: _Term, letters: Sequence[str]) -> _Term:
        """The same with its axes in another order."""
        if tuple(letters) == term.letters:
            return term
        order, array = [term.letters.index(v) for v in letters], constant(term.expr)
        if array is not None:
            return _Term(literal(np.require(array.transpose(order), requirements="C")), tuple(letters))
        return _Term(relax.op.permute_dims(self.bound(term), order), tuple(letters), "arranged")

    def shaped(self, term: _Term, letters: Sequence[str], shape: Sequence[int]) -> Any:
        """Bound, with its axes in this order and of another shape."""
        term = self.arranged(term, letters)
        if self.sizes(letters) == list(shape):
            return self.bound(term)
        if (array := constant(term.expr)) is not None:
            return literal(array.reshape(shape))
        return self.emit(relax.op.reshape(self.bound(term), relax.ShapeExpr(list(shape))), "shaped")


def multiplied_out(call: Any, emit: Emit) -> Any | None:
    """What an einsum computes.

    Parameters
    ----------
    call : expression
        Any call.
    emit : callable
        ``emit(expr, part)`` binds one of its parts.

    Returns
    -------
    expression or None
        Of the call's shape, bound or not; None where it is no einsum of float32, or its operands do not have one extent
        for each letter.
    """
    if op_name(call) != EINSUM or not isinstance(call.args[0], relax.Tuple):
        return None
    fields = list(call.args[0].fields)
    found = letters_of(str(call.attrs.subscripts), [len(shape_of(f)) for f in fields])
    if found is None or {str(f.ty.dtype) for f in fields} != {"float32"}:
        return None
    operands, result = found
    extents: dict[str, int] = {}
    for field, own in zip(fields, operands, strict=True):
        for letter, extent in zip(own, shape_of(field), strict=True):
            if extents.setdefault(letter, extent) != extent:
                return None
    if not set(result) <= set(extents) or len(set(result)) != len(result):
        return None
    to = _Writer(emit, extents)
    terms = [_diagonal(_Term(f, own), to) for f, own in zip(fields, operands, strict=True)]
    terms = [_summed(t, set(result).union(*(o.letters for o in terms if o is not t)), to) for t in terms]
    # The letter that comes first in the result is that of the items, as a rule: its operand is no weight.
    if len(terms) == 2 and result and result[0] not in terms[0].letters:
        terms.reverse()
    whole = terms[0]
    for i, term in enumerate(terms[1:], 1):
        kept = set(result).union(*(t.letters for t in terms[i + 1 :]))
        whole = _product(whole, term, kept, result, to)
    return to.arranged(whole, result).expr


def letters_of(subscripts: str, ranks: Sequence[int]) -> tuple[list[tuple[str, ...]], tuple[str, ...]] | None:
    """The letters of each operand and of the result; the axes of an ellipsis are called -1, -2, ... from its end.

    Without an arrow the result has the ellipsis, then all letters that stand once, in alphabetical order. None where
    they do not fit the ranks.
    """
    left, arrow, right = subscripts.replace(" ", "").partition("->")
    written = left.split(",")
    if len(written) != len(ranks):
        return None
    widths = [rank - len(text.replace("...", "")) for text, rank in zip(written, ranks, strict=True)]
    if any(w < 0 or (w > 0 and "..." not in text) for text, w in zip(written, widths, strict=True)):
        return None
    operands = [_letters(text, width) for text, width in zip(written, widths, strict=True)]
    if arrow:
        return operands, _letters(right, max(widths))
    counts = Counter(v for text in written for v in text.replace(".", ""))
    return operands, (*_letters("...", max(widths)), *sorted(v for v, count in counts.items() if count == 1))


def _letters(text: str, width: int) -> tuple[str, ...]:
    before, ellipsis, after = text.partition("...")
    return (*before, *(str(k) for k in range(-width, 0) if ellipsis), *after)


def _diagonal(term: _Term, to: _Writer) -> _Term:
    """A letter that an operand has twice reads its diagonal."""
    once = tuple(dict.fromkeys(term.letters))
    if once == term.letters:
        return term
    along = np.indices(to.sizes(once), sparse=True)
    at = [along[once.index(v)] for v in term.letters]
    places = np.ravel_multi_index(tuple(np.broadcast_arrays(*at)), tuple(to.sizes(term.letters)))
    return _Term(as_takes(term.expr, places, to.emit), once, "diagonal")


def _summed(term: _Term, kept: set[str], to: _Writer) -> _Term:
    """Over the letters that no other term and not the result has."""
    axes = [i for i, v in enumerate(term.letters) if v not in kept]
    if not axes:
        return term
    return _Term(relax.op.sum(to.bound(term), axes), tuple(v for v in term.letters if v in kept), "sum")


def _product(a: _Term, b: _Term, kept: set[str], result: Sequence[str], to: _Writer) -> _Term:
    """Of two terms, summed over what both have and neither the result nor a term behind them."""
    order = [v for v in dict.fromkeys((*result, *a.letters, *b.letters)) if v in kept]
    both = [v for v in order if v in a.letters and v in b.letters]
    over = [v for v in a.letters if v not in kept]
    if not over:
        letters = [v for v in order if v in a.letters or v in b.letters]
        factors = []
        for term in (a, b):
            shape = [to.extents[v] if v in term.letters else 1 for v in letters]
            factors.append(to.shaped(term, [v for v in letters if v in term.letters], shape))
        return _Term(relax.op.multiply(*factors), tuple(letters), "product")
    left, right = ([v for v in own.letters if v not in (*both, *over)] for own in (a, b))
    # Beside items rows are one axis; where there are none they may be several.
    rows = [int(np.prod(to.sizes(left)))] if both else to.sizes(left)
    summed, columns = int(np.prod(to.sizes(over))), int(np.prod(to.sizes(right)))
    one = to.shaped(a, [*both, *left, *over], [*to.sizes(both), *rows, summed])
    other = to.shaped(b, [*both, *over, *right], [*to.sizes(both), summed, columns])
    letters, product = [*both, *left, *right], relax.op.matmul(one, other)
    if to.sizes(letters) == [*to.sizes(both), *rows, columns]:
        return _Term(product, tuple(letters), "product")
    shape = relax.ShapeExpr(to.sizes(letters))
    return _Term(relax.op.reshape(to.emit(product, "product"), shape), tuple(letters), "shaped")
