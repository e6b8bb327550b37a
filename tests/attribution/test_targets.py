"""What of an output is explained: each kind of target against the seed worked out by hand, in one build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from relax_models import const, module
from tvm import relax

import tvm_lowbit
from tvm_lowbit import DeepLift, Difference, Element, Gradient, GradientXInput, LowbitError, MinusMean, SemiringEntropy

RNG = np.random.default_rng(5)
FIRST, SECOND = (RNG.normal(size=shape).astype(np.float32) for shape in ((4, 6), (6, 5)))
X = RNG.normal(size=(3, 4)).astype(np.float32)


def network(outputs: int = 2) -> Any:
    """Classes ``(3, 5)``, and the hidden layer as ``(3, 2, 3)`` beside them."""

    def body(emit: Any, x: Any) -> Any:
        hidden = emit(relax.op.nn.relu(emit(relax.op.matmul(x, const(FIRST)), "fc1")), "relu")
        classes = emit(relax.op.matmul(hidden, const(SECOND)), "fc2")
        if outputs == 1:
            return classes
        return relax.Tuple([classes, emit(relax.op.reshape(hidden, (3, 2, 3)), "grid")])

    mod = module(body, (3, 4))
    names = ["classes", "grid"][:outputs]
    main = mod["main"].with_attr("output_names", names)
    mod.update_func(mod.get_global_var("main"), main)
    return mod


def gradient(seed: np.ndarray) -> np.ndarray:
    """Of ``seed . classes`` at the inputs."""
    return ((seed @ SECOND.T) * (X @ FIRST > 0)) @ FIRST.T


def test_each_target() -> None:
    classes = np.maximum(X @ FIRST, 0) @ SECOND
    best, one = classes.argmax(1), np.eye(5, dtype=np.float32)
    seeds = {
        "index": (3, one[[3, 3, 3]], [3] * 3),
        "argmax": ("argmax", one[best], best),
        "difference": (Difference(4, 1), one[[4] * 3] - one[[1] * 3], [4] * 3),
        "nothing": (Difference(2, 2), np.zeros((3, 5), np.float32), [2] * 3),
        "mean": (MinusMean(2), one[[2] * 3] - 0.2, [2] * 3),
        "best_less_mean": (MinusMean(), one[best] - 0.2, best),
        "element": (Element(1), one[[1] * 3], [1] * 3),
        "several": ([0, "argmax", Difference(4, 1)], None, None),
        "grid": (Element((1, 2), output="grid"), None, None),
    }
    methods = [GradientXInput(target=target, name=name) for name, (target, _, _) in seeds.items()]
    methods += [DeepLift(target=[0, Element((1, 2), output="grid")], layers=["relu"], name="both")]
    artifact = tvm_lowbit.build(network(), "host", explain=methods)
    result = artifact.run(X)
    for name, (_, seed, choice) in seeds.items():
        if seed is not None:
            found = result.explanations[name]
            np.testing.assert_allclose(found.multipliers, gradient(seed), rtol=1e-5, atol=1e-5)
            np.testing.assert_array_equal(found.target, choice)
            assert np.all(np.abs(found.gap) < 1e-4)  # no bias and relu: the network is homogeneous
    several = result.explanations["several"]
    assert several.contributions.shape == (3, 3, 4) and several.gap.shape == (3, 3)
    for i, name in enumerate(("argmax", "difference"), 1):
        np.testing.assert_allclose(several.contributions[:, i], result.explanations[name].contributions, rtol=1e-6)
    grid = np.zeros((3, 6), np.float32)
    grid[:, 5] = 1  # (1, 2) of (2, 3)
    expected = (grid * (X @ FIRST > 0)) @ FIRST.T
    np.testing.assert_allclose(result.explanations["grid"].multipliers, expected, rtol=1e-5, atol=1e-6)
    both = result.explanations["both"]
    assert np.all(np.abs(both.gap) < 1e-5) and both.layers["relu"]["contributions"].shape == (3, 2, 6)
    np.testing.assert_allclose(both.layers["relu"]["multipliers"][:, 1], grid, atol=1e-6)
    described = {row.name: row.target for row in artifact.manifest.explanations}
    assert described["several"] == [0, "argmax", {"class": 4, "minus": 1}]
    assert described["best_less_mean"] == {"class": "argmax", "minus": "mean"}
    assert described["grid"] == {"index": [1, 2], "output": "grid"}


WRONG: dict[str, tuple[Any, str]] = {
    "class too large": (5, r"a class index in 0\.\.4, got 5"),
    "difference too large": (Difference(0, 9), r"a class index in 0\.\.4, got 9"),
    "mean of a class too large": (MinusMean(7), r"a class index in 0\.\.4, got 7"),
    "element too deep": (Element((1, 0)), r"an index into \(5,\), got \(1, 0\)"),
    "element too large": (Element((5,)), r"an index into \(5,\), got \(5,\)"),
    "negative element": (Element((-1,)), r"an index into \(5,\), got \(-1,\)"),
    "no such output": (Element((0,), output="logits"), "one of the outputs classes, got 'logits'"),
    "one of several": ([0, 8], r"a class index in 0\.\.4, got 8"),
}


@pytest.mark.parametrize("name", WRONG)
def test_targets_that_the_model_does_not_have(name: str) -> None:
    target, message = WRONG[name]
    with pytest.raises(LowbitError, match=f"target: expected {message}"):
        tvm_lowbit.build(network(1), "host", explain=[DeepLift(target=target)])


@pytest.mark.parametrize("target", [[], "max", 1.5, True, None, ["argmax", "x"], MinusMean])
def test_what_is_no_target(target: Any) -> None:
    with pytest.raises(LowbitError, match="target: expected"):
        DeepLift(target=target)
    with pytest.raises(LowbitError, match="target: expected"):
        MinusMean(target)


@pytest.mark.parametrize("value", ["a", 1.0, True, None])
def test_classes_and_places_are_whole_numbers(value: Any) -> None:
    for make, where in (
        (lambda: Difference(1, value), "Difference minus"),
        (lambda: Difference(value, 1), "Difference plus"),
        (lambda: Element(value), "Element"),
        (lambda: Element((0, value)), "Element"),
    ):
        with pytest.raises(LowbitError, match=f"{where}: expected"):
            make()


@pytest.mark.parametrize("method", [DeepLift, Gradient, SemiringEntropy])
@pytest.mark.parametrize("layers", [5, None, [1]])
def test_what_is_no_name_of_a_layer(method: Any, layers: Any) -> None:
    with pytest.raises(LowbitError, match=f"{method.__name__} layers: expected the name of a layer"):
        method(layers=layers)


def test_layers_that_the_model_does_not_have() -> None:
    with pytest.raises(LowbitError, match="expected the name of a layer of the model, got 'fc3'") as caught:
        tvm_lowbit.build(network(1), "host", explain=[DeepLift(layers=["fc3"])])
    assert "fc1" in caught.value.hint and "fc2" in caught.value.hint


def test_all_layers() -> None:
    """Every layer that multiplies, and no other; the sum at each is the output's difference."""
    methods = [DeepLift(layers="all", target=1), Gradient(layers=["relu", "all"], target=1)]
    found = tvm_lowbit.build(network(1), "host", explain=methods).run(X).explanations
    layers = found["deeplift"].layers
    assert list(layers) == ["fc1", "fc2"]
    assert list(found["gradient"].layers) == ["relu", "fc1", "fc2"]
    difference = (np.maximum(X @ FIRST, 0) @ SECOND)[:, 1]
    for values in layers.values():
        np.testing.assert_allclose(values["contributions"].sum(1), difference, rtol=1e-4)
        assert np.all(np.abs(values["gap"]) < 1e-5)
