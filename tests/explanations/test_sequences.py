"""Simulated DNA has what its labels say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from explanations.motifs import BACKGROUND, log_odds
from explanations.sequences import LENGTH, TASKS, one_hot, simulate


@pytest.fixture(scope="module")
def simulated():
    return simulate(400, seed=1)


def test_a_quarter_each_has_both_either_or_no_motif(simulated):
    assert simulated.codes.shape == (400, LENGTH) and simulated.labels.shape == (400, len(TASKS))
    kinds = ((1, 1, 1), (0, 1, 0), (0, 0, 1), (0, 0, 0))
    assert Counter(map(tuple, simulated.labels.astype(int).tolist())) == dict.fromkeys(kinds, 100)


@pytest.mark.parametrize("name", TASKS[1:])
def test_labelled_sequences_match_their_motif_best(simulated, name):
    best = log_odds(simulated.codes, name).max(axis=1)
    planted = simulated.labels[:, TASKS.index(name)] > 0
    assert best[planted].mean() > best[~planted].mean() + 2
    assert (best[planted] > 5).mean() > 0.9


def test_the_seed_says_everything_and_letters_follow_the_background(simulated):
    again, other = simulate(400, seed=1), simulate(400, seed=2)
    np.testing.assert_array_equal(again.codes, simulated.codes)
    assert (other.codes != simulated.codes).mean() > 0.5
    plain = simulated.codes[~simulated.labels.any(axis=1)]
    np.testing.assert_allclose(np.bincount(plain.ravel()) / plain.size, BACKGROUND, atol=0.02)


def test_one_hot_has_a_channel_for_each_letter():
    x = one_hot(np.array([[0, 3, 1]], np.uint8))
    assert x.shape == (1, 4, 3) and x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_array_equal(x[0], [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]])
