"""The table of cores: its checks and its cost arithmetic."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import tvm

from schedules import cores
from schedules.cores import CORES, FEATURES, OPERATIONS, find_core, host_core
from schedules.errors import LowbitError

A72 = CORES["cortex-a72"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"features": frozenset({"asimd", "amx"})}, r"cortex-a72: unknown features \['amx'\]"),
        ({"throughput": {"and": 1.0}}, "cortex-a72: throughput must name exactly .*'uadalp'"),
        ({"throughput": {**A72.throughput, "tbl": 1.0}}, "cortex-a72: throughput must name exactly"),
        ({"throughput": {**A72.throughput, "cnt": 0.0}}, "cortex-a72: throughputs must be positive"),
        ({"vector_issue": 0.0}, "cortex-a72: throughputs must be positive"),
        ({"pipes": {"tbl": "F1"}}, r"cortex-a72: pipes of unknown operations \['tbl'\]"),
    ],
    ids=["feature", "missing rate", "surplus rate", "zero rate", "zero issue", "pipe"],
)
def test_a_wrong_row_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(A72, **change)


@pytest.mark.parametrize("name", CORES)
def test_a_row_is_whole_and_cannot_be_changed(name: str) -> None:
    core = CORES[name]
    assert core.name == name
    assert core.features <= FEATURES
    assert set(core.throughput) == OPERATIONS
    assert core.source
    assert core.is_arm == ("asimd" in core.features)
    for mapping in (core.throughput, core.pipes, CORES):
        with pytest.raises(TypeError):
            mapping["and"] = 1.0  # type: ignore[index] - that it cannot be is the test


@pytest.mark.parametrize("name", CORES)
def test_a_row_names_a_target(name: str) -> None:
    core = CORES[name]
    row = core.target_dict()
    assert ("mattr" in row) == bool(core.mattr)
    target = tvm.target.Target(row)
    assert str(target.attrs["mcpu"]) == core.mcpu
    assert str(target.attrs["mtriple"]) == core.mtriple
    assert int(target.attrs["num-cores"]) == core.cores


# AND, CNT and UADALP of 128 bits.
# A72: CNT and UADALP share F1, one a cycle: 2; three instructions at 1.5 a cycle: also 2.
# A53: one pipe; UADALP holds it for two cycles: 1 + 1 + 2.
# A76: two instructions a cycle: 3 / 2.
@pytest.mark.parametrize(("name", "cycles"), [("cortex-a72", 2.0), ("cortex-a53", 4.0), ("cortex-a76", 1.5)])
def test_cycles_of_one_bit_serial_step(name: str, cycles: float) -> None:
    assert CORES[name].cycles({"and": 1, "cnt": 1, "uadalp": 1}) == cycles


def test_cycles_are_those_of_the_busiest_pipe() -> None:
    assert A72.cycles({"and": 3}) == 2.0
    assert A72.cycles({"mla": 2, "ldr": 1}) == 4.0
    assert A72.cycles({"widen": 2, "cnt": 1, "ldr": 1}) == 3.0
    assert CORES["cortex-a53"].cycles({"mla": 4, "ldr": 5, "str": 4, "widen": 6}) == 28.0
    assert CORES["cortex-a76"].cycles({"uadalp": 2, "and": 1}) == 2.0


def test_a_core_is_found_by_its_name() -> None:
    assert find_core("cortex-a53") is CORES["cortex-a53"]
    with pytest.raises(LowbitError, match=r"expected one of cortex-a72, .*got 'cortex-m4'") as caught:
        find_core("cortex-m4")
    assert "schedules/cores.py" in caught.value.hint


V3 = ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe", "xsave")
V4 = (*V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")


@pytest.mark.parametrize(
    ("machine", "features", "name"),
    [
        ("x86_64", (), "x86-64"),
        ("AMD64", V3[:-1], "x86-64"),
        ("x86_64", V3, "x86-64-v3"),
        ("AMD64", V4, "x86-64-v4"),
        ("x86_64", V4[1:], "x86-64"),
        ("x86_64", V4[:-1], "x86-64-v3"),
        ("aarch64", (), "cortex-a72"),
        ("arm64", V4, "cortex-a72"),
    ],
)
def test_this_machine_has_a_row(
    machine: str, features: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores.platform, "machine", lambda: machine)
    monkeypatch.setattr(cores, "_host_features", lambda: dict.fromkeys(features, True))
    assert host_core() is CORES[name]


@pytest.mark.parametrize(("size", "ways"), [(32 << 10, 0), (32, 1), (100, 1), (3 * 64, 1), (48 << 10, 4)])
def test_a_cache_is_a_power_of_two_of_sets(size: int, ways: int) -> None:
    with pytest.raises(ValueError, match="a power of two of sets"):
        cores.Cache(size, ways)


def test_caches_of_arm_cores_say_whose_they_are() -> None:
    for core in CORES.values():
        if core.is_arm:
            assert core.l1.size < core.l2.size and "TRM" in core.caches and core.miss and core.miss > 0
