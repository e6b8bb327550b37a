"""Pixels erased and neurons switched off, against networks whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explanations.ablation import drops, logits_without
from explanations.flip import FLIPS, change, erase, measured, targets
from explanations.models import MODELS, SCHEMES
from torch import nn


def test_the_best_positive_pixels_are_erased():
    images = np.full((2, 1, 2, 2), 5, np.float32)
    scores = np.array([[4, 1, 3, 2], [1, -1, -2, 0]], np.float32).reshape(2, 1, 2, 2)
    found = erase(images, scores, 2)
    np.testing.assert_array_equal(found[0].ravel(), [0, 5, 0, 5])
    np.testing.assert_array_equal(found[1].ravel(), [0, 5, 5, 5])  # what speaks against the class stays
    assert images.min() == 5


def test_change_is_the_mean_fall():
    assert change(np.float32([3, 1]), np.float32([1, 2])) == 0.5


def test_a_flip_of_a_linear_network_is_the_sum_of_what_was_erased():
    random = np.random.default_rng(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    x = random.random((3, 1, 8, 8), np.float32)
    source, goal = FLIPS[0]
    weights = net[1].weight.detach().numpy()
    shares = x * (weights[source] - weights[goal]).reshape(1, 8, 8)
    expected = np.sort(shares.reshape(3, -1), axis=1)[:, ::-1][:, :13].clip(min=0).sum(axis=1).mean()
    assert measured(net, x, shares, source, goal) == pytest.approx(expected, rel=1e-4)
    assert len(targets()) == len(FLIPS)


@pytest.fixture
def linear_tail():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 3))


def test_ablation_of_a_linear_tail_takes_the_contributions_away(linear_tail):
    net, random = linear_tail, np.random.default_rng(0)
    x = random.random((5, 1, 4, 4), np.float32)
    reference = np.zeros((1, 1, 4, 4), np.float32)
    layer = net[1]
    with torch.no_grad():
        value, neutral = (net[:2](torch.from_numpy(a)).numpy() for a in (x, reference))
    target = np.array([0, 1, 2, 0, 1])
    weights = net[3].weight.detach().numpy().reshape(3, 6, 2, 2)[target]
    shares = ((value - neutral) * weights).sum(axis=(2, 3))
    best = np.sort(shares, axis=1)[:, ::-1]
    found = drops(net, layer, x, shares, target, reference, counts=(1, 3, 6))
    for count in (1, 3, 6):
        assert found[str(count)] == pytest.approx(best[:, :count].sum(axis=1).mean(), abs=1e-5)
    # Nothing stays of the hooks; with every channel off all that is left is the reference's answer.
    every = np.tile(np.arange(6), (5, 1))
    off = logits_without(net, layer, torch.from_numpy(x), every, torch.from_numpy(reference))
    with torch.no_grad():
        torch.testing.assert_close(off, net(torch.from_numpy(reference)).expand(5, -1))
        assert not torch.allclose(net(torch.from_numpy(x)), off)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("model", "shape", "outputs"), [("digits", (1, 8, 8), 10), ("dna", (4, 40), 3)])
def test_networks_have_the_widths_of_their_scheme(scheme, model, shape, outputs):
    torch.manual_seed(0)
    net = MODELS[model](SCHEMES[scheme])
    x = torch.rand(4, *shape)
    net.train()
    net(x)  # fits the steps
    seen = {}
    for name in ("act1", "act2", "act3"):
        net.get_submodule(name).register_forward_hook(
            lambda module, inputs, result, name=name: seen.__setitem__(name, len(result.unique()))
        )
    assert net.eval()(x).shape == (4, outputs)
    levels = SCHEMES[scheme].activations
    assert all(count <= 2**levels if levels else count > 4 for count in seen.values()) and len(seen) == 3
    kept = SCHEMES[scheme].weights
    distinct = len(net.dense1.weight_quant(net.dense1.weight).unique())
    assert distinct <= 2**kept if kept else distinct > 4
