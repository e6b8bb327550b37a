"""Train the digits networks (fp32, W2A2, W1A2) and write them as ONNX.

Run ``python examples/digits/train.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from data import SPLIT_SEED, DigitsSplit, load_digits_split
from export import export_onnx, onnx_accuracy
from model import DigitsNet
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from torch.nn import functional

BATCH = 64
LEARNING_RATE = 2e-3
STEP_LEARNING_RATE = 2e-3  # relative to the initial step
WEIGHT_DECAY = 1e-4
TEMPERATURE = 3.0
QUANTISED = {"w2a2": (2, 2), "w1a2": (1, 2)}  # name: (weight bits, activation bits)
LIBRARIES = ("torch", "onnx", "onnxruntime", "numpy", "scikit-learn")


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return `images`, shape (N, 1, 8, 8), each rotated, scaled and shifted a little."""
    count = len(images)
    angle, size, dx, dy = (torch.rand(4, count, generator=generator) * 2 - 1).unbind()
    angle, size = angle * 0.2, 1 + size * 0.1
    cos, sin = angle.cos() * size, angle.sin() * size
    # One pixel is 2/8 in the coordinates of affine_grid.
    rows = torch.stack([cos, -sin, dx * 0.2, sin, cos, dy * 0.2], dim=1).reshape(count, 2, 3)
    grid = functional.affine_grid(rows, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def loss_of(logits: Tensor, classes: Tensor, teacher_logits: Tensor | None) -> Tensor:
    """Return cross entropy, averaged with the distance to the teacher's softened answer where there is one."""
    loss = functional.cross_entropy(logits, classes)
    if teacher_logits is None:
        return loss
    soft = functional.kl_div(
        functional.log_softmax(logits / TEMPERATURE, dim=1),
        functional.log_softmax(teacher_logits / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return 0.5 * loss + 0.5 * TEMPERATURE**2 * soft


def make_optimiser(model: DigitsNet) -> torch.optim.Optimizer:
    """Return AdamW over the weights, everything else without decay, and the steps at learning rates of their own.

    Adam moves a parameter by about its learning rate whatever the gradient, and the steps span three orders of
    magnitude: at one common rate the small ones would be thrown about by many times their size.
    """
    weights = [p for name, p in model.named_parameters() if name.endswith(("conv.weight", "classifier.weight"))]
    steps = model.steps()
    known = {id(p) for p in (*weights, *steps)}
    groups: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if id(p) not in known]},
    ]
    groups += [{"params": [step], "lr": STEP_LEARNING_RATE * step.mean().item()} for step in steps]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=0.0)


def train(
    model: DigitsNet,
    split: DigitsSplit,
    epochs: int,
    seed: int,
    progress: Progress,
    name: str,
    teacher: DigitsNet | None,
) -> None:
    """Train `model` in place on the training part of `split`.

    Parameters
    ----------
    model : DigitsNet
        Network to train.
    split : DigitsSplit
        The digits; the test part is not touched.
    epochs : int
        Passes over the training digits.
    seed : int
        Seeds the order of the digits and their augmentation.
    progress : Progress
        Display to report to.
    name : str
        What the display calls the network.
    teacher : DigitsNet or None
        fp32 network to start from and to distil.
    """
    if teacher is not None:
        model.load_state_dict(teacher.state_dict(), strict=False)  # all but the steps
        teacher.eval()
    generator = torch.Generator().manual_seed(seed)
    images, classes = torch.from_numpy(split.x_train), torch.from_numpy(split.y_train)
    model.train()
    with torch.no_grad():
        model(images)  # fits the initial steps

    optimiser = make_optimiser(model)
    batches = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)

    task = progress.add_task(name, total=epochs, loss=float("nan"))
    for _ in range(epochs):
        total = 0.0
        order = torch.randperm(len(images), generator=generator)[: batches * BATCH]
        for picked in order.reshape(batches, BATCH):
            x, y = augment(images[picked], generator), classes[picked]
            with torch.no_grad():
                teacher_logits = None if teacher is None else teacher(x)
            loss = loss_of(model(x), y, teacher_logits)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] - torch leaves it untyped
            optimiser.step()
            model.keep_steps_positive()
            schedule.step()
            total += loss.item()
        progress.update(task, advance=1, loss=total / batches)


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description="Train the digits networks (fp32, W2A2, W1A2) and write them as ONNX.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, help="folder to write to (default: here)")
    parser.add_argument("--epochs", type=int, default=200, help="epochs per network (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default: %(default)s)")
    return parser.parse_args()


def main() -> None:
    """Train, export and measure all networks."""
    arguments = parse_arguments()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    # The committed files come from one thread: the order of float additions depends on the number of threads.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    split = load_digits_split()
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    networks: dict[str, DigitsNet] = {}
    with Progress(*columns, console=console) as progress:
        for name, bits in {"fp32": (None, None), **QUANTISED}.items():
            torch.manual_seed(arguments.seed)
            networks[name] = DigitsNet(*bits)
            teacher = networks["fp32"] if name in QUANTISED else None
            train(networks[name], split, arguments.epochs, arguments.seed, progress, name, teacher)

    accuracy: dict[str, float] = {}
    for name, model in networks.items():
        path = out / f"digits_{name}.onnx"
        export_onnx(model, path)
        accuracy[name] = onnx_accuracy(path, split.x_test, split.y_test)
        console.print(f"{path.name}: {accuracy[name]:.2%} of the test digits, {path.stat().st_size / 1024:.0f} KiB")
    results: dict[str, Any] = {
        "test_accuracy": accuracy,
        "test_digits": len(split.y_test),
        "epochs": arguments.epochs,
        "seed": arguments.seed,
        "split_seed": SPLIT_SEED,
        "versions": {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
    }
    (out / "results.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
