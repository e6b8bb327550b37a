"""The example, whole: build the digits network, run it here and on an emulated Arm, measure it against its twins."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from relay_passes.attribution.methods import DeepLift
from schedules.errors import LowbitError
from tvm_lowbit.artifact import Artifact
from tvm_lowbit.boards.emulated import EmulatedBoard
from tvm_lowbit.build import build
from tvm_lowbit.heatmap import draw_sheet, heatmaps, save
from tvm_lowbit.report import Report
from tvm_lowbit.result import Result

Array = npt.NDArray[Any]
SAMPLE_PER_CLASS = 2  # of ten classes: 20 digits on the emulated board and on the sheet
# What the example promises; the demo fails where it does not hold.
ACCURACY = 0.96
LOGITS = 1e-4  # the largest difference, relative to the digit's largest logit
GAP = 1e-4  # relative to the difference that is explained, where that is above 1
WEIGHTS = 12.0  # times smaller than float32


@dataclass(frozen=True)
class Measure:
    """A row of the demo's table; ``holds`` is None where nothing is promised."""

    what: str
    measured: str
    promised: str = ""
    holds: bool | None = None


@dataclass(frozen=True)
class Demo:
    """What the demo found and wrote; ``skipped`` says what was left out and the command that brings it."""

    measures: tuple[Measure, ...]
    sizes: tuple[Measure, ...]
    report: Report
    sheet: Path
    bundle: Path
    skipped: str | None = None

    @property
    def holds(self) -> bool:
        """Whether everything promised holds."""
        return all(row.holds is not False for row in (*self.measures, *self.sizes))

    @property
    def written(self) -> str:
        """Where things are, and what was left out."""
        lines = [f"digits and their contributions: {self.sheet}", f"bundle for a board: {self.bundle}"]
        return "\n".join([*lines, f"not run on an emulated Arm: {self.skipped}"] if self.skipped else lines)

    def tables(self) -> list[Table]:
        """For a rich console."""
        rows = {"Measured": self.measures, "Sizes": self.sizes}
        return [_table(title, measures) for title, measures in rows.items()] + [self.report.table()]


def run_demo(
    out: Path,
    emulated: bool = True,
    step: Callable[[str], None] = lambda name: None,
    detail: Callable[[str], None] = lambda text: None,
) -> Demo:
    """Run it.

    Parameters
    ----------
    out : Path
        Folder for the sheet of digits and the bundle.
    emulated : bool
        Whether to run a sample on the emulated board; skipped where `EmulatedBoard.missing` says what is missing.
    step, detail : callable, optional
        Called with the name of each step as it begins, and with what goes on inside it.

    Raises
    ------
    LowbitError
        If the example's files or the packages of the extra ``demo`` are missing, or a stage fails.
    """
    skipped = EmulatedBoard.missing() if emulated else None

    def items(done: int, total: int) -> None:
        detail(f"{done} of {total}")

    step("load the digits")
    folder = examples_folder()
    _needed("onnxruntime")  # said before all the work, not after it
    split = _digits(folder).load_digits_split()
    x, y = split.x_test, split.y_test
    sample = np.concatenate([np.flatnonzero(y == digit)[:SAMPLE_PER_CLASS] for digit in range(10)])
    low, twin = folder / "digits_w2a2.onnx", folder / "digits_fp32.onnx"

    step("build the W2A2 network with DeepLIFT for host")
    host = build(low, "host", explain=[DeepLift()], progress=detail)
    step("build the W2A2 network with DeepLIFT for arm_cpu")
    arm = build(low, "arm_cpu", explain=[DeepLift()], progress=detail)
    step("build the W2A2 network alone for arm_cpu")
    plain = build(low, "arm_cpu", progress=detail)
    step("build its float32 twin for arm_cpu")
    floats = build(twin, "arm_cpu", progress=detail)
    step("link, and write the bundle")
    bundle = arm.save(out / "digits_w2a2_arm_cpu")
    sizes = _sizes(arm, plain, floats)
    step(f"run the {len(x)} test digits here")
    here = host.run(x, each=items)
    step("run them in ONNX Runtime")
    measures = [*_against_onnx(here, onnx_logits(low, x), y), _gap(here)]
    if emulated and skipped is None:
        step(f"run {len(sample)} digits on the emulated Arm board")
        measures += _against_host(arm.run(x[sample], EmulatedBoard(), each=items), here, sample)
    step("draw the sheet")
    found = heatmaps(x, here, "deeplift", sample.tolist(), "no.")
    sheet = save(draw_sheet(found, "W2A2 digits, and what each pixel adds to the predicted class"), out / "digits.png")
    return Demo(tuple(measures), sizes, arm.report, sheet, bundle, skipped)


