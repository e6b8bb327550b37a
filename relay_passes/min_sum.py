"""The smallest sum of tables over shared variables: variable elimination, exact, with a way out where that is too wide.

Eliminating a variable adds the tables that mention it and takes the minimum over it, which leaves one table over its
neighbours (Bertele and Brioschi, Nonserial Dynamic Programming, 1972; Dechter, Bucket elimination, 1999). On chains and
series-parallel graphs these tables stay small whatever the length. The variable with the smallest table goes next.

Where a table would have more than ``limit`` entries, some variables are held at the values of the best solution so far
(cutset conditioning), beginning with the given one: the rest is solved exactly, then others are held, until nothing
improves. The result is then never worse than the start, and says that it may not be the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
LIMIT = 1 << 18


@dataclass(frozen=True)
class Factor:
    """A table of costs, an axis for each of its variables; infinite where values do not go together."""

    variables: tuple[str, ...]
    table: Array

    def __post_init__(self) -> None:
        if self.table.ndim != len(set(self.variables)):
            raise ValueError(f"a table of {self.table.ndim} axes for the variables {self.variables}")

    def given(self, held: Mapping[str, int]) -> Factor:
        """The table where some variables have a value."""
        index: Any = tuple(held.get(name, slice(None)) for name in self.variables)
        return Factor(tuple(name for name in self.variables if name not in held), self.table[index])


@dataclass(frozen=True)
class Solution:
    """A value of each variable, what the tables sum to, and whether nothing can be smaller."""

    values: Mapping[str, int]
    cost: float
    exact: bool = True


class TooWide(Exception):
    """A table of the elimination would be too large."""

    def __init__(self, variables: Sequence[str]) -> None:
        super().__init__()
        self.variables = variables


def total(factors: Sequence[Factor], values: Mapping[str, int]) -> float:
    """What the tables sum to."""
    return float(sum(factor.table[tuple(values[name] for name in factor.variables)] for factor in factors))


def minimise(
    domains: Mapping[str, int], factors: Sequence[Factor], start: Mapping[str, int], limit: int = LIMIT
) -> Solution:
    """A smallest sum.

    Parameters
    ----------
    domains : mapping of str to int
        How many values each variable has.
    factors : sequence of Factor
        What is summed.
    start : mapping of str to int
        Values of a finite sum, for graphs that are too wide.
    limit : int
        Entries that a table may have.
    """
    try:
        values = _eliminate(domains, factors, limit)
        return Solution(values, total(factors, values))
    except TooWide:
        return _conditioned(domains, factors, start, limit)


def _eliminate(domains: Mapping[str, int], factors: Sequence[Factor], limit: int) -> dict[str, int]:
    """Values of a smallest sum."""
    buckets: dict[str, list[Factor]] = {name: [] for name in domains}
    for factor in factors:
        for name in factor.variables:
            buckets[name].append(factor)
    neighbours = {name: {n for f in found for n in f.variables} - {name} for name, found in buckets.items()}
    done: list[tuple[str, tuple[str, ...], npt.NDArray[np.intp]]] = []
    left = dict.fromkeys(domains)

    def size(name: str) -> int:
        return int(np.prod([domains[n] for n in neighbours[name]], dtype=np.float64)) * domains[name]

    while left:
        name = min(left, key=size)
        scope = tuple(sorted(neighbours[name]))
        if size(name) > limit:
            raise TooWide((name, *scope))
        summed = np.zeros([*(domains[n] for n in scope), domains[name]])
        for factor in buckets.pop(name):
            summed += _spread(factor, (*scope, name), domains)
            for other in factor.variables:
                if other != name:
                    buckets[other] = [f for f in buckets[other] if f is not factor]
        done.append((name, scope, summed.argmin(axis=-1)))
        message = Factor(scope, summed.min(axis=-1))
        for other in scope:
            buckets[other].append(message)
            neighbours[other] = (neighbours[other] | set(scope)) - {other, name}
        del left[name]
    values: dict[str, int] = {}
    for name, scope, best in reversed(done):
        values[name] = int(best[tuple(values[n] for n in scope)])
    return values


def _spread(factor: Factor, scope: tuple[str, ...], domains: Mapping[str, int]) -> Array:
    """A table with the axes of a scope, of one entry where it does not depend on a variable."""
    order = sorted(range(len(factor.variables)), key=lambda i: scope.index(factor.variables[i]))
    shape = [domains[name] if name in factor.variables else 1 for name in scope]
    return factor.table.transpose(order).reshape(shape)


def _conditioned(
    domains: Mapping[str, int], factors: Sequence[Factor], start: Mapping[str, int], limit: int
) -> Solution:
    best, cost = dict(start), total(factors, start)
    held_before: set[str] = set()
    while True:
        values, held = _with_some_held(domains, factors, best, held_before, limit)
        found = total(factors, values)
        if not found < cost and held <= held_before:
            return Solution(best, cost, exact=False)
        if found < cost:
            best, cost, held_before = values, found, held
        else:
            held_before = held_before | held


def _with_some_held(
    domains: Mapping[str, int],
    factors: Sequence[Factor],
    values: Mapping[str, int],
    last: set[str],
    limit: int,
) -> tuple[dict[str, int], set[str]]:
    """Exact but for variables held where tables grew too large, rather not those held before."""
    held: dict[str, int] = {}
    while True:
        free = {name: size for name, size in domains.items() if name not in held}
        try:
            found = _eliminate(free, [factor.given(held) for factor in factors], limit)
            return {**held, **found}, set(held)
        except TooWide as wide:
            name = min(wide.variables, key=lambda n: (n in last, -domains[n], n))
            held[name] = values[name]
