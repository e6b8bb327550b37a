"""Bundles: whole or not at all, and nothing executed that was not verified."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import dense

import tvm_lowbit
from schedules import cores
from tvm_lowbit import LowbitError, deploy
from tvm_lowbit import artifact as artifact_module
from tvm_lowbit.boards.local import LocalBoard
from tvm_lowbit.linker import host_machine

X = np.linspace(0, 1, 24, dtype=np.float32).reshape(4, 6)


@pytest.fixture(scope="module")
def artifact() -> tvm_lowbit.Artifact:
    return tvm_lowbit.build(dense(), "host", explain=[tvm_lowbit.DeepLift(target=1)], probe=True)


@pytest.fixture
def bundle(artifact: tvm_lowbit.Artifact, tmp_path: Path) -> Path:
    return artifact.save(tmp_path / "deep" / "bundle")


def test_round_trip(artifact: tvm_lowbit.Artifact, bundle: Path) -> None:
    loaded = tvm_lowbit.load(bundle)
    here, there = artifact.run(X), loaded.run(X)
    np.testing.assert_array_equal(here.outputs["y"], there.outputs["y"])
    np.testing.assert_array_equal(here.codes["a/Mul"], there.codes["a/Mul"])
    explanation = there.explanations["deeplift"]
    np.testing.assert_array_equal(explanation.contributions, here.explanations["deeplift"].contributions)
    assert explanation.target.tolist() == [1] * 4
    assert explanation.method.settings == {"rule": "rescale", "reference": 0.0, "layers": []}
    assert str(loaded.report) == str(artifact.report)


def test_saving_again_replaces_the_bundle_and_leaves_nothing_beside(
    artifact: tvm_lowbit.Artifact, bundle: Path
) -> None:
    (bundle / "model.so").write_bytes(b"old")
    artifact.save(bundle)
    assert tvm_lowbit.load(bundle).run(X).outputs["y"].shape == (4, 3)
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


def test_saving_over_something_else_is_refused(artifact: tvm_lowbit.Artifact, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(LowbitError, match="something else"):
        artifact.save(tmp_path / "thesis")
    with pytest.raises(LowbitError, match="something else"):
        artifact.save(tmp_path / "thesis" / "chapter.txt")
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_failure_in_the_middle_leaves_the_old_bundle(
    artifact: tvm_lowbit.Artifact, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in bundle.iterdir()}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(deploy.shutil, "copyfile", full)
    with pytest.raises(LowbitError, match="No space left"):
        artifact.save(bundle)
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == before
    assert [p.name for p in bundle.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize("name", ["model.so", "predict.py", "requirements.txt"])
def test_altered_file_is_refused_before_anything_is_loaded(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(LowbitError, match=f"file {name}: expected SHA-256"):
        tvm_lowbit.load(bundle)


def test_missing_file_is_named(bundle: Path) -> None:
    (bundle / "model.so").unlink()
    with pytest.raises(LowbitError, match=r"the file model\.so"):
        tvm_lowbit.load(bundle)


def test_missing_bundle(tmp_path: Path) -> None:
    with pytest.raises(LowbitError, match="no such file"):
        tvm_lowbit.load(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("format", 99, "format"),
        ("batch", -1, "batch"),
        ("inputs", [], "inputs"),
        ("surprise", 1, "surprise"),
        ("tvm", "0.26.0", "0.26.0"),
        ("files", {"../../model.so": "0" * 64, "model.so": "0" * 64}, "plain file names"),
        ("files", {}, "a digest of model.so"),
    ],
)
def test_malformed_manifest(bundle: Path, key: str, value: object, words: str) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps(manifest | {key: value}))
    with pytest.raises(LowbitError, match=words):
        tvm_lowbit.load(bundle)


def test_truncated_manifest(bundle: Path) -> None:
    text = (bundle / "manifest.json").read_text()
    (bundle / "manifest.json").write_text(text[: len(text) // 2])
    with pytest.raises(LowbitError, match="a manifest of this version"):
        tvm_lowbit.load(bundle)


def test_digest_of_the_manifest_itself(bundle: Path) -> None:
    right = deploy.digest(bundle / "manifest.json")
    assert tvm_lowbit.load(bundle, digest_of_manifest=right).manifest.board == "host"
    with pytest.raises(LowbitError, match="a manifest of digest"):
        tvm_lowbit.load(bundle, digest_of_manifest="0" * 64)


def test_board_script_runs_with_the_runtime_alone(artifact: tvm_lowbit.Artifact, bundle: Path, tmp_path: Path) -> None:
    """predict.py needs neither the compiler nor this project, and checks digests too."""
    moved = tmp_path / "elsewhere"
    shutil.move(bundle, moved)
    np.save(tmp_path / "x.npy", X)
    command = [sys.executable, str(moved / "predict.py"), str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
    # -P and a foreign folder: this project must not be importable by accident.
    command.insert(1, "-P") if sys.version_info >= (3, 11) else None
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 4 and "deeplift.gap" in done.stdout
    saved = np.load(tmp_path / "y.npz")
    np.testing.assert_array_equal(saved["y"], artifact.run(X).outputs["y"])
    assert saved["deeplift.contributions"].shape == X.shape
    with (moved / "model.so").open("ab") as library:
        library.write(b"\0")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert "model.so is not the file that the manifest describes" in done.stderr


def test_a_core_that_lacks_instructions_is_told_before_anything_is_loaded(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features that this machine has more are fine; bundles that do not say which they need go by their core."""
    for features in (["avx512", "fma"], None):
        text = json.loads((bundle / "manifest.json").read_text())
        text |= {
            "core": "x86-64-v4",
            "mcpu": "x86-64-v4",
            "mtriple": f"{host_machine()}-linux-gnu",
            "features": features,
        }
        (bundle / "manifest.json").write_text(json.dumps(text))
        with monkeypatch.context() as older:
            older.setattr(LocalBoard, "open", lambda self: pytest.fail("the library was loaded"))
            for module in (cores, artifact_module):
                older.setattr(module, "host_core", lambda: cores.CORES["x86-64-v3"])
            with pytest.raises(LowbitError, match=r"x86-64-v3.*got one for x86-64-v4.*uses avx512") as caught:
                tvm_lowbit.load(bundle).run(X)
            assert 'target "host"' in caught.value.hint and "'mcpu': 'x86-64-v3'" in caught.value.hint
        with monkeypatch.context() as newer:
            newer.setattr(cores, "host_core", lambda: cores.CORES["x86-64-v4"])
            assert tvm_lowbit.load(bundle).run(X).outputs["y"].shape == (4, 3)


