"""The handwritten digits of scikit-learn, scaled and split once and for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped] - it has no types
from sklearn.model_selection import train_test_split  # type: ignore[import-untyped] - it has no types

# The split is part of the example: changing either constant changes what the committed networks have seen.
SPLIT_SEED = 20
TEST_DIGITS = 500

GREY_LEVELS = 16


@dataclass(frozen=True)
class DigitsSplit:
    """Training and test digits.

    Attributes
    ----------
    x_train : ndarray of float32, shape (1297, 1, 8, 8)
        Training images in [0, 1].
    y_train : ndarray of int64, shape (1297,)
        Their classes, 0 to 9.
    x_test : ndarray of float32, shape (500, 1, 8, 8)
        Test images in [0, 1].
    y_test : ndarray of int64, shape (500,)
        Their classes, 0 to 9.
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]


def all_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return every digit in the data set's own order.

    Returns
    -------
    x : ndarray of float32, shape (1797, 1, 8, 8)
        Images in [0, 1]; the grey levels 0 to 16 over 16, which float32 holds exactly.
    y : ndarray of int64, shape (1797,)
        Classes, 0 to 9.
    """
    pixels, classes = load_digits(return_X_y=True)
    x = (np.asarray(pixels, dtype=np.float32) / np.float32(GREY_LEVELS)).reshape(-1, 1, 8, 8)
    return x, np.asarray(classes, dtype=np.int64)


def load_digits_split() -> DigitsSplit:
    """Return the fixed, stratified split.

    Returns
    -------
    DigitsSplit
        1297 training and 500 test digits, each part in the data set's own order.
    """
    x, y = all_digits()
    train, test = train_test_split(np.arange(len(y)), test_size=TEST_DIGITS, stratify=y, random_state=SPLIT_SEED)
    train, test = np.sort(train), np.sort(test)
    return DigitsSplit(x_train=x[train], y_train=y[train], x_test=x[test], y_test=y[test])
