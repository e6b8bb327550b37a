"""What a bundle says of itself, checked when it is read."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt


class TensorRow(BaseModel):
    """One input or output; ``shape`` includes the compiled batch."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    shape: tuple[PositiveInt, ...]
    dtype: str


class ResultRow(BaseModel):
    """One array of an explanation: ``contributions``, ``gap``, ... of the first input, or of a named layer.

    ``columns`` names what stands along its last axis, where that needs names: the layers of a ``path``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    field: str
    layer: str = ""
    columns: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """What the array is called in files: ``contributions``, ``contributions@conv1``."""
        return f"{self.field}@{self.layer}" if self.layer else self.field


class ExplanationRow(BaseModel):
    """How an explanation was computed, and the arrays it gives, in the library's order.

    ``settings`` are those of the method, its reference among them; ``target`` is what of the output it explains.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    method: str
    settings: dict[str, Any]
    target: Any
    results: tuple[ResultRow, ...]
    rules_version: int
    decomposition: str


class LayerRow(BaseModel):
    """One layer of the report: low-bit with its technique, or float with its reason.

    ``layouts`` are those that its kernel reads and writes; ``saved`` are the estimated cycles that its technique saves
    in the whole network over the one that is fastest by itself, None where that one was taken.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    op: str
    bits: str = ""
    technique: str = ""
    why: str = ""
    reason: str = ""
    bytes: int = 0
    float_bytes: int = 0
    layouts: str = ""
    saved: int | None = None


class KernelRow(BaseModel):
    """One call of a low-bit kernel.

    ``limit`` is the fewest cycles its technique's arithmetic can take, if known; ``problem`` is what its tuned rows go
    by: see `schedules.problem_key`; ``parallel`` says whether its rows are split over threads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    symbol: str
    layer: str
    bits: str
    technique: str
    macs: int
    limit: float | None = None
    problem: str = ""
    parallel: bool = False


class AssignmentRow(BaseModel):
    """Estimated cycles of low-bit kernels and conversions as assigned for the whole network, and layer by layer.

    ``kernels`` is the part of ``cycles`` that no conversion takes; ``exact`` says whether nothing is cheaper.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    cycles: float
    kernels: float
    greedy: float
    exact: bool


class MemoryRow(BaseModel):
    """Bytes that the program holds as TVM planned them at compile time; see `relay_passes.memory.MemoryPlan`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: int
    activations: int
    workspaces: int
    each_thread: int
    peak: int


class Manifest(BaseModel):
    """Everything about a compiled library but its code.

    ``outputs`` are the model's own; the library returns them first, then each explanation's ``results``, then the codes
    of each probed quantiser. ``kernels`` are in the order they run. ``features`` are what of
    `schedules.cores.FEATURES` the code relies on; None in bundles that do not say. ``files`` maps the bundle's other
    files to their SHA-256.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[2] = 2
    tvm: str
    board: str
    core: str
    mtriple: str
    mcpu: str
    features: tuple[str, ...] | None = None
    batch: PositiveInt
    inputs: tuple[TensorRow, ...] = Field(min_length=1)
    outputs: tuple[TensorRow, ...] = Field(min_length=1)
    explanations: tuple[ExplanationRow, ...] = ()
    probes: tuple[str, ...] = ()
    layers: tuple[LayerRow, ...] = ()
    kernels: tuple[KernelRow, ...] = ()
    assignment: AssignmentRow | None = None
    memory: MemoryRow | None = None
    files: dict[str, str] = {}
