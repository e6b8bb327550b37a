"""``CORES``: what each core can do, one row a core.

Throughputs are 128-bit instructions per cycle measured by ocxtal/insn_bench_aarch64 (MIT) on a Raspberry Pi 3
(Cortex-A53), an NXP LX2160A (Cortex-A72) and an AWS Graviton2 (Neoverse N1, the server sibling of Cortex-A76).
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import tvm

from schedules.errors import LowbitError

FEATURES = frozenset({"asimd", "dotprod", "fma", "avx512"})
OPERATIONS = frozenset({"and", "cnt", "uadalp", "mla", "widen", "ldr", "str"})


@dataclass(frozen=True)
class Cache:
    """A data cache of lines of 64 bytes: ``size`` in bytes, ``ways`` of its sets."""

    size: int
    ways: int

    def __post_init__(self) -> None:
        sets = self.size // 64 // max(self.ways, 1)
        if self.ways < 1 or sets < 1 or self.size != 64 * self.ways * sets or sets & (sets - 1):
            raise ValueError(f"a cache is a power of two of sets of {self.ways} lines: {self}")


@dataclass(frozen=True)
class CoreSpec:
    """One processor core.

    Attributes
    ----------
    name : str
        The name users and tables know it by; also the CPU that qemu emulates for it.
    mtriple, mcpu, mattr
        What LLVM is told.
    features : frozenset of str
        Instruction-set features that techniques may rely on.
    vector_issue : float
        128-bit vector instructions the core starts per cycle.
    throughput : mapping of str to float
        Instructions per cycle of each operation that the cost estimates count.
    pipes : mapping of str to str
        Operations that share one pipe; an operation missing here may use any.
    cores : int
        Number of cores on a usual board.
    source : str
        Where the figures come from.
    l1, l2 : Cache
        The data cache of a core, and the next one.
    caches : str
        Where their figures come from.
    miss : float or None
        Cycles that a line costs which misses L1, where they are known; see `MISS_SOURCE`.
    """

    name: str
    mtriple: str
    mcpu: str
    features: frozenset[str]
    vector_issue: float
    throughput: Mapping[str, float]
    source: str
    pipes: Mapping[str, str] = field(default_factory=dict)
    mattr: tuple[str, ...] = ()
    cores: int = 4
    l1: Cache = Cache(32 << 10, 4)
    l2: Cache = Cache(512 << 10, 16)
    caches: str = "assumed"
    miss: float | None = None

    def __post_init__(self) -> None:
        if not self.features <= FEATURES:
            raise ValueError(f"{self.name}: unknown features {sorted(self.features - FEATURES)}")
        if set(self.throughput) != OPERATIONS:
            raise ValueError(f"{self.name}: throughput must name exactly {sorted(OPERATIONS)}")
        if min(self.throughput.values()) <= 0 or self.vector_issue <= 0:
            raise ValueError(f"{self.name}: throughputs must be positive")
        if not set(self.pipes) <= OPERATIONS:
            raise ValueError(f"{self.name}: pipes of unknown operations {sorted(set(self.pipes) - OPERATIONS)}")
        object.__setattr__(self, "throughput", MappingProxyType(dict(self.throughput)))
        object.__setattr__(self, "pipes", MappingProxyType(dict(self.pipes)))

    def cycles(self, counts: Mapping[str, float]) -> float:
        """Fewest cycles in which the core can start these instructions (issue and pipe limits, no latencies)."""
        busy: dict[str, float] = {}
        for operation, count in counts.items():
            pipe = self.pipes.get(operation, operation)
            busy[pipe] = busy.get(pipe, 0.0) + count / self.throughput[operation]
        return max([sum(counts.values()) / self.vector_issue, *busy.values()])

    @property
    def is_arm(self) -> bool:
        """Whether this is an AArch64 core."""
        return self.mtriple.startswith("aarch64")

    @property
    def vector_bits(self) -> int:
        """Of the vectors that LLVM makes of a loop."""
        return 512 if "avx512" in self.features else 256 if "fma" in self.features else 128

    def target_dict(self) -> dict[str, object]:
        """The TVM target in its dict spelling."""
        row: dict[str, object] = {"kind": "llvm", "mtriple": self.mtriple, "mcpu": self.mcpu, "num-cores": self.cores}
        return row | ({"mattr": list(self.mattr)} if self.mattr else {})


MISS_SOURCE = (
    "a constant for each core, fitted to ncnn's published ResNet-18 (fp32, int8) and MobileNetV2 on Raspberry Pi 3, 4 "
    "and 5: three constants to nine points, within 10 % but for one (16 %). Consistent, not tested blind"
)
_BENCH = "ocxtal/insn_bench_aarch64"
_AARCH64 = "aarch64-linux-gnu"
_ASIMD = frozenset({"asimd"})
# Crypto and CRC are optional in Armv8.0; a library for any Armv8-A core must not use them.
_ANY_ARMV8 = ("+neon", "-aes", "-sha2", "-crc")
_A72_RATES = {"and": 1.5, "cnt": 1.0, "uadalp": 1.0, "mla": 0.5, "widen": 1.0, "ldr": 1.0, "str": 1.0}
_A53_RATES = {"and": 1.0, "cnt": 1.0, "uadalp": 0.5, "mla": 1.0, "widen": 1.0, "ldr": 0.5, "str": 0.5}
_A76_RATES = {"and": 2.0, "cnt": 2.0, "uadalp": 1.0, "mla": 0.5, "widen": 1.0, "ldr": 2.0, "str": 2.0}
_HOST_RATES = {"and": 3.0, "cnt": 0.3, "uadalp": 0.7, "mla": 1.0, "widen": 1.0, "ldr": 2.0, "str": 1.0}
_F1 = {"cnt": "F1", "uadalp": "F1", "widen": "F1"}

_HOST_SOURCE = "assumed, to rank techniques only: SSE has no vector popcount, so CNT is a table look-up"
_ROWS = (
    CoreSpec(
        "cortex-a72",
        _AARCH64,
        "cortex-a72",
        _ASIMD,
        1.5,
        _A72_RATES,
        f"{_BENCH}: NXP LX2160A",
        _F1,
        _ANY_ARMV8,
        l1=Cache(32 << 10, 2),
        l2=Cache(1 << 20, 16),
        caches="Arm's Cortex-A72 TRM; L2 of BCM2711 (Raspberry Pi 4)",
        miss=16.0,
    ),
    CoreSpec(
        "cortex-a53",
        _AARCH64,
        "cortex-a53",
        _ASIMD,
        1.0,
        _A53_RATES,
        f"{_BENCH}: Raspberry Pi 3",
        dict.fromkeys(OPERATIONS, "NEON"),
        _ANY_ARMV8,
        l1=Cache(32 << 10, 4),
        l2=Cache(512 << 10, 16),
        caches="Arm's Cortex-A53 TRM; L2 of BCM2837 (Raspberry Pi 3)",
        miss=23.0,
    ),
    CoreSpec(
        "cortex-a76",
        _AARCH64,
        "cortex-a76",
        frozenset({"asimd", "dotprod"}),
        2.0,
        _A76_RATES,
        f"{_BENCH}: AWS Graviton2 (Neoverse N1)",
        mattr=("+neon",),
        l1=Cache(64 << 10, 4),
        l2=Cache(512 << 10, 8),
        caches="Arm's Cortex-A76 TRM; L2 of BCM2712 (Raspberry Pi 5)",
        miss=4.0,
    ),
    CoreSpec(
        "x86-64",
        "x86_64-linux-gnu",
        "x86-64-v2",
        frozenset(),
        3.0,
        _HOST_RATES,
        _HOST_SOURCE,
    ),
    CoreSpec("x86-64-v3", "x86_64-linux-gnu", "x86-64-v3", frozenset({"fma"}), 3.0, _HOST_RATES, _HOST_SOURCE),
    CoreSpec(
        "x86-64-v4",
        "x86_64-linux-gnu",
        "x86-64-v4",
        frozenset({"fma", "avx512"}),
        3.0,
        _HOST_RATES,
        _HOST_SOURCE,
        # LLVM keeps to half of each register otherwise, for the sake of cores that slow down.
        mattr=("-prefer-256-bit",),
    ),
)

CORES: Mapping[str, CoreSpec] = MappingProxyType({row.name: row for row in _ROWS})
if len(CORES) != len(_ROWS):
    raise ValueError("CORES: a name is registered twice")


def find_core(name: str) -> CoreSpec:
    """The row of this name.

    Raises
    ------
    LowbitError
        If there is none.
    """
    if name not in CORES:
        raise LowbitError("core", f"one of {', '.join(CORES)}", repr(name), "add a row to schedules/cores.py")
    return CORES[name]


_CPU = Path("/proc/cpuinfo")
# What x86-64-v3 and -v4 ask of a machine, as far as kernels and LLVM's code for them could tell.
_LEVELS = MappingProxyType(
    {
        "x86-64-v4": ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"),
        "x86-64-v3": ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave"),
    }
)


def host_core() -> CoreSpec:
    """The row for the machine this runs on; Armv8-A hosts count as Cortex-A72."""
    if platform.machine() in ("aarch64", "arm64"):
        return CORES["cortex-a72"]
    has = _host_features()
    best, name = True, "x86-64"
    for level in reversed(_LEVELS):
        best = best and all(has.get(feature, False) for feature in _LEVELS[level])
        name = level if best else name
    return CORES[name]


def host_features() -> frozenset[str]:
    """What this machine has of `FEATURES`: on x86 as LLVM finds, on Arm as Linux says, all where it says nothing."""
    core = host_core()
    if not core.is_arm:
        return core.features
    try:
        said = _CPU.read_text().split()
    except OSError:
        return FEATURES
    return _ASIMD | ({"dotprod"} if "asimddp" in said or "Features" not in said else frozenset())


@functools.cache
def _host_features() -> Mapping[str, bool]:
    """What LLVM finds this machine to have."""
    found = tvm.get_global_func("tvm.codegen.llvm.GetHostCPUFeatures")()
    return {str(name): bool(value) for name, value in (found or {}).items()}
