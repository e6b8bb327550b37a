"""Compiled networks against the package of DeepLIFT's authors by all rules; ``deeplift_fixture.py`` wrote its results.

Rescale, RevealCancel and the choice between them for genomics, at the input and at layers before and behind functions,
through dense layers, convolutions, batch norm, average and maximum pooling, smooth functions and quantisers. We decide
otherwise than the package, and its inputs are chosen so that it does not matter, in three cases:

- Maximum pooling: we hand what a maximum rises to the largest input's position and what it falls to the reference's,
  each over that position's own difference, so that contributions always sum up. The package has the gradient's way,
  1 at the largest input's position: the same where that holds the reference's maximum too and the output rises.
- A difference without a negative or without a positive part: our multiplier of both is the secant. The package's of the
  absent one is how far the function moves over 1e-7, in single precision mostly rounding. It weighs what has no
  difference itself: multipliers there, and contributions whose parts cancel.
- A function whose operand does not change: our multiplier is 0, the package's by Rescale the derivative.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

import tvm_lowbit
from tvm_lowbit import DeepLift

Array = npt.NDArray[Any]
RULES = ("rescale", "reveal_cancel", "genomics")
NAMES = ("minimum", "dense", "smooth", "genomics", "motif", "averages", "image", "pooled_image", "quantised")


class Quantiser(nn.Module):
    """Divide, clamp, round, multiply."""

    def __init__(self, scale: float, qmin: int, qmax: int) -> None:
        super().__init__()
        self.scale, self.qmin, self.qmax = scale, float(qmin), float(qmax)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.round(torch.clamp(x / self.scale, self.qmin, self.qmax)) * self.scale


class Flatten(nn.Module):
    """Of sequences in the package's order, channels last."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.transpose(1, 2) if x.ndim == 3 else x).flatten(1)


