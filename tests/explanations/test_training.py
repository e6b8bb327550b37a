"""A training that was ended goes on to the same network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from explanations.training import Data, accuracy, loss_of, train


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    y = np.arange(192) % 10
    x = random.random((192, 1, 8, 8)).astype(np.float32) * 0.2
    x[np.arange(192), 0, y % 8, y // 8 * 4] += 1
    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return Data(x[:128], y[:128], x[128:], y[128:])


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_an_ended_training_goes_on_where_it_was(data, tmp_path):
    told = []
    teacher, reached = train("digits", "fp32", 0, tmp_path / "fp32.pt", None, told.append, 8, data)
    assert reached > 0.3 and len(told) == 8 and told[-1].startswith("epoch 8 of 8")

    class Ended(Exception):
        pass

    def end(text):
        if text.startswith("epoch 2"):
            raise Ended

    def quantised(path, tell):
        return train("digits", "w2a2", 0, path, teacher, tell, 3, data)[0]

    whole = state(quantised(tmp_path / "whole.pt", told.append))
    with pytest.raises(Ended):
        quantised(tmp_path / "parts.pt", end)
    told.clear()
    parts = state(quantised(tmp_path / "parts.pt", told.append))
    assert len(told) == 2  # the epoch that was being told of had not been kept
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=0)
    told.clear()
    quantised(tmp_path / "parts.pt", told.append)
    assert told == []


def test_losses_and_accuracies_of_classes_and_of_tasks():
    logits = torch.tensor([[2.0, -1.0], [0.5, 1.5]])
    assert accuracy(logits, torch.tensor([0, 0])) == 0.5
    assert accuracy(logits, torch.tensor([[1.0, 1.0], [1.0, 1.0]])) == 0.75
    for y in (torch.tensor([0, 1]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])):
        plain = loss_of(logits, y, None)
        assert plain > 0
        # A teacher that answers the same pulls nowhere.
        pulled = logits.clone().requires_grad_()
        free = logits.clone().requires_grad_()
        loss_of(pulled, y, logits).backward()
        loss_of(free, y, None).backward()
        torch.testing.assert_close(pulled.grad, free.grad / 2)
