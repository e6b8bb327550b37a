"""What contributions are measured from: several references, one given at run time, shuffles, means of data."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from relax_models import const, module, quantised, spec
from tvm import relax

import tvm_lowbit
from relay_passes.ops import fake_quant
from tvm_lowbit import DeepLift, LowbitError
from tvm_lowbit.references import DinucleotideShuffle, References, channel_mean

RNG = np.random.default_rng(4)
SHAPE = (2, 3, 5, 5)


def network(emit: Any, x: Any) -> Any:
    """Codes, accumulators and floats that differ from a reference: convolutions, max pooling, residual, dense layer."""
    random = np.random.default_rng(0)

    def weights(name: str, *shape: int) -> Any:
        return emit(fake_quant(const(random.normal(size=shape)), spec(0.5, -2, 1)), name)

    q = quantised(emit, x, "q0", scale=0.7, qmin=-2, qmax=1)
    v = emit(relax.op.add(emit(relax.op.nn.conv2d(q, weights("w0", 3, 3, 3, 3), padding=1), "c0"), const(0.3)), "b0")
    v = quantised(emit, emit(relax.op.nn.relu(emit(relax.op.add(v, q), "residual")), "relu"), "q1", scale=0.9)
    v = emit(relax.op.nn.max_pool2d(v, (2, 2), strides=(1, 1)), "pool")
    flat = emit(relax.op.reshape(v, (int(x.ty.shape[0]), 48)), "flat")
    return emit(relax.op.matmul(flat, weights("w1", 48, 3)), "logits")


def test_several_and_given() -> None:
    """Several are the mean over the single ones; one given at run time is that one, item by item."""
    references = [RNG.normal(size=SHAPE[1:]).astype(np.float32) for _ in range(2)] + [np.zeros((3, 1, 1), np.float32)]
    common: dict[str, Any] = {"rule": "reveal_cancel", "layers": ["q1"], "target": [0, "argmax"]}
    methods = [DeepLift(reference=r, name=f"only{i}", **common) for i, r in enumerate(references)]
    methods += [DeepLift(reference=references, name="several", **common), DeepLift(reference="input", **common)]
    artifact = tvm_lowbit.build(module(network, SHAPE), "host", explain=methods)
    assert [(row.name, row.shape) for row in artifact.manifest.inputs] == [("x", SHAPE), ("deeplift.reference", SHAPE)]
    x = RNG.normal(size=(4, *SHAPE[1:])).astype(np.float32)
    starts = [0, 1, 1, 0]
    given = np.stack([references[i] for i in starts])
    found = artifact.run({"x": x, "deeplift.reference": given}).explanations
    single = [found[f"only{i}"] for i in range(3)]
    for layer in (None, "q1"):
        at = [e.values if layer is None else e.layers[layer] for e in (*single, found["several"], found["deeplift"])]
        for field in ("contributions", "multipliers", "gap"):
            each = np.stack([values[field] for values in at[:3]])
            np.testing.assert_allclose(at[3][field], each.mean(0), rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(at[4][field], each[starts, range(4)], rtol=1e-6, atol=1e-6)
    assert np.abs(found["several"].contributions).max() > 0.1
    np.testing.assert_array_equal(found["several"].target, found["only0"].target)
    settings = {row.name: row.settings["reference"] for row in artifact.manifest.explanations}
    assert settings["deeplift"] == "input" and len(settings["several"]["mean_of"]) == 3

    for inputs, message in (
        (x, "expected a dict with x, deeplift.reference"),
        ({"x": x}, "expected inputs named x, deeplift.reference, got x"),
        ({"x": x, "deeplift.reference": given[:, :2]}, r"input deeplift.reference: expected shape \(N, 3, 5, 5\)"),
        ({"x": x, "deeplift.reference": given[:2]}, "as many items in every input"),
        ({"x": x, "deeplift.reference": given * np.float32("nan")}, "input deeplift.reference: expected finite"),
    ):
        with pytest.raises(LowbitError, match=message):
            artifact.run(inputs)


def one_hot(*sequences: str) -> Any:
    """``(N, 4, L)``."""
    letters = np.array([["ACGT".index(c) for c in sequence] for sequence in sequences])
    return np.eye(4, dtype=np.float32)[letters].transpose(0, 2, 1)


def text(x: Any) -> str:
    """The letters of a one-hot ``(4, L)``."""
    return "".join("ACGT"[i] for i in x.argmax(0))


def test_shuffles_keep_neighbours() -> None:
    """As many of each pair; first and last letter too; other orders than before; the same for a sequence anywhere."""
    sequences = ["".join(RNG.choice(list("ACGT"), 60)), "ACGT" * 15, "A" * 60, "AC" * 29 + "GT"]
    x = one_hot(*sequences)
    shuffles = DinucleotideShuffle(count=20, seed=3).shuffles(x)
    assert (shuffles.shape, shuffles.dtype) == ((4, 20, 4, 60), np.float32)
    np.testing.assert_array_equal(shuffles.sum(2), 1)
    for sequence, some in zip(sequences, shuffles, strict=True):
        for shuffle in map(text, some):
            assert Counter(pairwise(shuffle)) == Counter(pairwise(sequence))
            assert (shuffle[0], shuffle[-1]) == (sequence[0], sequence[-1])
    assert len({text(s) for s in shuffles[0]}) == 20
    np.testing.assert_array_equal(DinucleotideShuffle(count=20, seed=3).shuffles(x[:1]), shuffles[:1])
    assert not np.array_equal(DinucleotideShuffle(count=20, seed=4).shuffles(x[:1]), shuffles[:1])


def test_every_path_is_found() -> None:
    """Each sequence with the same neighbours appears, about as often: by brute force."""
    sequence = "ACAGACCA"
    pairs = sorted(pairwise(sequence))
    alike = {"".join(s) for s in product("ACG", repeat=8) if sorted(pairwise(s)) == pairs}
    alike = {s for s in alike if s[0] == "A" and s[-1] == "A"}
    count = 400 * len(alike)
    found = Counter(map(text, DinucleotideShuffle(count=count).shuffles(one_hot(sequence))[0]))
    assert set(found) == alike and len(alike) > 4
    assert min(found.values()) > 300 and max(found.values()) < 500


def test_shuffled_reference() -> None:
    """The mean over the shuffles, made at run time for each item; what is no sequence is refused."""

    def body(emit: Any, x: Any) -> Any:
        random = np.random.default_rng(1)
        v = emit(relax.op.nn.conv1d(x, const(random.normal(size=(5, 4, 4))), padding=(1, 2)), "conv")
        v = quantised(emit, emit(relax.op.nn.relu(v), "relu"), "q", scale=0.8, qmax=3)
        flat = emit(relax.op.reshape(v, (1, 60)), "flat")
        return emit(relax.op.matmul(flat, const(random.normal(size=(60, 2)))), "logits")

    methods = [
        DeepLift(rule="genomics", reference=DinucleotideShuffle(count=3, seed=1), target=1, name="shuffled"),
        DeepLift(rule="genomics", reference="input", target=1, name="given"),
    ]
    artifact = tvm_lowbit.build(module(body, (1, 4, 12)), "host", explain=methods)
    assert artifact.manifest.inputs[1].shape == (1, 3, 4, 12)
    x = one_hot("ACGTTGCAACGT", "GATTACAGATTA")
    shuffles = DinucleotideShuffle(count=3, seed=1).shuffles(x)
    runs = [artifact.run({"x": x, "given.reference": np.ascontiguousarray(shuffles[:, i])}) for i in range(3)]
    expected = np.mean([run.explanations["given"].contributions for run in runs], axis=0)
    assert np.abs(expected).max() > 0.1
    for run in runs:
        np.testing.assert_allclose(run.explanations["shuffled"].contributions, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(run.explanations["shuffled"].gap, 0, atol=1e-5)
    own = {"x": x, "given.reference": x, "shuffled.reference": np.repeat(x[:, None], 3, axis=1)}
    assert not np.any(artifact.run(own).explanations["shuffled"].contributions)
    for wrong in (x * np.float32(0.5), np.concatenate([x[:, :3], x[:, 2:3]], axis=1)):
        with pytest.raises(LowbitError, match="DinucleotideShuffle: expected one-hot sequences"):
            artifact.run({"x": wrong, "given.reference": x})


def small(*shapes: tuple[int, ...]) -> Any:
    """A dense layer."""

    def body(emit: Any, *xs: Any) -> Any:
        flat = emit(relax.op.reshape(xs[0], (1, int(np.prod(shapes[0])))), "flat")
        v = emit(relax.op.matmul(flat, const(np.ones((int(np.prod(shapes[0])), 2)))), "fc")
        return v if len(xs) == 1 else emit(relax.op.add(v, xs[1]), "sum")

    return module(body, *shapes)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "several, one of another shape": (
        [np.zeros(3), np.zeros(4)],
        [(1, 3)],
        r"DeepLift reference: expected a number or an array that broadcasts to \(1, 3\), got \(4,\)",
    ),
    "shuffle of an image": (DinucleotideShuffle(), [(1, 3, 4, 4)], r"expected an input \(N, 4, L\)"),
    "shuffle of three letters": (DinucleotideShuffle(), [(1, 3, 8)], r"expected an input \(N, 4, L\), got \(1, 3, 8\)"),
    "given to two inputs": ("input", [(1, 3), (1, 2)], "a model of one input for a reference at run time, got x, y"),
}


@pytest.mark.parametrize("name", WRONG)
def test_references_that_do_not_fit(name: str) -> None:
    """Refused when the model is built."""
    reference, shapes, message = WRONG[name]
    with pytest.raises(LowbitError, match=message):
        tvm_lowbit.build(small(*shapes), "host", explain=[DeepLift(reference=reference, target=0)])


def test_references_that_are_none() -> None:
    """Refused where they are written."""
    for reference, message in (
        ([np.zeros(3), np.float32([0, np.nan, 0])], "DeepLift reference: expected finite numbers"),
        ("output", "DeepLift reference: expected"),
    ):
        with pytest.raises(LowbitError, match=message):
            DeepLift(reference=reference)
    with pytest.raises(LowbitError, match="expected at least one"):
        References([])
    for options in ({"count": 0}, {"count": 2.5}, {"seed": -1}):
        with pytest.raises(LowbitError, match="DinucleotideShuffle"):
            DinucleotideShuffle(**options)


def test_channel_mean() -> None:
    """Over items and pixels; what it cannot be taken of is refused."""
    x = RNG.normal(size=(6, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(channel_mean(x), x.mean((0, 2, 3))[:, None, None], rtol=1e-5)
    np.testing.assert_allclose(channel_mean(x[:, :, 0, 0]), x[:, :, 0, 0].mean(0), rtol=1e-5)
    for wrong in (x[0, 0, 0], x[:0], x * np.nan):
        with pytest.raises(LowbitError, match="channel_mean"):
            channel_mean(wrong)


def test_board_script_takes_references(tmp_path: Path) -> None:
    """From an .npz; without it the script says what it needs."""
    artifact = tvm_lowbit.build(small((1, 3)), "host", explain=[DeepLift(reference="input", target=0)])
    artifact.save(tmp_path / "bundle")
    x = RNG.normal(size=(2, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", **{"x": x, "deeplift.reference": x - 1})
    command = [sys.executable, str(tmp_path / "bundle" / "predict.py")]
    done = subprocess.run([*command, str(tmp_path / "x.npy")], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "deeplift.reference (N, 3)" in done.stderr
    done = subprocess.run(
        [*command, str(tmp_path / "x.npz"), str(tmp_path / "y.npz")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(np.load(tmp_path / "y.npz")["deeplift.contributions"], np.ones((2, 3)), rtol=1e-6)
