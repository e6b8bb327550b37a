"""Write ``deeplift.npz``: explanations by DeepLIFT's authors' own package, which `test_deeplift_package` compares with.

The package (github.com/kundajelab/deeplift, on PyPI as ``deeplift``) is written for TensorFlow 1, so it has an
environment of its own, with Python 3.9 to 3.11; no test needs that::

    python3.11 -m venv venv-deeplift
    venv-deeplift/bin/pip install deeplift==0.6.13.0 tensorflow-cpu==2.15.1 pyyaml
    venv-deeplift/bin/python tests/attribution/deeplift_fixture.py

Nothing in it is changed. It is given TensorFlow's first interface, which the second one still has, and double precision
where it asks for ``tf.float32``: its rounding then is not what is compared with. How far its contributions in single
precision are from these is in the file too (``single``). Inputs are drawn until they are `clear`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow.compat.v1 as tf

tf.disable_v2_behavior()
sys.modules["tensorflow"] = tf

from deeplift import layers, models, util  # noqa: E402

Array = npt.NDArray[Any]
SEED = 17
MODES = {"rescale": "Rescale", "reveal_cancel": "RevealCancel", "genomics": "DeepLIFT_GenomicsDefault"}
SINGLE, DOUBLE = tf.float32, tf.float64
CANDIDATES = 2000


class Quantised(layers.Activation):
    """A quantiser as an activation of theirs: the quotient clamped, rounded, multiplied again; flat between steps."""

    def __init__(self, scale: float, qmin: int, qmax: int, **options: Any) -> None:
        super().__init__(**options)
        self.scale, self.qmin, self.qmax = scale, qmin, qmax

    def _build_activation_vars(self, values: Any) -> Any:
        return tf.round(tf.clip_by_value(values / self.scale, self.qmin, self.qmax)) * self.scale

    def _get_gradient_at_activation(self, values: Any) -> Any:
        return tf.zeros_like(values)


def function(kind: type) -> Callable[..., Any]:
    return lambda o, w, mode: kind(nonlinear_mxts_mode=o.pop("mode", mode), verbose=False, **o)


def convolution(o: Any, w: Any, mode: str) -> Any:
    stride, padding = o.get("stride", 1), o.get("padding", "VALID")
    if w["kernel"].ndim == 3:
        return layers.Conv1D(stride=stride, padding=padding, conv_mxts_mode="Linear", **w)
    options = {"strides": (stride, stride), "data_format": "channels_first"}
    return layers.Conv2D(padding=padding, conv_mxts_mode="Linear", **options, **w)


def pooling(one: type, two: type, **options: Any) -> Callable[..., Any]:
    def make(o: Any, w: Any, mode: str) -> Any:
        size, stride = o["size"], o["stride"]
        if o["rank"] == 1:
            return one(pool_length=size, stride=stride, padding="VALID", verbose=False, **options)
        places = {"pool_size": (size, size), "strides": (stride, stride), "data_format": "channels_first"}
        return two(padding="VALID", verbose=False, **places, **options)

    return make


TO_LARGEST = {"maxpool_deeplift_mode": "gradient"}
KINDS: dict[str, Callable[..., Any]] = {
    "dense": lambda o, w, mode: layers.Dense(dense_mxts_mode="Linear", **w),
    "conv": convolution,
    "norm": lambda o, w, mode: layers.BatchNormalization(axis=-1, epsilon=o["epsilon"], **w),
    "relu": function(layers.ReLU),
    "tanh": function(layers.Tanh),
    "sigmoid": function(layers.Sigmoid),
    "quantise": function(Quantised),
    "max_pool": pooling(layers.MaxPool1D, layers.MaxPool2D, **TO_LARGEST),
    "avg_pool": pooling(layers.AvgPool1D, layers.AvgPool2D),
    "global_max": lambda o, w, mode: layers.GlobalMaxPool1D(verbose=False, **TO_LARGEST),
    "global_avg": lambda o, w, mode: layers.GlobalAvgPool1D(),
    "flatten": lambda o, w, mode: layers.Flatten(),
}
Spec = list[tuple[str, dict[str, Any]]]


@dataclass
class Network:
    """Layers by kind with their options; ``kernel`` is the shape of weights, in the package's order.

    Attributes
    ----------
    shape : tuple
        Of one input: ``(length, channels)``, ``(channels, height, width)`` or ``(features,)``.
    references : list of arrays
        Each broadcasts to an input.
    layers : list
        The last one is a sigmoid; what is explained stands before it.
    hidden : tuple of int
        Layers whose contributions are kept too.
    draw : callable
        ``draw(random, count, shape)``, candidates for inputs.
    weights : dict, optional
        By layer, instead of random ones.
    """

    shape: tuple[int, ...]
    references: list[Any]
    layers: Spec
    hidden: tuple[int, ...] = ()
    draw: Callable[..., Array] = lambda random, count, shape: random.normal(size=(count, *shape))
    weights: dict[int, dict[str, Any]] | None = None
    inputs: int = 3
    targets: tuple[int, ...] = (1,)


def one_hot(random: Any, count: int, shape: tuple[int, int]) -> Array:
    return np.eye(4)[random.integers(0, 4, (count, shape[0]))]


def conv(*kernel: int, **options: Any) -> tuple[str, dict[str, Any]]:
    return "conv", {"kernel": kernel, **options}


def dense(*kernel: int) -> tuple[str, dict[str, Any]]:
    return "dense", {"kernel": kernel}


def pool(kind: str, rank: int, size: int, stride: int) -> tuple[str, dict[str, Any]]:
    return kind, {"rank": rank, "size": size, "stride": stride}


def quantise(scale: float, qmin: int, qmax: int, **options: Any) -> tuple[str, dict[str, Any]]:
    return "quantise", {"scale": scale, "qmin": qmin, "qmax": qmax, **options}


RELU, FLATTEN, END = ("relu", {}), ("flatten", {}), ("sigmoid", {})
FEATURES = np.random.default_rng(SEED).normal(size=(2, 9))
NETWORKS = {
    # min(x1, x2) of positive numbers is relu(x1) - relu(x1 - x2): what the paper shows Rescale to hide (figure 2).
    "minimum": Network(
        (2,),
        [0.0],
        [dense(2, 2), RELU, dense(2, 2), END],
        weights={
            0: {"kernel": [[1, 1], [0, -1]], "bias": [0, 0]},
            2: {"kernel": [[0, 1], [0, -1]], "bias": [0, 0]},
        },
        draw=lambda random, count, shape: random.uniform(0.5, 4, (count, *shape)),
        inputs=6,
    ),
    "dense": Network(
        (9,), [0.0, *FEATURES], [dense(9, 12), RELU, dense(12, 8), RELU, dense(8, 3), END], (0, 1, 2), targets=(0, 2)
    ),
    "smooth": Network(
        (9,), [0.0, FEATURES[0]], [dense(9, 8), ("tanh", {}), dense(8, 6), ("sigmoid", {}), dense(6, 2), END], (0, 2)
    ),
    # The shape of the paper's experiment on DNA (section 4.2).
    "genomics": Network(
        (30, 4),
        [0.0, np.array([0.3, 0.2, 0.2, 0.3])],
        [conv(7, 4, 5), RELU, pool("max_pool", 1, 8, 5), FLATTEN, dense(20, 8), RELU, dense(8, 2), END],
        (4,),
        draw=one_hot,
    ),
    "motif": Network(
        (24, 4),
        [0.0, np.array([0.3, 0.2, 0.2, 0.3])],
        [conv(9, 4, 8), RELU, ("global_max", {}), dense(8, 6), RELU, dense(6, 2), END],
        draw=one_hot,
    ),
    "averages": Network(
        (16, 3),
        [0.0, FEATURES[0, :3]],
        [
            conv(3, 3, 5, padding="SAME"),
            ("norm", {"channels": 5, "epsilon": 1e-3}),
            RELU,
            pool("avg_pool", 1, 3, 2),
            conv(3, 5, 4, stride=2),
            RELU,
            ("global_avg", {}),
            dense(4, 2),
            END,
        ],
        (2,),
    ),
    "image": Network(
        (2, 9, 9),
        [0.0, FEATURES[1, :2, None, None] / 4],
        [conv(3, 3, 2, 4), RELU, pool("max_pool", 2, 3, 2), conv(2, 2, 4, 4), RELU, FLATTEN]
        + [dense(16, 6), RELU, dense(6, 3), END],
        (6,),
        inputs=2,
    ),
    "pooled_image": Network(
        (2, 7, 6),
        [0.0, np.random.default_rng(SEED).normal(size=(2, 7, 6))],
        [conv(3, 3, 2, 4, padding="SAME"), RELU, pool("avg_pool", 2, 2, 2), conv(2, 2, 4, 5), RELU, FLATTEN]
        + [dense(20, 6), RELU, dense(6, 2), END],
        (3,),
    ),
    # Weights of 2 bits; the first quantiser's input is the network's, so that it has parts of one sign only.
    "quantised": Network(
        (2, 6, 6),
        [0.0, np.random.default_rng(SEED).normal(size=(2, 6, 6))],
        [quantise(0.75, -4, 3, mode="Rescale"), conv(3, 3, 2, 5, bits=2), quantise(0.9, 0, 3)]
        + [conv(3, 3, 5, 4, bits=2), quantise(1.7, 0, 3), FLATTEN]
        + [dense(16, 6), quantise(1.1, 0, 7), dense(6, 2), END],
    ),
}


def weights(kind: str, options: dict[str, Any], random: Any) -> dict[str, Array]:
    """Random ones, of both signs; with ``bits`` the codes -2 to 1 times a scale."""
    if kind == "norm":
        count = options["channels"]
        drawn = {"gamma": random.normal(size=count), "beta": random.normal(size=count) / 2}
        return drawn | {"mean": random.normal(size=count) / 2, "var": random.uniform(0.5, 2, count)}
    if "kernel" not in options:
        return {}
    shape = options["kernel"]
    kernel = random.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))
    if "bits" in options:
        kernel = np.clip(np.round(kernel / 0.3), -2, 1) * np.float32(0.3)
    return {"kernel": kernel, "bias": random.normal(size=shape[-1]) * 0.3}


def built(network: Network, values: list[dict[str, Array]], rule: str, precision: Any) -> list[Any]:
    """The package's layers, connected, the input first."""
    tf.reset_default_graph()
    util._SESS = None
    tf.float32 = precision
    found = [layers.Input(batch_shape=(None, *network.shape))]
    for (kind, options), of in zip(network.layers, values, strict=True):
        given = {name: array.astype(precision.as_numpy_dtype) for name, array in of.items()}
        mine = {k: v for k, v in options.items() if k not in ("kernel", "bits", "channels")}
        found.append(KINDS[kind](mine, given, MODES[rule]))
    util.connect_list_of_layers(found)
    found[-1].build_fwd_pass_vars()
    return found


