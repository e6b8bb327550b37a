"""``tvm-lowbit bench``: what it prints and writes, and what it refuses."""

from __future__ import annotations

import json

import pytest
from emulator import require

from tvm_lowbit.metering import tools


@pytest.fixture
def emulator() -> None:
    require(tools.missing())


def test_bench_prints_layers_and_totals_and_writes_them(run, grey, tmp_path, emulator):
    said = run("bench", grey, "--board", "rpi3", "--emulated", "--out", tmp_path / "out").output
    for word in ("Estimate for rpi3 (cortex-a53)", "conv", "dense", "W2A2", "of limit", "L1 misses", "ms at 1.4 GHz"):
        assert word in said, word
    assert all("estimate" in line for line in said.splitlines() if "million cycles" in line)
    figures = json.loads((tmp_path / "out/estimate.json").read_text())
    assert figures["board"] == "rpi3" and figures["estimated_cycles"] > 0
    assert f"{figures['total']['estimated_cycles']:,.0f}" in said
    assert (tmp_path / "out/estimate.png").stat().st_size > 1000
    assert run("bench", grey, "--board", "rpi3", "--emulated").output in said


def test_bench_takes_a_bundle(run, vector, tmp_path, emulator):
    run("build", vector, "--target", "rpi5", "--out", tmp_path / "bundle")
    said = run("bench", tmp_path / "bundle", "--emulated", "--no-caches").output
    assert "rpi5 (cortex-a76)" in said and "in L1" not in said
    refusal = run("bench", tmp_path / "bundle", "--board", "rpi3", "--emulated", code=2).stderr
    assert "expected one built for rpi3, got rpi5" in refusal


def test_bench_does_not_pretend_to_measure(run, grey):
    assert "--emulated" in run("bench", grey, "--board", "rpi4", code=2).stderr


def test_bench_without_the_emulator_says_how_to_get_it(run, grey, monkeypatch):
    monkeypatch.setattr(tools.shutil, "which", lambda name: None)
    said = run("bench", grey, "--board", "rpi4", "--emulated", code=2).stderr
    assert "qemu-aarch64" in said and "install_emulator.sh" in said
