"""Grad-CAM, LayerCAM, GAM and NIWT's importances against torch's autograd and Captum; what is refused."""

from __future__ import annotations

from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from explained import explained
from relax_models import const, module, quantised
from tvm import relax

import tvm_lowbit
from tvm_lowbit import (
    GAM,
    Conductance,
    DeepLift,
    GradCam,
    IntegratedGradients,
    LayerCam,
    LowbitError,
    NeuronImportance,
    Similarity,
)

RNG = np.random.default_rng(0)
W0, W1, W2 = (RNG.normal(size=s).astype(np.float32) * 0.4 for s in ((4, 2, 3, 3), (6, 4, 3, 3), (24, 5)))
X = RNG.normal(size=(2, 2, 8, 6)).astype(np.float32)
EMBEDDING = RNG.normal(size=5).astype(np.float32)
FLAT = 6 * 2 * 2


class Network(torch.nn.Module):
    """Two convolutions of stride 2, the second without ReLU, and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.ReLU(), torch.nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.first(torch.nn.functional.conv2d(x, torch.tensor(W0), padding=1, stride=2))
        second = self.second(torch.nn.functional.conv2d(first, torch.tensor(W1), padding=1, stride=2))
        return torch.tanh(second).flatten(1) @ torch.tensor(W2)


def network(emit: Any, x: Any) -> Any:
    """The same in Relax, batch 2."""
    first = emit(relax.op.nn.relu(emit(relax.op.nn.conv2d(x, const(W0), padding=1, strides=2), "c0")), "first")
    second = emit(relax.op.nn.conv2d(first, const(W1), padding=1, strides=2), "second")
    flat = emit(relax.op.reshape(emit(relax.op.tanh(second), "tanh"), (2, FLAT)), "flat")
    return emit(relax.op.matmul(flat, const(W2)), "logits")


def activations(score: Any) -> dict[str, tuple[Any, Any]]:
    """Each layer's activations and the gradient of a score of the logits there."""
    model, seen = Network(), {}
    for name in ("first", "second"):
        getattr(model, name).register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    total = score(model(torch.tensor(X, requires_grad=True))).sum()
    found = torch.autograd.grad(total, list(seen.values()))
    return {name: (a.detach(), g) for (name, a), g in zip(seen.items(), found, strict=True)}


def upsampled(array: Any) -> Any:
    resized = torch.nn.functional.interpolate(array[:, None], (8, 6), mode="bilinear", align_corners=False)
    return resized[:, 0]


def unit(array: Any) -> Any:
    least, largest = array.amin((1, 2), keepdim=True), array.amax((1, 2), keepdim=True)
    return (array - least) / torch.where(largest > least, largest - least, 1.0)


def close(found: Any, want: Any) -> None:
    np.testing.assert_allclose(found, np.asarray(want), rtol=1e-3, atol=1e-5)


def test_equal_to_torch_and_captum() -> None:
    """All methods in one library: classes, several at once, and the similarity to an embedding."""
    near = Similarity(EMBEDDING)
    methods = [
        GradCam("second", target=[3, 0]),
        LayerCam("first", target=3),
        LayerCam(["first", "second"], target=3, name="fused"),
        *(GAM(["first", "second"], combine=c, target=near, name=f"gam_{c}") for c in ("mean", "max", "product")),
        GAM("second", target=3),
        NeuronImportance(["first", "second"], target=[3, 0]),
        NeuronImportance("second", target=near, name="near"),
        NeuronImportance(["second", "flat"], by="deeplift", target=3, name="secant"),
        DeepLift(layers=["second", "flat"], target=3),
    ]
    result = explained(module(network, X.shape), X, *methods)
    for position, index in enumerate((3, 0)):
        model = Network()
        oracle = captum.attr.LayerGradCam(model, model.second)
        want = oracle.attribute(torch.tensor(X), target=index, relu_attributions=True).detach()[:, 0]
        close(result["grad_cam"].layers["second"]["map"][:, position], want)
        close(result["grad_cam"]["map"][:, position], upsampled(want))
        for name, (_, slope) in activations(lambda logits, index=index: logits[:, index]).items():
            close(result["neuron_importance"].layers[name]["importance"][:, position], slope.mean((2, 3)))

    cuts = activations(lambda logits: logits[:, 3])
    maps = {name: torch.relu((torch.relu(g) * a).sum(1)) for name, (a, g) in cuts.items()}
    close(result["layer_cam"].layers["first"]["map"], maps["first"])
    close(result["layer_cam"]["map"], upsampled(maps["first"]))
    lifted = [upsampled(torch.tanh(2 * m / m.amax((1, 2), keepdim=True).clamp(min=1e-30))) for m in maps.values()]
    close(result["fused"]["map"], torch.maximum(*lifted))
    raw = (torch.relu(cuts["second"][1]) * cuts["second"][0]).sum(1)
    assert raw.min() < 0, "GAM's maps are not rectified"
    close(result["gam"].layers["second"]["map"], raw)
    close(result["gam"]["map"], upsampled(unit(raw)))

    cuts = activations(lambda logits: torch.nn.functional.cosine_similarity(logits, torch.tensor(EMBEDDING)[None]))
    both = [upsampled(unit((torch.relu(g) * a).sum(1))) for a, g in cuts.values()]
    close(result["gam_mean"]["map"], sum(both) / 2)
    close(result["gam_max"]["map"], torch.maximum(*both))
    close(result["gam_product"]["map"], both[0] * both[1])
    close(result["near"].layers["second"]["importance"], cuts["second"][1].mean((2, 3)))

    one_pass = result["deeplift"].layers
    close(result["secant"].layers["second"]["importance"], one_pass["second"]["multipliers"].mean((2, 3)))
    close(result["secant"].layers["flat"]["importance"], one_pass["flat"]["multipliers"])