def clear(network: Network, found: list[Any], x: Array, x0: Array) -> npt.NDArray[np.bool_]:
    """Which inputs are clear of what the package decides otherwise than we do.

    - A maximum hands its multiplier to the largest input's position, as a gradient does, whatever the reference. That
      sums up where the position holds the reference's maximum too and the output rises; where several hold the maximum,
      as zeros behind a ReLU do, nothing changes and one of them is given a multiplier all the same.
    - A part of a difference that is absent is taken for 1e-7, and its multiplier is how far the function moves over
      that, in single precision mostly rounding. It counts where an input of the product before has no difference.
    - A part that is hardly there, or a value at a quantiser's step, is for rounding to decide.
    """
    good = np.ones(len(x), bool)
    for (kind, options), layer in zip(network.layers, found[1:], strict=True):
        before = layer.get_inputs()
        wanted = [before.get_activation_vars(), before.get_reference_vars(), *before.get_pos_and_neg_contribs()]
        feed = {found[0].get_activation_vars(): x, found[0].get_reference_vars(): x0}
        value, start, plus, minus = util.get_session().run(wanted, feed)
        if kind in ("max_pool", "global_max"):
            whole = {"size": value.shape[1], "stride": 1, "rank": 1}
            of, of_start = (windows(v, **(options or whole)) for v in (value, start))
            largest = of.argmax(-1)[..., None]
            held = np.take_along_axis(of_start, largest, -1)[..., 0] == of_start.max(-1)
            alone = np.diff(np.sort(of, -1)[..., -2:])[..., 0] > 1e-3
            good &= (held & alone & (of.max(-1) > of_start.max(-1) + 1e-3)).reshape(len(x), -1).all(1)
        elif isinstance(layer, layers.Activation) and layer is not found[-1]:
            least, most = np.minimum(plus, -minus), np.maximum(plus, -minus)
            small = (least <= 1e-3 * most).reshape(len(x), -1)
            absent = (least == 0).reshape(len(x), -1)
            good &= ~(small & ~absent).any(1) & ~(absent.any(1) & unmoved(before, feed))
        if kind == "quantise":
            for v in (value, start, start + plus, start + minus):
                edge = np.abs((v / options["scale"]) % 1 - 0.5)
                good &= (edge > 1e-4).reshape(len(x), -1).all(1)
    return good


