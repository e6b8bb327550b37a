"""Bundles: a folder with the library, a manifest with digests, and what a board needs. Written whole or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from importlib import resources
from pathlib import Path

from pydantic import ValidationError

from schedules.errors import LowbitError
from tvm_lowbit.manifest import Manifest
from tvm_lowbit.versions import TVM_FFI_VERSION, TVM_VERSION

LIBRARY, MANIFEST, RUNNER, REQUIREMENTS = "model.so", "manifest.json", "predict.py", "requirements.txt"


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def save_bundle(library: Path, manifest: Manifest, path: Path) -> Path:
    """Write a bundle beside its place, then rename it there.

    Parameters
    ----------
    library : Path
        The linked library.
    manifest : Manifest
        Its description; ``files`` is filled in.
    path : Path
        The folder to make. A bundle that stands there is replaced; anything else is left alone.

    Raises
    ------
    LowbitError
        If something else stands at ``path``, or it cannot be written.
    """
    path = path.absolute()
    if path.exists() and not (path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))):
        raise LowbitError(f"bundle {path}", "a new, empty or bundle folder", "something else", "choose another path")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
            new = Path(beside) / "new"
            new.mkdir()
            shutil.copyfile(library, new / LIBRARY)
            (new / RUNNER).write_text(resources.files("tvm_lowbit").joinpath("board_predict.py").read_text())
            pins = f"apache-tvm=={TVM_VERSION}\napache-tvm-ffi=={TVM_FFI_VERSION}\nnumpy\n"
            (new / REQUIREMENTS).write_text(pins)
            files = {file.name: digest(file) for file in sorted(new.iterdir())}
            text = manifest.model_copy(update={"files": files}).model_dump_json(indent=1)
            (new / MANIFEST).write_text(text)
            if path.exists():
                path.rename(Path(beside) / "old")
            new.rename(path)
    except OSError as error:
        raise LowbitError(f"bundle {path}", "a folder that can be written", str(error)) from error
    return path


def read_bundle(path: str | Path, digest_of_manifest: str | None = None) -> tuple[Manifest, Path]:
    """Check a bundle: every file must have the digest that the manifest states. Nothing of it is executed.

    Parameters
    ----------
    path : str or Path
        The bundle's folder.
    digest_of_manifest : str, optional
        SHA-256 that ``manifest.json`` must have, for a bundle that came over an untrusted way.

    Returns
    -------
    Manifest, Path
        The manifest, and where the library lies.

    Raises
    ------
    LowbitError
        If the bundle is missing, incomplete, malformed or altered, or made for another version of TVM.
    """
    folder = Path(path)
    where = f"bundle {folder}"
    if not (folder / MANIFEST).is_file():
        raise LowbitError(where, f"a folder with {MANIFEST}", "no such file", "make one with tvm-lowbit build --out")
    if digest_of_manifest is not None and digest(folder / MANIFEST) != digest_of_manifest:
        raise LowbitError(where, f"a manifest of digest {digest_of_manifest}", digest(folder / MANIFEST))
    try:
        manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        got = f"{'.'.join(map(str, first['loc'])) or 'the file'}: {first['msg']}"
        raise LowbitError(where, "a manifest of this version", got) from error
    if manifest.tvm != TVM_VERSION:
        raise LowbitError(where, f"a library made with TVM {TVM_VERSION}", manifest.tvm, "build it again")
    if LIBRARY not in manifest.files:
        raise LowbitError(where, f"a digest of {LIBRARY}", "none in the manifest")
    for name, expected in manifest.files.items():
        if name != Path(name).name:
            raise LowbitError(where, "plain file names", repr(name))
        file = folder / name
        if not file.is_file():
            raise LowbitError(where, f"the file {name}", "nothing there", "copy the whole folder")
        if digest(file) != expected:
            hint = "the file was changed or damaged; build or copy it again"
            raise LowbitError(f"{where}, file {name}", f"SHA-256 {expected}", digest(file), hint)
    return manifest, folder / LIBRARY
