"""``dinucleotide_shuffles``: random sequences with the same neighbours as a given one (Altschul and Erikson 1985).

Letters are vertices and neighbours edges of a graph in which a sequence is an Eulerian path. Any choice of last edges
that leads from every letter to the sequence's last one, and any order of the others before them, gives another path
over the same edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Letters = npt.NDArray[np.int64]


def dinucleotide_shuffles(letters: Letters, count: int, seed: int) -> Letters:
    """Shuffles of one sequence.

    Parameters
    ----------
    letters : int64 ``(L,)``
        From 0.
    count : int
        How many.
    seed : int
        The same sequence and seed give the same shuffles, wherever the sequence stands in a batch.

    Returns
    -------
    int64 ``(count, L)``
        Each with the first and last letter of the sequence, and as many of each pair of neighbours.
    """
    random = np.random.default_rng(seed)
    if len(letters) < 3:
        return np.repeat(letters[None], count, axis=0)
    followers = {int(v): letters[1:][letters[:-1] == v] for v in np.unique(letters[:-1])}
    return np.stack([_path(followers, int(letters[0]), int(letters[-1]), random) for _ in range(count)])


def _path(followers: dict[int, Letters], first: int, last: int, random: Any) -> Letters:
    orders = _orders(followers, last, random)
    taken = dict.fromkeys(orders, 0)
    path = [first]
    while (here := path[-1]) in orders and taken[here] < len(orders[here]):
        path.append(int(orders[here][taken[here]]))
        taken[here] += 1
    return np.asarray(path, np.int64)


def _orders(followers: dict[int, Letters], last: int, random: Any) -> dict[int, Letters]:
    """Random orders of each letter's followers whose last edges lead to the last letter, all such alike probable."""
    while True:
        orders = {letter: random.permutation(following) for letter, following in followers.items()}
        if all(_leads(orders, letter, last) for letter in orders):
            return orders


def _leads(orders: dict[int, Letters], letter: int, last: int) -> bool:
    for _ in orders:
        if letter == last:
            return True
        letter = int(orders[letter][-1])
    return letter == last
