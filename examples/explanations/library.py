"""Networks compiled together with their explanations, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import tvm_lowbit

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Outputs, shape (N, outputs), and explanations by name, as one call of the library gives them."""

    outputs: Array
    explanations: dict[str, Any]


def ask(net: nn.Module, methods: Sequence[Any], x: Array, batch: int) -> Answer:
    """Compile a network for this machine with the methods, and run it.

    Parameters
    ----------
    net : Module
        In evaluation mode.
    methods : sequence
        What `tvm_lowbit.build` takes as ``explain``.
    x : ndarray of float32, shape (N, ...)
        Inputs; padded to whole batches.
    batch : int
        Items of one call.
    """
    sample = torch.zeros(batch, *x.shape[1:])
    artifact = tvm_lowbit.build(net, "host", example_inputs=(sample,), explain=methods)
    result = artifact.run(np.concatenate([x, *[x[-1:]] * (-len(x) % batch)]))
    (outputs,) = result.outputs.values()
    return Answer(outputs[: len(x)], dict(result.explanations))
