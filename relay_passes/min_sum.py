"""The smallest sum of tables over shared variables: variable elimination, exact, with a way out where that is too wide.

Eliminating a variable adds the tables that mention it and takes the minimum over it, which leaves one table over its
neighbours (Bertele and Brioschi, Nonserial Dynamic Programming, 1972; Dechter, Bucket elimination, 1999). On chains and
series-parallel graphs these tables stay small whatever the length. The variable with the smallest table goes next.

Where a table would have more than ``limit`` entries, some variables are held at the values of the best solution so far
(cutset conditioning), beginning with the given one: the rest is solved exactly, then others are held, until nothing
improves. The result is then never worse than the start, and says that it may not be the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
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
    best, cost, last = dict(start), total(factors, start) if start else np.inf, frozenset[str]()
    while True:
        found, held = _eliminate(domains, factors, limit, best, last)
        smaller = total(factors, found)
        if not held:
            return Solution(found, smaller)
        if not smaller < cost and held <= last:
            return Solution(best, cost, exact=False)
        last = held if smaller < cost else held | last
        best, cost = (found, smaller) if smaller < cost else (best, cost)


class _Tables:
    """The tables that are left, by variable, and which variables share one."""

    def __init__(self, domains: Mapping[str, int], factors: Sequence[Factor]) -> None:
        self.domains = domains
        self.of: dict[str, list[Factor]] = {name: [] for name in domains}
        self.beside: dict[str, set[str]] = {name: set() for name in domains}
        for factor in factors:
            self.add(factor)

    def add(self, factor: Factor) -> None:
        """One more."""
        for name in factor.variables:
            self.of[name].append(factor)
            self.beside[name] |= {*factor.variables} - {name}

    def size(self, name: str) -> float:
        """Entries of the table that eliminating a variable sums up."""
        return float(np.prod([self.domains[n] for n in self.beside[name]])) * self.domains[name]

    def take(self, name: str) -> list[Factor]:
        """The tables of a variable, which is gone then."""
        taken = self.of.pop(name)
        for other in self.beside.pop(name):
            self.beside[other].discard(name)
            self.of[other] = [f for f in self.of[other] if name not in f.variables]
        return taken


def _eliminate(
    domains: Mapping[str, int],
    factors: Sequence[Factor],
    limit: int,
    best: Mapping[str, int],
    last: Set[str],
) -> tuple[dict[str, int], frozenset[str]]:
    """Values of a smallest sum, and the variables that were held at those of ``best``, rather not the ``last`` ones."""
    tables = _Tables(domains, factors)
    held: dict[str, int] = {}
    done: list[tuple[str, tuple[str, ...], npt.NDArray[np.intp]]] = []
    while tables.of:
        name = min(tables.of, key=tables.size)
        scope = tuple(sorted(tables.beside[name]))
        if tables.size(name) > limit and scope:
            name = min((name, *scope), key=lambda n: (n in last, -domains[n], n))
            held[name] = best[name]
            for factor in tables.take(name):
                tables.add(factor.given(held))
            continue
        summed = np.zeros([*(domains[n] for n in scope), domains[name]])
        for factor in tables.take(name):
            summed += _spread(factor, (*scope, name), domains)
        done.append((name, scope, summed.argmin(axis=-1)))
        tables.add(Factor(scope, summed.min(axis=-1)))
    values = dict(held)
    for name, scope, argmin in reversed(done):
        values[name] = int(argmin[tuple(values[n] for n in scope)])
    return values, frozenset(held)


def _spread(factor: Factor, scope: tuple[str, ...], domains: Mapping[str, int]) -> Array:
    """A table with the axes of a scope, of one entry where it does not depend on a variable."""
    order = sorted(range(len(factor.variables)), key=lambda i: scope.index(factor.variables[i]))
    shape = [domains[name] if name in factor.variables else 1 for name in scope]
    return factor.table.transpose(order).reshape(shape)