class Largest(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.amax(2)


class Mean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(2)


def parameters(module: nn.Module, **values: Array) -> nn.Module:
    module.load_state_dict({name: torch.from_numpy(v.copy()) for name, v in values.items()}, strict=False)
    return module


def dense(o: Any, w: Any) -> nn.Module:
    return parameters(nn.Linear(*w["kernel"].shape), weight=w["kernel"].T, bias=w["bias"])


def conv(o: Any, w: Any) -> nn.Module:
    kernel = np.moveaxis(w["kernel"], (-1, -2), (0, 1))
    kind = nn.Conv1d if kernel.ndim == 3 else nn.Conv2d
    padding = {"VALID": 0, "SAME": 1}[o.get("padding", "VALID")]
    assert padding == 0 or (set(kernel.shape[2:]) == {3} and "stride" not in o)
    module = kind(*kernel.shape[1::-1], kernel.shape[2:], o.get("stride", 1), padding)
    return parameters(module, weight=kernel, bias=w["bias"])


def norm(o: Any, w: Any) -> nn.Module:
    names = {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"}
    return parameters(nn.BatchNorm1d(o["channels"], o["epsilon"]), **{k: w[v] for k, v in names.items()})


def pool(*kinds: Any) -> Any:
    return lambda o, w: kinds[o["rank"] - 1](o["size"], o["stride"])


KINDS: dict[str, Any] = {
    "dense": dense,
    "conv": conv,
    "norm": norm,
    "relu": lambda o, w: nn.ReLU(),
    "tanh": lambda o, w: nn.Tanh(),
    "sigmoid": lambda o, w: nn.Sigmoid(),
    "quantise": lambda o, w: Quantiser(o["scale"], o["qmin"], o["qmax"]),
    "max_pool": pool(nn.MaxPool1d, nn.MaxPool2d),
    "avg_pool": pool(nn.AvgPool1d, nn.AvgPool2d),
    "global_max": lambda o, w: Largest(),
    "global_avg": lambda o, w: Mean(),
    "flatten": lambda o, w: Flatten(),
}


@cache
def fixture() -> tuple[dict[str, Any], dict[str, Array]]:
    with np.load(Path(__file__).with_name("deeplift.npz")) as file:
        arrays = dict(file)
    return json.loads(arrays.pop("about").tobytes()), arrays


def of(name: str) -> dict[str, Array]:
    """The arrays of a network, sequences with channels first as we have them."""
    found = {k.removeprefix(f"{name}."): v for k, v in fixture()[1].items() if k.startswith(f"{name}.")}
    sequences = found["x"].ndim == 3
    turned = {k for k, v in found.items() if sequences and not k[0].isdigit() and v.ndim in (3, 5)}
    return {k: np.ascontiguousarray(v.swapaxes(-1, -2)) if k in turned else v for k, v in found.items()}


def network(name: str) -> nn.Sequential:
    """All but the last function: what stands before it is explained."""
    layers = []
    for i, (kind, options) in enumerate(fixture()[0]["networks"][name]["layers"][:-1]):
        weights = {k.removeprefix(f"{i}."): v for k, v in of(name).items() if k.startswith(f"{i}.")}
        layers.append(KINDS[kind](options, weights))
    return nn.Sequential(*layers).eval()


def close(found: Array, expected: Array) -> None:
    """Within 1e-5 of each item's largest."""
    over = np.abs(expected).max(axis=tuple(range(1, expected.ndim)), keepdims=True)
    assert np.all(over > 0)
    np.testing.assert_allclose(found / over, expected / over, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_explanations_equal_the_packages(name: str) -> None:
    about, arrays = fixture()[0], of(name)
    targets = about["networks"][name]["targets"]
    x, starts, net = arrays["x"], arrays["x0"], network(name)
    every = np.repeat(starts, len(x) // len(starts), axis=0)
    layers = {f"hidden{i}": f"{type(net[i]).__name__}_{i}" for i in about["networks"][name]["hidden"]}
    options = {"target": targets, "layers": list(layers.values())}
    # One reference is compiled in; several are given, each along with its input.
    reference = starts[0] if len(starts) == 1 else "input"
    methods = [DeepLift(rule=rule, name=rule, reference=reference, **options) for rule in RULES]
    example = (torch.from_numpy(x[:1]),)
    artifact = tvm_lowbit.build(net, "host", example_inputs=example, explain=methods)
    assert {row.op for row in artifact.report.low_bit} == ({"relax.nn.conv2d"} if name == "quantised" else set())
    result = artifact.run(
        {row.name: every if row.name.endswith(".reference") else x for row in artifact.manifest.inputs}
    )
    np.testing.assert_allclose(*result.outputs.values(), arrays["logits"], rtol=1e-5, atol=5e-6)
    for rule, method in enumerate(methods):
        found = result.explanations[method.name]
        for t in range(len(targets)):
            parts = {"contributions": found.contributions, "multipliers": found.multipliers}
            parts |= {key: found.layers[layer]["contributions"] for key, layer in layers.items()}
            for key in parts.keys() & arrays.keys():
                close(parts[key][:, t], arrays[key][rule, t])


def test_rules_differ() -> None:
    """What is compared with tells rules apart: of a minimum, Rescale gives the lesser all, RevealCancel both half."""
    for name in NAMES:
        rescale, reveal_cancel, genomics = of(name)["contributions"]
        assert np.abs(reveal_cancel - rescale).max() > 0.2 * np.abs(rescale).max()
        convolutions = any(kind == "conv" for kind, _ in fixture()[0]["networks"][name]["layers"])
        assert np.array_equal(genomics, reveal_cancel) != convolutions
    found = of("minimum")
    least = found["x"].min(1, keepdims=True)
    shares = [np.where(found["x"] == least, least, 0), np.broadcast_to(least / 2, found["x"].shape)]
    for expected, got in zip(shares, found["contributions"], strict=False):
        np.testing.assert_allclose(got[0], expected, rtol=1e-6)