def unmoved(layer: Any, feed: dict[Any, Array]) -> npt.NDArray[np.bool_]:
    """Which items have inputs without a difference before the product that made a layer."""
    while not hasattr(layer, "kernel"):
        if isinstance(layer, layers.Input):
            return np.zeros(len(feed[layer.get_activation_vars()]), bool)
        layer = layer.get_inputs()
    of = layer.get_inputs()
    value, start = util.get_session().run([of.get_activation_vars(), of.get_reference_vars()], feed)
    return (value == start).reshape(len(value), -1).any(1)


def windows(values: Array, rank: int, size: int, stride: int) -> Array:
    """``(N, channels, ..., places in the window)``."""
    values = np.moveaxis(values, -1, 1) if rank == 1 else values
    axes = tuple(range(2, 2 + rank))
    found = np.lib.stride_tricks.sliding_window_view(values, (size,) * rank, axis=axes)
    found = found[(slice(None), slice(None), *(slice(None, None, stride) for _ in axes))]
    return found.reshape(*found.shape[: 2 + rank], -1)


def pairs(network: Network, found: list[Any], random: Any) -> tuple[Array, Array]:
    """Inputs and references, float32: as many clear inputs for each reference, one reference after the other."""
    x, x0 = [], []
    for reference in network.references:
        drawn = network.draw(random, CANDIDATES, network.shape).astype(np.float32)
        start = np.broadcast_to(np.asarray(reference, np.float32), drawn.shape)
        chosen = np.flatnonzero(clear(network, found, drawn, start))
        print(f"  {len(chosen)} of {CANDIDATES} inputs are clear")
        x.append(drawn[chosen[: network.inputs]])
        x0.append(start[: network.inputs])
    return np.concatenate(x), np.concatenate(x0)


