"""DNA with motifs planted in it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from explanations.motifs import BACKGROUND, LETTERS, matrix

LENGTH = 200
MOST = 3  # instances of a motif in a sequence that has it
MEAN = 2.0
# What the outputs say of a sequence: both motifs, GATA1, TAL1.
TASKS = ("both", "GATA1", "TAL1")


@dataclass(frozen=True)
class Sequences:
    """Simulated DNA.

    Attributes
    ----------
    codes : ndarray of uint8, shape (N, LENGTH)
        Letters as indices into `motifs.LETTERS`.
    labels : ndarray of float32, shape (N, 3)
        1 where a task's motifs were planted, in the order of `TASKS`.
    """

    codes: NDArray[np.uint8]
    labels: NDArray[np.float32]


def simulate(count: int, seed: int) -> Sequences:
    """Sequences of letters drawn by the background's frequencies, a quarter of them with either, both or no motif.

    A motif that a sequence has is planted one to three times (Poisson of mean 2, drawn again outside of that), each
    instance drawn from its matrix, where no other instance is (Shrikumar et al. 2017, section 4.2 and appendix).

    Parameters
    ----------
    count : int
        How many sequences.
    seed : int
        Of all that is drawn.
    """
    random = np.random.default_rng(seed)
    codes = random.choice(len(LETTERS), size=(count, LENGTH), p=BACKGROUND).astype(np.uint8)
    kinds = random.permutation(np.arange(count) % 4)
    labels = np.stack([kinds == 3, kinds & 1, kinds >> 1], axis=1).astype(np.float32)
    for row, (_, gata, tal) in zip(codes, labels, strict=True):
        free = np.ones(LENGTH, bool)
        for name, wanted in (("GATA1", gata), ("TAL1", tal)):
            for _ in range(_quantity(random) if wanted else 0):
                _plant(row, free, name, random)
    return Sequences(codes, labels)


def _quantity(random: np.random.Generator) -> int:
    while not 1 <= (count := int(random.poisson(MEAN))) <= MOST:
        pass
    return count


def _plant(row: NDArray[np.uint8], free: NDArray[np.bool_], name: str, random: np.random.Generator) -> None:
    probabilities = matrix(name)
    size = len(probabilities)
    starts = [start for start in range(len(row) - size + 1) if free[start : start + size].all()]
    start = int(random.choice(starts))
    row[start : start + size] = [random.choice(len(LETTERS), p=p / p.sum()) for p in probabilities]
    free[start : start + size] = False


def one_hot(codes: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Letters as unit vectors, shape (N, 4, length)."""
    return np.ascontiguousarray(np.eye(len(LETTERS), dtype=np.float32)[codes].transpose(0, 2, 1))