def test_embedding_as_input() -> None:
    """Given when the library runs, it gives what the same embedding does that was known before: also along a path."""
    given, fixed = Similarity("input"), Similarity(EMBEDDING)
    methods = [
        *(GAM(["first", "second"], target=t, name=n) for t, n in ((given, "gam"), (fixed, "gam_fixed"))),
        Conductance("second", steps=5, target=[given, 1], name="path"),
        Conductance("second", steps=5, target=[fixed, 1], name="path_fixed"),
        *(IntegratedGradients(steps=5, target=t, name=n) for t, n in ((given, "ig"), (fixed, "ig_fixed"))),
    ]
    built = tvm_lowbit.build(module(network, X.shape), "host", explain=methods)
    embeddings = np.broadcast_to(EMBEDDING, (2, 5)).copy()
    inputs = {"x": X, "gam.embedding": embeddings, "path.embedding0": embeddings, "ig.embedding": embeddings}
    found = built.run(inputs).explanations
    close(found["gam"]["map"], found["gam_fixed"]["map"])
    for field in ("contributions", "gap"):
        close(found["path"].layers["second"][field], found["path_fixed"].layers["second"][field])
        close(found["ig"][field], found["ig_fixed"][field])
    other = built.run(inputs | {"gam.embedding": embeddings[:, ::-1].copy()}).explanations
    assert not np.allclose(other["gam"]["map"], found["gam"]["map"], atol=1e-3)
    with pytest.raises(LowbitError, match=r"gam\.embedding"):
        built.run(X)


def test_quantised_and_one_dimension() -> None:
    """A quantised 1-D network against NumPy, straight through the quantiser; integers as without the maps."""
    w = RNG.integers(-2, 2, (3, 2, 3)).astype(np.float32) * 0.5
    v = RNG.integers(-2, 2, (3 * 8, 4)).astype(np.float32) * 0.5
    x = RNG.normal(size=(1, 2, 8)).astype(np.float32)

    def body(emit: Any, value: Any) -> Any:
        q0 = quantised(emit, value, "q0", scale=0.5, qmin=-2, qmax=1)
        weights = quantised(emit, const(w), "w", scale=0.5, qmin=-2, qmax=1)
        q1 = quantised(emit, emit(relax.op.nn.conv1d(q0, weights, padding=1), "conv"), "q1")
        flat = emit(relax.op.reshape(q1, (1, 24)), "flat")
        return emit(relax.op.matmul(flat, quantised(emit, const(v), "v", scale=0.5, qmin=-2, qmax=1)), "fc")

    methods = [GradCam("conv", target=1), LayerCam("q1", target=1), GAM("conv", target=1)]
    built = tvm_lowbit.build(module(body, x.shape), "host", explain=methods)
    result = built.run(x).explanations
    codes = np.pad(np.clip(np.rint(x / 0.5), -2, 1) * 0.5, [(0, 0), (0, 0), (1, 1)])
    conv = np.stack([(codes[0, :, i : i + 3] * w).sum((1, 2)) for i in range(8)], 1)
    outer = v[:, 1].reshape(3, 8)
    inner = outer * ((conv >= 0) & (conv <= 1.5))
    close(result["grad_cam"]["map"], np.maximum((inner.mean(1, keepdims=True) * conv).sum(0), 0)[None])
    kept = np.clip(np.rint(conv / 0.5), 0, 3) * 0.5
    close(result["layer_cam"].layers["q1"]["map"], np.maximum((np.maximum(outer, 0) * kept).sum(0), 0)[None])
    close(result["gam"].layers["conv"]["map"], (np.maximum(inner, 0) * conv).sum(0)[None])
    assert all(row.technique for row in built.manifest.layers)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (lambda: GradCam("flat", target=0), "channels and pixels"),
        (lambda: GAM(["first", "logits"], target=0), "channels and pixels"),
        (lambda: LayerCam("frist", target=0), "near names: first"),
        (lambda: NeuronImportance("secnd", target=0), "near names: second"),
        (lambda: GAM("first", target=Similarity([1.0, 2.0])), "embedding of shape"),
        (lambda: GAM("first", combine="sum"), "combine"),
        (lambda: LayerCam([]), "layers"),
        (lambda: LayerCam("first", gamma=0), "gamma"),
        (lambda: GradCam(["first"]), "layer"),
        (lambda: NeuronImportance("first", by="path"), "by"),
        (lambda: NeuronImportance("first", by="deeplift", target=Similarity([1.0])), "linear"),
    ],
)
def test_refused(method: Any, message: str) -> None:
    with pytest.raises(LowbitError, match=message):
        tvm_lowbit.build(module(network, X.shape), "host", explain=[method()])
