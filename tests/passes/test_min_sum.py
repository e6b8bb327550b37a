"""Elimination against all combinations, and the way out where tables would be too large."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relay_passes.min_sum import Factor, minimise, total


def problem(seed: int, variables: int, factors: int) -> tuple[dict[str, int], list[Factor]]:
    """Random tables over one to three variables, some combinations ruled out, but never those of zeros only."""
    random = np.random.default_rng(seed)
    domains = {f"v{i}": int(random.integers(1, 4)) for i in range(variables)}
    found = []
    for _ in range(factors):
        names = tuple(random.choice(list(domains), min(variables, int(random.integers(1, 4))), replace=False).tolist())
        table = random.integers(0, 20, [domains[n] for n in names]).astype(float)
        table[random.random(table.shape) < 0.1] = np.inf
        table[(0,) * len(names)] = 9.0
        found.append(Factor(names, table))
    return domains, found


def smallest(domains: dict[str, int], factors: list[Factor]) -> float:
    """By trying everything."""
    every = product(*(range(size) for size in domains.values()))
    return min(total(factors, dict(zip(domains, values, strict=True))) for values in every)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(0, 14))
def test_the_smallest_of_all_combinations(seed: int, variables: int, factors: int) -> None:
    """On any graph."""
    domains, found = problem(seed, variables, factors)
    solution = minimise(domains, found, dict.fromkeys(domains, 0))
    assert solution.exact
    assert set(solution.values) == set(domains)
    assert solution.cost == total(found, solution.values) == smallest(domains, found)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(3, 8), st.integers(4, 14), st.integers(3, 12))
def test_too_wide_is_never_worse_than_the_start(seed: int, variables: int, factors: int, limit: int) -> None:
    """Tables of a few entries only: values that belong together, at most the start's sum, at least the smallest."""
    domains, found = problem(seed, variables, factors)
    start = dict.fromkeys(domains, 0)
    solution = minimise(domains, found, start, limit)
    assert solution.cost == total(found, solution.values)
    assert smallest(domains, found) <= solution.cost <= total(found, start)
    assert solution.cost == smallest(domains, found) or not solution.exact


def test_a_long_chain_is_exact_and_quick() -> None:
    """As many variables as no enumeration could try; the answer is known: change once, where it is cheap."""
    count = 400
    steps = [np.array([[0.0, 5.0], [5.0, 0.0]])] * (count - 1)
    steps[200] = np.array([[0.0, 1.0], [5.0, 0.0]])
    factors = [Factor((f"v{i}", f"v{i + 1}"), table) for i, table in enumerate(steps)]
    factors += [Factor(("v0",), np.array([0.0, 100.0])), Factor((f"v{count - 1}",), np.array([100.0, 0.0]))]
    solution = minimise({f"v{i}": 2 for i in range(count)}, factors, {})
    assert solution.cost == 1.0
    assert [solution.values[f"v{i}"] for i in range(count)] == [0] * 201 + [1] * (count - 201)


def test_a_table_has_an_axis_for_each_variable() -> None:
    """Or it is refused."""
    with pytest.raises(ValueError, match="a table of 2 axes"):
        Factor(("a",), np.zeros((2, 2)))
