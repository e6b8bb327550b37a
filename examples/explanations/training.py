"""Training that goes on where it was ended, epoch by epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from digits.data import load_digits_split
from torch import Tensor
from torch.nn import functional

from explanations.models import MODELS, SCHEMES, Network
from explanations.sequences import one_hot, simulate

STEP_LEARNING_RATE = 2e-3  # relative to the initial step
TEMPERATURE = 3.0  # of the fp32 network's answers that a quantised one learns from


@dataclass(frozen=True)
class Course:
    """How a network is trained: passes over the data, items of a batch, largest learning rate, and its data."""

    epochs: int
    batch: int
    rate: float
    data: Callable[[int], Data]


@dataclass(frozen=True)
class Data:
    """Training and test part: inputs, and targets that are classes (int64) or labels of several tasks (float32)."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def digits(seed: int) -> Data:
    """The digits of `examples/digits`; the split is the same for all seeds."""
    split = load_digits_split()
    return Data(*(torch.from_numpy(part) for part in (split.x_train, split.y_train, split.x_test, split.y_test)))


DNA_COUNT = 8000
DNA_TEST = 1600


def dna(seed: int) -> Data:
    """Sequences simulated from the seed, the last of them the test part."""
    found = simulate(DNA_COUNT, seed)
    x, y = torch.from_numpy(one_hot(found.codes)), torch.from_numpy(found.labels)
    return Data(x[:-DNA_TEST], y[:-DNA_TEST], x[-DNA_TEST:], y[-DNA_TEST:])


COURSES: Mapping[str, Course] = MappingProxyType(
    {"digits": Course(60, 64, 2e-3, digits), "dna": Course(70, 100, 1e-3, dna)}
)


def course_data(model: str, seed: int) -> Data:
    """The data of a model's course."""
    return COURSES[model].data(seed)


def loss_of(logits: Tensor, y: Tensor, teacher: Tensor | None) -> Tensor:
    """Cross entropy (of classes, or of each task), averaged with the distance to a teacher's softened answer."""
    if y.dtype == torch.int64:
        loss = functional.cross_entropy(logits, y)
        if teacher is None:
            return loss
        soft, wanted = (functional.log_softmax(part / TEMPERATURE, dim=1) for part in (logits, teacher))
        distance = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        return 0.5 * loss + 0.5 * TEMPERATURE**2 * distance
    loss = functional.binary_cross_entropy_with_logits(logits, y)
    if teacher is None:
        return loss
    return 0.5 * loss + 0.5 * functional.binary_cross_entropy_with_logits(logits, teacher.sigmoid())


def accuracy(logits: Tensor, y: Tensor) -> float:
    """Share of right classes, or of right answers over all tasks."""
    right = logits.argmax(1) == y if y.dtype == torch.int64 else (logits > 0) == (y > 0)
    return float(right.float().mean())


def _optimiser(net: Network, rate: float) -> torch.optim.Optimizer:
    """Adam; each step at a rate of its own, as steps span orders of magnitude and Adam moves all alike."""
    steps = net.steps()
    known = {id(step) for step in steps}
    groups: list[dict[str, Any]] = [{"params": [p for p in net.parameters() if id(p) not in known], "lr": rate}]
    groups += [{"params": [step], "lr": STEP_LEARNING_RATE * float(step.mean())} for step in steps]
    return torch.optim.Adam(groups, lr=rate)


def train(
    model: str,
    scheme: str,
    seed: int,
    kept: Path,
    teacher: Network | None,
    tell: Callable[[str], None],
    epochs: int | None = None,
    data: Data | None = None,
) -> tuple[Network, float]:
    """A trained network and its accuracy on the test part.

    Parameters
    ----------
    model, scheme : str
        Keys of `MODELS` and `SCHEMES`.
    seed : int
        Of initial weights, order and, for DNA, data.
    kept : Path
        Where the state is written after each epoch, and read from at the begin.
    teacher : Network or None
        fp32 network to start from and to learn from.
    tell : callable
        Is told the epoch and its loss.
    epochs, data : optional
        Other than the model's course has.
    """
    course = COURSES[model]
    epochs = course.epochs if epochs is None else epochs
    data = course.data(seed) if data is None else data
    torch.manual_seed(seed)
    net = MODELS[model](SCHEMES[scheme])
    if teacher is not None:
        net.load_state_dict(teacher.state_dict(), strict=False)  # all but the steps
        teacher.eval()
    net.train()
    with torch.no_grad():
        net(data.x[:200])  # fits the initial steps
    optimiser = _optimiser(net, course.rate if teacher is None else course.rate / 2)
    batches = len(data.x) // course.batch
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    begun = 0
    if kept.exists():
        state = torch.load(kept, weights_only=True)
        begun = state["epoch"]
        for part, name in ((net, "net"), (optimiser, "optimiser"), (schedule, "schedule")):
            part.load_state_dict(state[name])
    for epoch in range(begun, epochs):
        loss = _epoch(net, data, course.batch, optimiser, schedule, teacher, seed * 10_000 + epoch)
        tell(f"epoch {epoch + 1} of {epochs}, loss {loss:.4f}")
        draft = kept.with_suffix(".part")
        state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        torch.save({"epoch": epoch + 1, **state}, draft)
        draft.replace(kept)
    net.eval()
    with torch.no_grad():
        return net, accuracy(torch.cat([net(part) for part in data.x_test.split(200)]), data.y_test)


def _epoch(
    net: Network, data: Data, batch: int, optimiser: Any, schedule: Any, teacher: Network | None, seed: int
) -> float:
    # Seeded by epoch: a run that goes on sees the same batches as one that was never ended.
    order = np.random.default_rng(seed).permutation(len(data.x))
    total, batches = 0.0, len(order) // batch
    for picked in torch.from_numpy(order[: batches * batch].reshape(batches, batch)):
        x, y = data.x[picked], data.y[picked]
        with torch.no_grad():
            answer = None if teacher is None else teacher(x)
        loss = loss_of(net(x), y, answer)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call] - torch leaves it untyped
        optimiser.step()
        net.keep_steps_positive()
        schedule.step()
        total += loss.item()
    return total / batches