def test_the_manifest_says_what_a_target_of_its_own_needs() -> None:
    """Attributes count, which the name of a core does not tell."""
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2", "mattr": ["+avx512f", "+fma"]}
    assert tvm_lowbit.build(dense(), target).manifest.features == ("avx512", "fma")
    target = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v2"}
    assert tvm_lowbit.build(dense(), target).manifest.features == ()


@pytest.mark.parametrize(
    ("said", "features"),
    [
        ("Features : fp asimd crc32", {"asimd"}),
        ("Features : fp asimd asimddp", {"asimd", "dotprod"}),
        ("model name : unknown", {"asimd", "dotprod"}),
        (None, cores.FEATURES),
    ],
)
def test_what_an_arm_host_has(
    said: str | None, features: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Linux lists it; where it does not, nothing is refused."""
    if said is not None:
        (tmp_path / "cpuinfo").write_text(said)
    monkeypatch.setattr(cores, "_CPU", tmp_path / "cpuinfo")
    monkeypatch.setattr(cores, "host_core", lambda: cores.CORES["cortex-a72"])
    assert cores.host_features() == features


def test_board_script_says_the_gap_of_each_target_and_what_is_wrong_with_its_input(tmp_path: Path) -> None:
    explain = [tvm_lowbit.DeepLift(target=[0, 2])]
    tvm_lowbit.build(dense(), "host", explain=explain).save(tmp_path / "bundle")
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "nan.npy", X * np.nan)
    np.save(tmp_path / "none.npy", X[:0])
    np.save(tmp_path / "x.npy", X)
    said = {}
    for name in ("missing", "text", "nan", "none", "x"):
        command = [sys.executable, str(tmp_path / "bundle" / "predict.py"), str(tmp_path / f"{name}.npy")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == (0 if name == "x" else 2), done.stderr
        said[name] = done.stdout or done.stderr
        assert "Traceback" not in done.stderr
    assert "missing.npy" in said["missing"] and "text.npy: expected arrays" in said["text"]
    assert "NaN" in said["nan"] and "(0, 6)" in said["none"]
    lines = said["x"].splitlines()
    assert len(lines) == 4 and all(len(line.split("deeplift.gap")[1].split(", ")) == 2 for line in lines)
