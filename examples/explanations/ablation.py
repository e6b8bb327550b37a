"""Neurons switched off, the most important first: does the explained logit fall?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explanations.library import ask
from explanations.methods import NeuronMethod

Array = NDArray[np.float32]

COUNTS = (4, 8, 16)
LAYER = "conv2"  # of the digits' networks: 64 channels
ITEMS = 200  # digits


def logits_without(net: nn.Module, layer: nn.Module, x: Tensor, units: NDArray[np.int64], reference: Tensor) -> Tensor:
    """Logits when some channels of a layer have the values they have at the reference.

    Parameters
    ----------
    net, layer : Module
        The network and one of its layers, whose result has shape (N, channels, height, width).
    x : Tensor
        Inputs, N of them.
    units : ndarray of int64, shape (N, count)
        Which channels, for each item.
    reference : Tensor
        Input of batch 1.
    """
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, result: kept.append(result))
    with torch.no_grad():
        net(reference)
    handle.remove()
    (neutral,) = kept
    off = torch.zeros(len(x), neutral.shape[1], 1, 1, dtype=torch.bool)
    off[torch.arange(len(x))[:, None], torch.from_numpy(units)] = True
    handle = layer.register_forward_hook(lambda module, inputs, result: torch.where(off, neutral, result))
    with torch.no_grad():
        logits: Tensor = net(x)
    handle.remove()
    return logits


def drops(
    net: nn.Module,
    layer: nn.Module,
    x: Array,
    scores: Array,
    target: NDArray[np.int64],
    reference: Array,
    counts: Sequence[int] = COUNTS,
) -> dict[str, float]:
    """Mean fall of the explained logit when the channels of highest score are at their reference, by their count.

    Parameters
    ----------
    net, layer : Module
        As for `logits_without`.
    x : ndarray of float32, shape (N, ...)
        Inputs.
    scores : ndarray of float32, shape (N, channels)
        What each channel adds to the explained logit.
    target : ndarray of int64, shape (N,)
        The explained class.
    reference : ndarray of float32, shape (1, ...)
        What the explanation was measured from.
    counts : sequence of int
        How many channels.
    """
    order = np.argsort(-scores, axis=1, kind="stable")
    images, start = torch.from_numpy(x), torch.from_numpy(reference)
    chosen = torch.from_numpy(target)[:, None]
    with torch.no_grad():
        before = net(images).gather(1, chosen)
    return {
        str(count): float(
            (before - logits_without(net, layer, images, order[:, :count], start).gather(1, chosen)).mean()
        )
        for count in counts
    }


def measured(net: nn.Module, x: Array, method: NeuronMethod, seed: int, batch: int) -> dict[str, Any]:
    """`drops` when the channels of `LAYER` are ranked by a method, from an empty image, for the predicted class."""
    layer: nn.Module = getattr(net, LAYER)
    with torch.no_grad():
        target = net(torch.from_numpy(x)).argmax(1).numpy()
    row: dict[str, Any] = {}
    if method.make is None:
        units = len(net.get_parameter("conv2.weight"))
        scores = np.random.default_rng(seed).random((len(x), units), np.float32)
    else:
        began = time.perf_counter()
        answer = ask(net, [method.make(LAYER)], x, batch)
        row["seconds"] = round(time.perf_counter() - began, 1)
        shares = answer.explanations["asked"].layers[LAYER]["contributions"][: len(x)]
        scores = shares.sum(axis=tuple(range(2, shares.ndim)))
    return row | {"drops": drops(net, layer, x, scores, target, np.zeros_like(x[:1]))}
