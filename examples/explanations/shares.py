"""Which strong matches of a motif an explanation misses (1704.02685, section 4.2 and Fig. 5b)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from explanations.motifs import MOTIFS, log_odds, matrix

STRONG = 7.0  # log-odds from which a match counts as strong, as in the paper
BEST = 5  # matches of a sequence that are looked at, as in the paper


def strong_matches(codes: NDArray[np.uint8], name: str) -> Iterator[tuple[int, int]]:
    """Sequence and first position of each of the best matches that are strong.

    Matches of the same motif in a sequence do not overlap: a better one hides its neighbours.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, length)
        Letters as indices.
    name : str
        A key of `motifs.MOTIFS`.
    """
    size = len(matrix(name))
    for index, scores in enumerate(log_odds(codes, name)):
        left = scores.copy()
        for _ in range(BEST):
            start = int(left.argmax())
            if left[start] <= STRONG:
                break
            yield index, start
            left[max(0, start - size + 1) : start + size] = -np.inf


def missed(codes: NDArray[np.uint8], scores: NDArray[np.floating]) -> dict[str, dict[str, float]]:
    """Share of strong matches whose positions add up to zero or less, by motif, and how many matches there are.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, length)
        Sequences that have both motifs.
    scores : ndarray, shape (N, length)
        What each position adds to the task "both".
    """
    found = {}
    for name in MOTIFS:
        size = len(matrix(name))
        totals = np.array([scores[i, start : start + size].sum() for i, start in strong_matches(codes, name)])
        found[name] = {"share": float(np.mean(totals <= 0)), "matches": len(totals)}
    return found
