"""DeepLIFT of the compiled library against tangermeme on the torch network, its quantisers registered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from data import load_digits_split
from onnx import numpy_helper

import tvm_lowbit

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


class Flat(torch.nn.Module):
    """The network on sequences ``(N, 1, 64)``, the shape that the oracle takes."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x.reshape(-1, 1, 8, 8))


def torch_network(name: str) -> torch.nn.Module:
    """The committed network in torch, its weights quantised once and for all, in float64."""
    from model import DigitsNet

    network = DigitsNet(int(name[1]), int(name[3])).eval()
    stored = onnx.load(str(DIGITS / f"digits_{name}.onnx")).graph.initializer
    state = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in stored}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert all(key.endswith("num_batches_tracked") for key in missing) and not unexpected
    # float64 before anything is computed: where a step falls on a tiny difference, even the rounding of a dequantised
    # weight to float32 shows in the fourth digit of the secant.
    network = network.double()
    for module in network.modules():
        if hasattr(module, "weight_quant"):
            module.weight.data = module.weight_quant(module.weight.data)
            module.weight_quant = torch.nn.Identity()
    return network


@pytest.mark.parametrize("name", ["w2a2", "w1a2"])
def test_contributions_equal_tangermeme(name: str) -> None:
    """Every test digit: contributions within 1e-4 of the oracle's, its own gap at rounding."""
    from model import Quantiser
    from tangermeme.deep_lift_shap import _nonlinear, deep_lift_shap

    x = load_digits_split().x_test
    artifact = tvm_lowbit.build(DIGITS / f"digits_{name}.onnx", "host", explain=[tvm_lowbit.DeepLift()])
    explanation = artifact.run(x).explanations["deeplift"]
    network = Flat(torch_network(name))
    for target in range(10):
        chosen = np.flatnonzero(explanation.target == target)
        sequences = torch.tensor(x[chosen].reshape(-1, 1, 64), dtype=torch.float64)
        expected = deep_lift_shap(
            network,
            sequences,
            target=target,
            references=torch.zeros(len(chosen), 1, 1, 64, dtype=torch.float64),
            additional_nonlinear_ops={Quantiser: _nonlinear},
            raw_outputs=False,
            hypothetical=False,
            only_warn=True,
            dtype=torch.float64,
            device="cpu",
        )
        got = explanation.contributions[chosen].reshape(-1, 1, 64)
        # 1e-4, relative where a contribution exceeds 1: on a few digits a step on a tiny difference makes hundreds.
        np.testing.assert_allclose(got, expected.detach().numpy(), atol=1e-4, rtol=1e-4)
