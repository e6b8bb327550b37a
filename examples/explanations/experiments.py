"""What is measured: rows of three experiments, each by its key."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explanations import ablation, flip, shares
from explanations.library import ask
from explanations.methods import METHODS, NEURON_METHODS, Method
from explanations.models import Network
from explanations.motifs import BACKGROUND, LETTERS
from explanations.sequences import TASKS
from explanations.training import Data, course_data, train
from tvm_lowbit.references import DinucleotideShuffle

Tell = Callable[[str], None]
Row = dict[str, Any]
BATCH = 8  # items of one call
SEEDS = 5  # networks of each scheme for the digits
DNA_SEED = 0  # of the one pair of networks for DNA
SHUFFLES = 5  # of each sequence
FEW = 100  # sequences, where each is explained many times over
# Where contributions to DNA are measured from, by name.
REFERENCES: Mapping[str, Any] = MappingProxyType(
    {
        "background": BACKGROUND.astype(np.float32).reshape(4, 1),
        "zeros": 0.0,
        "shuffled": DinucleotideShuffle(SHUFFLES),
    }
)


class Networks:
    """Trained networks, each trained when it is first asked for."""

    def __init__(self, folder: Path, epochs: int | None = None) -> None:
        self._folder, self._epochs = folder, epochs
        self._known: dict[tuple[str, str, int], tuple[Network, float]] = {}
        self._data: dict[tuple[str, int], Data] = {}

    def data(self, model: str, seed: int) -> Data:
        """What the network of this seed was trained and is tested on."""
        if (model, seed) not in self._data:
            self._data = {(model, seed): course_data(model, seed)}
        return self._data[model, seed]

    def trained(self, model: str, scheme: str, seed: int, tell: Tell) -> tuple[Network, float]:
        """A network and its accuracy; a quantised one is trained from the fp32 network of the same seed."""
        key = (model, scheme, seed)
        if key not in self._known:
            teacher = None if scheme == "fp32" else self.trained(model, "fp32", seed, tell)[0]
            name = "-".join(map(str, key))

            def training(text: str) -> None:
                tell(f"training {name}, {text}")

            kept = self._folder / f"{name}.pt"
            data = self.data(model, seed)
            self._known[key] = train(model, scheme, seed, kept, teacher, training, self._epochs, data)
        return self._known[key]


@dataclass(frozen=True)
class Task:
    """One row: its key, its method, what it depends on, and what makes it."""

    key: str
    method: str
    settings: Row
    run: Callable[[Networks, Tell], Row]


def _scores(method: Method, net: Network, x: Any, targets: Any, reference: Any, seed: int) -> tuple[Any, Row]:
    """Scores of inputs, shape (N, targets, ...), and how far they are from summing up."""
    if method.make is None:
        random = np.random.default_rng(seed)
        return random.random((len(x), len(targets), *x.shape[1:]), np.float32), {}
    began = time.perf_counter()
    answer = ask(net, [method.make(reference=reference, target=list(targets), name="asked")], x, BATCH)
    explanation = answer.explanations["asked"]
    row: Row = {"seconds": round(time.perf_counter() - began, 1)}
    found = method.scores(explanation)[: len(x)]
    if "gap" in explanation.values:
        row |= missing(explanation.contributions[: len(x)], explanation.gap[: len(x)])
    return found, row


def missing(contributions: NDArray[np.float32], gap: NDArray[np.float32]) -> Row:
    """What contributions miss of the differences they explain: mean size of the gaps over that of the differences."""
    difference = contributions.astype(np.float64).sum(axis=tuple(range(gap.ndim, contributions.ndim))) - gap
    return {"gap": float(np.mean(np.abs(gap)) / np.mean(np.abs(difference)))}


def _flip(scheme: str, seed: int, name: str, items: int | None) -> Callable[[Networks, Tell], Row]:
    def run(networks: Networks, tell: Tell) -> Row:
        net, accuracy = networks.trained("digits", scheme, seed, tell)
        data = networks.data("digits", seed)
        tell("explaining")
        sources = sorted({source for source, _ in flip.FLIPS})
        of = data.y_test.numpy()
        picked = np.concatenate([np.flatnonzero(of == source)[:items] for source in sources])
        x, of = data.x_test.numpy()[picked], of[picked]
        scores, row = _scores(METHODS[name], net, x, flip.targets(), 0.0, seed)
        changes = {
            f"{source} to {goal}": flip.measured(net, x[of == source], scores[of == source, i], source, goal)
            for i, (source, goal) in enumerate(flip.FLIPS)
        }
        return row | {"accuracy": accuracy, "mean": float(np.mean(list(changes.values()))), "changes": changes}

    return run


def _motifs(scheme: str, name: str, reference: str, items: int | None) -> Callable[[Networks, Tell], Row]:
    def run(networks: Networks, tell: Tell) -> Row:
        net, accuracy = networks.trained("dna", scheme, DNA_SEED, tell)
        data = networks.data("dna", DNA_SEED)
        tell("explaining")
        both = np.flatnonzero(data.y_test[:, TASKS.index("both")].numpy())[:items]
        x = data.x_test.numpy()[both]
        codes = x.argmax(1).astype(np.uint8)
        scores, row = _scores(METHODS[name], net, x, [TASKS.index("both")], REFERENCES[reference], DNA_SEED)
        totals = scores[:, 0].sum(1)
        return row | {
            **{"accuracy": accuracy, "sequences": len(x), "missed": shares.missed(codes, totals)},
            **{
                "letters": "".join(LETTERS[code] for code in codes[0]),
                "scores": [round(float(s), 4) for s in totals[0]],
            },
        }

    return run


def _ablation(scheme: str, seed: int, name: str, items: int | None) -> Callable[[Networks, Tell], Row]:
    def run(networks: Networks, tell: Tell) -> Row:
        net, _ = networks.trained("digits", scheme, seed, tell)
        data = networks.data("digits", seed)
        tell("explaining")
        x = data.x_test.numpy()[: items or ablation.ITEMS]
        return ablation.measured(net, x, NEURON_METHODS[name], seed, BATCH)

    return run


def _flips(schemes: tuple[str, ...], seeds: int, items: int | None) -> Iterator[Task]:
    for seed in range(seeds):
        for name in METHODS:
            for scheme in schemes:
                settings = {"seed": seed, "items": items, **METHODS[name].settings}
                yield Task(f"flip/{scheme}/{seed}/{name}", name, settings, _flip(scheme, seed, name, items))


def _motif_shares(schemes: tuple[str, ...], seeds: int, items: int | None) -> Iterator[Task]:
    for scheme in (scheme for scheme in ("fp32", "w2a2") if scheme in schemes):
        for name, method in ((name, method) for name, method in METHODS.items() if method.dna):
            for reference in REFERENCES if method.shuffles else ("background", "zeros"):
                count = items or (FEW if method.settings or reference == "shuffled" else None)
                settings = {"seed": DNA_SEED, "items": count, **method.settings}
                run = _motifs(scheme, name, reference, count)
                yield Task(f"motifs/{scheme}/{name}/{reference}", name, settings, run)


def _ablations(schemes: tuple[str, ...], seeds: int, items: int | None) -> Iterator[Task]:
    for seed in range(seeds):
        for scheme in (scheme for scheme in ("fp32", "w2a2") if scheme in schemes):
            for name, method in NEURON_METHODS.items():
                settings = {"seed": seed, "items": items, **method.settings}
                yield Task(f"ablation/{scheme}/{seed}/{name}", name, settings, _ablation(scheme, seed, name, items))


EXPERIMENTS: Mapping[str, Callable[[tuple[str, ...], int, int | None], Iterator[Task]]] = MappingProxyType(
    {"flip": _flips, "motifs": _motif_shares, "ablation": _ablations}
)


def tasks(chosen: tuple[str, ...], schemes: tuple[str, ...], seeds: int, items: int | None) -> Iterator[Task]:
    """All rows of the chosen experiments, those of the first seed first."""
    found = [task for name in EXPERIMENTS if name in chosen for task in EXPERIMENTS[name](schemes, seeds, items)]
    yield from sorted(found, key=lambda task: task.settings["seed"])
