"""``BOARDS``: the boards users name, and what a name, a TVM target or a dict means for the compiler."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import tvm

from schedules.cores import CORES, CoreSpec, host_core
from schedules.errors import LowbitError


@dataclass(frozen=True)
class BoardRow:
    """A board: its core (None: this machine's), its name, one line of help, and its clock in Hz where it has one."""

    name: str
    core: str | None
    help: str
    clock: float | None = None


_ROWS = (
    BoardRow("arm_cpu", "cortex-a72", "any Armv8-A board; techniques chosen for Cortex-A72"),
    BoardRow("rpi3", "cortex-a53", "Raspberry Pi 3, 64-bit system", 1.4e9),
    BoardRow("rpi4", "cortex-a72", "Raspberry Pi 4, 64-bit system", 1.8e9),
    BoardRow("rpi5", "cortex-a76", "Raspberry Pi 5", 2.4e9),
    BoardRow("host", None, "this machine"),
)
BOARDS: Mapping[str, BoardRow] = MappingProxyType({row.name: row for row in _ROWS})


@dataclass(frozen=True)
class BuildTarget:
    """Where a library will run: the name it was asked by, and the core it is built for."""

    name: str
    core: CoreSpec

    @property
    def is_host(self) -> bool:
        """Whether this process can run the library."""
        return self.core.is_arm == host_core().is_arm

    def tvm_target(self) -> Any:
        """The target for TVM's compiler."""
        return tvm.target.Target(self.core.target_dict())


def resolve(target: Any) -> BuildTarget:
    """What a user's ``target`` argument means.

    Parameters
    ----------
    target : str, dict or tvm.target.Target
        A row of `BOARDS`, or an ``llvm`` target of TVM in its dict spelling or as an object.

    Raises
    ------
    LowbitError
        If it is none of these, or its architecture is neither AArch64 nor x86-64.
    """
    if isinstance(target, str):
        if target not in BOARDS:
            raise LowbitError("target", f"one of {', '.join(BOARDS)}, a dict or a tvm Target", repr(target))
        name = BOARDS[target].core
        return BuildTarget(target, host_core() if name is None else CORES[name])
    if isinstance(target, dict):
        try:
            target = tvm.target.Target(target)
        except Exception as error:  # TVM raises many types for malformed dicts
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise LowbitError("target", "a dict that tvm.target.Target takes", lines[-1].strip()) from error
    if not isinstance(target, tvm.target.Target):
        raise LowbitError("target", f"one of {', '.join(BOARDS)}, a dict or a tvm Target", type(target).__name__)
    return _from_tvm(target)


def _from_tvm(target: Any) -> BuildTarget:
    attrs = target.attrs
    triple, cpu = str(attrs.get("mtriple", "")), str(attrs.get("mcpu", ""))
    architecture = triple.split("-")[0] or ("x86_64" if not host_core().is_arm else "aarch64")
    rows = {"aarch64": CORES["cortex-a72"], "arm64": CORES["cortex-a72"], "x86_64": CORES["x86-64"]}
    if str(target.kind.name) != "llvm" or architecture not in rows:
        raise LowbitError(
            "target", "kind llvm with an mtriple of aarch64 or x86_64", f"{target.kind.name} {triple}".strip()
        )
    row = next((c for c in CORES.values() if c.mcpu == cpu), rows[architecture])
    triple = triple or host_core().mtriple
    # LLVM only logs a CPU it does not know and compiles for a generic one.
    if cpu and not tvm.get_global_func("target.llvm_is_valid_cpu")(cpu, triple):
        raise LowbitError("target", f"an mcpu that LLVM knows for {triple}", repr(cpu))
    has = {"asimd": "feature.has_asimd", "dotprod": "feature.has_dotprod"}
    features = {name for name, key in has.items() if attrs.get(key, False)}
    if architecture == "x86_64":
        has_feature = tvm.get_global_func("target.llvm_cpu_has_feature")
        features = {name for name, feature in (("fma", "fma"), ("avx512", "avx512f")) if has_feature(feature, target)}
    core = replace(
        row,
        mtriple=triple,
        mcpu=cpu or "generic",
        mattr=tuple(str(a) for a in attrs.get("mattr", ())),
        features=frozenset(features),
        cores=int(attrs.get("num-cores", row.cores)),
    )
    return BuildTarget("custom", core)