def examples_folder() -> Path:
    """The folder of the digits example, in the checkout that this package lies in.

    Raises
    ------
    LowbitError
        If it is not there: installed packages come without the examples.
    """
    folder = Path(__file__).parents[1] / "examples" / "digits"
    if not (folder / "data.py").is_file():
        hint = "run the demo in a checkout of the repository: make demo"
        raise LowbitError("demo", f"the example in {folder}", "nothing there", hint)
    return folder


def onnx_logits(model: Path, x: Array) -> Array:
    """What ONNX Runtime computes for the fake-quantised graph, its optimisations off: they would round differently."""
    runtime = _needed("onnxruntime")
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def _needed(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise LowbitError("demo", f"the package {name}", str(error), "pip install 'tvm_lowbit[demo]'") from error


def _digits(folder: Path) -> ModuleType:
    """The example's own data.py, under a name that cannot shadow another module."""
    _needed("sklearn")
    spec = importlib.util.spec_from_file_location("tvm_lowbit_example_digits", folder / "data.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %"


def _relative(got: Array, expected: Array) -> float:
    """The largest difference of an item, relative to the item's largest value; 0 where both are 0."""
    axes = tuple(range(1, got.ndim))
    largest = np.maximum(np.abs(expected).max(axes), np.finfo(np.float32).tiny)
    return float((np.abs(got - expected).max(axes) / largest).max())


def _against_onnx(here: Result, expected: Array, y: Array) -> list[Measure]:
    logits = here.outputs["logits"]
    accuracy = float((logits.argmax(1) == y).mean())
    agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    largest = _relative(logits, expected)
    return [
        Measure(
            f"test accuracy, {len(y)} digits",
            _percent(accuracy),
            f"at least {_percent(ACCURACY)}",
            accuracy >= ACCURACY,
        ),
        Measure("same class as ONNX Runtime", _percent(agreement), _percent(1), agreement == 1),
        Measure("logits off ONNX Runtime's, at most", f"{largest:.1e} relative", f"{LOGITS:.0e}", largest <= LOGITS),
    ]


def _gap(here: Result) -> Measure:
    found = here.explanations["deeplift"]
    explained = found.contributions.sum((1, 2, 3), dtype=np.float64) - found.gap
    gap = float((np.abs(found.gap) / np.maximum(1.0, np.abs(explained))).max())
    return Measure("DeepLIFT's completeness gap, at most", f"{gap:.1e} relative", f"{GAP:.0e}", gap <= GAP)


def _against_host(board: Result, here: Result, sample: Array) -> list[Measure]:
    got, expected = board.outputs["logits"], here.outputs["logits"][sample]
    same = sum(a.tobytes() == b.tobytes() for a, b in zip(got, expected, strict=True))
    shares = [result.explanations["deeplift"].contributions for result in (board, here)]
    # Sums in the reverse walk stay in float32, in the order that each machine's vectors give: not bitwise.
    largest = _relative(shares[0], shares[1][sample])
    return [
        Measure("logits on emulated Arm, bit for bit", f"{same} of {len(sample)} digits", "all", same == len(sample)),
        Measure("contributions on emulated Arm, off by", f"{largest:.1e} relative", f"{GAP:.0e}", largest <= GAP),
    ]


def _sizes(arm: Artifact, plain: Artifact, floats: Artifact) -> tuple[Measure, ...]:
    rows = arm.report.low_bit
    two = [row for row in rows if row.bits.startswith("W2")]
    small, large = sum(row.bytes for row in two), sum(row.float_bytes for row in two)
    some, full = sum(row.bytes for row in rows), sum(row.float_bytes for row in rows)
    here, twin, explained = (a.library().stat().st_size for a in (plain, floats, arm))
    promise = small * WEIGHTS <= large
    return (
        Measure("weights of the 2-bit layers", _share(small, large), f"at most 1/{WEIGHTS:g}", promise),
        Measure("weights of all low-bit layers", _share(some, full)),
        Measure("library", _share(here, twin)),
        Measure("library with DeepLIFT inside", _share(explained, twin)),
    )


def _share(size: int, twin: int) -> str:
    share = f"1/{twin / size:.1f}" if size < twin else f"{size / twin:.1f} times as large"
    return f"{size:,} bytes, float32 {twin:,}: {share}"


def _table(title: str, measures: tuple[Measure, ...]) -> Table:
    table = Table("what", "measured", "promised", "holds", title=title, title_justify="left")
    words = {True: "[green]yes[/]", False: "[bold red]NO[/]", None: ""}
    for row in measures:
        table.add_row(row.what, row.measured, row.promised, words[row.holds])
    return table