def scores(found: list[Any], at: Any, target: int, x: Array, x0: Array, what: str = "contribs") -> Any:
    """Contributions or multipliers at layers, the input being layer 0, to what stands before the last activation."""
    make = getattr(models.SequentialModel(found), f"get_target_{what}_func")
    options = {"batch_size": len(x), "progress_update": None}
    return make(at, -2)(task_idx=target, input_data_list=[x], input_references_list=[x0], **options)


def explained(network: Network, random: Any) -> tuple[dict[str, Array], float]:
    """All arrays of a network, and by how much contributions in single precision differ at most."""
    drawn = [weights(*spec, random) for spec in network.layers]
    for i, given in (network.weights or {}).items():
        drawn[i] = {name: np.array(v) for name, v in given.items()}
    values = [{name: v.astype(np.float32) for name, v in each.items()} for each in drawn]
    found = built(network, values, "reveal_cancel", DOUBLE)
    x, x0 = pairs(network, found, random)
    logits = util.get_session().run(found[-2].get_activation_vars(), {found[0].get_activation_vars(): x})
    arrays = {f"{i}.{name}": v for i, each in enumerate(values) for name, v in each.items()}
    arrays |= {"x": x, "x0": x0[:: network.inputs], "logits": logits}

    def by_rule(at: int, precision: Any, what: str = "contribs") -> Array:
        # Layers ask for the precision when they are scored, too.
        def one(rule: str) -> list[Array]:
            found = built(network, values, rule, precision)
            return [scores(found, at, target, x, x0, what) for target in network.targets]

        return np.array([one(rule) for rule in MODES])

    arrays["contributions"] = by_rule(0, DOUBLE)
    single = float(np.abs(by_rule(0, SINGLE) - arrays["contributions"]).max())
    if np.any(x == x0):  # Elsewhere they are contributions over differences.
        arrays["multipliers"] = by_rule(0, DOUBLE, "multipliers")
    for layer in network.hidden:
        arrays[f"hidden{layer}"] = by_rule(layer + 1, DOUBLE)
    return {name: np.asarray(v, np.float32) for name, v in arrays.items()}, single


def main() -> None:
    """Write the file beside this one."""
    about: dict[str, Any] = {"seed": SEED, "rules": list(MODES), "single": {}, "networks": {}}
    about["versions"] = {name: version(name) for name in ("deeplift", "tensorflow-cpu", "numpy")}
    whole: dict[str, Array] = {}
    for name, network in NETWORKS.items():
        print(name)
        found, about["single"][name] = explained(network, np.random.default_rng(SEED))
        whole |= {f"{name}.{key}": v for key, v in found.items()}
        kept = {"layers": network.layers, "targets": network.targets, "hidden": network.hidden}
        about["networks"][name] = kept
        print(f"  single precision differs by {about['single'][name]:.1e}")
    path = Path(__file__).with_name("deeplift.npz")
    np.savez_compressed(path, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **whole)
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
