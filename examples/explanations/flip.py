"""Digits turned into others: the pixels that speak most for one class against another are erased (1704.02685, 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import tvm_lowbit

Array = NDArray[np.float32]

# From what class, to what class.
FLIPS = ((8, 3), (8, 6), (9, 1), (4, 1))
ERASED = 13  # of 64 pixels: a fifth, as in the paper


def erase(images: Array, scores: Array, count: int = ERASED) -> Array:
    """Images with the pixels of highest score set to 0, at most ``count`` and only where the score is positive.

    Parameters
    ----------
    images, scores : ndarray of float32, shape (N, 1, 8, 8)
        Images, and what each pixel adds to the first class against the second.
    count : int
        How many pixels.
    """
    flat = scores.reshape(len(scores), -1)
    chosen = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    gone = np.zeros(flat.shape, bool)
    np.put_along_axis(gone, chosen, np.take_along_axis(flat, chosen, axis=1) > 0, axis=1)
    return np.where(gone.reshape(images.shape), np.float32(0), images)


def change(before: Array, after: Array) -> float:
    """Mean over images of how much the log-odds of the first class against the second fell.

    Parameters
    ----------
    before, after : ndarray of float32, shape (N,)
        Difference of the two classes' logits, which is the logarithm of the ratio of their probabilities.
    """
    return float(np.mean(before.astype(np.float64) - after))


def targets() -> list[Any]:
    """What is explained for each flip: the first class's logit less the second's."""
    return [tvm_lowbit.Difference(source, goal) for source, goal in FLIPS]


def measured(net: nn.Module, images: Array, scores: Array, source: int, goal: int) -> float:
    """`change` when the images' pixels are erased by their scores, of one flip."""

    def odds(pixels: Array) -> Array:
        with torch.no_grad():
            logits = net(torch.from_numpy(pixels)).numpy()
        return np.asarray(logits[:, source] - logits[:, goal])

    return change(odds(images), odds(erase(images, scores)))
