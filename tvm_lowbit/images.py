"""Inputs from files, results to files and tables: ``.npy``, ``.npz``, pictures. Nothing is converted in silence."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from rich.table import Table
from rich.text import Text

from schedules.errors import LowbitError
from tvm_lowbit.manifest import Manifest
from tvm_lowbit.result import Result

Array = npt.NDArray[Any]
PICTURES = (".png", ".jpg", ".jpeg")
# What numpy, zipfile and Pillow raise for bytes that are not what the file's name says.
_DAMAGE = (ValueError, EOFError, OSError, MemoryError, SyntaxError, zipfile.BadZipFile, zlib.error)
# Pillow's mode -> channels after conversion, the mode to convert to (which loses nothing), and the largest value.
_MODES = {
    "1": (1, "L", 255),
    "L": (1, "L", 255),
    "LA": (1, "LA", 255),
    "I;16": (1, "I;16", 65535),
    "P": (3, "RGBA", 255),
    "RGB": (3, "RGB", 255),
    "RGBA": (3, "RGBA", 255),
}


def read_inputs(path: Path, manifest: Manifest) -> Array | dict[str, Array]:
    """Read what a model is to be run on.

    Parameters
    ----------
    path : Path
        ``.npy``: the input; ``.npz``: arrays by name of the input; ``.png``, ``.jpg``: one item, scaled to 0..1.
    manifest : Manifest
        Of the model: a picture must have its height, width and channels.

    Raises
    ------
    LowbitError
        If the file is missing, damaged, of another kind, or a picture that does not fit.
    """
    if path.suffix.lower() not in PICTURES or not path.is_file():
        return read_arrays(path)
    if len(manifest.inputs) != 1:
        names = ", ".join(row.name for row in manifest.inputs)
        raise LowbitError(str(path), f"an .npz with {names}", "one picture", "np.savez('x.npz', name=array, ...)")
    return read_picture(path, manifest.inputs[0].shape)


def read_arrays(path: Path) -> Array | dict[str, Array]:
    """The array of an ``.npy`` file, or those of an ``.npz`` by name.

    Raises
    ------
    LowbitError
        If the file is missing, damaged or of another kind.
    """
    kinds, kind = f"a file of kind .npy, .npz, {', '.join(PICTURES)}", path.suffix.lower()
    if not path.is_file():
        raise LowbitError(str(path), kinds, "a folder" if path.exists() else "nothing there", "is the path right?")
    if kind not in (".npy", ".npz"):
        raise LowbitError(str(path), kinds, repr(path.suffix), "write it with np.save('x.npy', x)")
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            return {name: loaded[name] for name in loaded.files}
    except _DAMAGE as error:
        hint = "is the file truncated, or does it hold Python objects?"
        raise LowbitError(str(path), f"arrays in {kind} format", _first_line(error), hint) from error


def read_picture(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Read a picture as a batch of one.

    Parameters
    ----------
    path : Path
        8-bit grey, RGB or palette; 16-bit grey. An alpha channel must be opaque.
    shape : tuple of int
        Of the model's input, ``(N, C, H, W)``.

    Returns
    -------
    ndarray of float32, shape (1, C, H, W)
        0 for black to 1 for full.

    Raises
    ------
    LowbitError
        If it cannot be read, or its size or channels are not the model's: it is never resized.
    """
    where = str(path)
    if len(shape) != 4 or shape[1] not in (1, 3):
        described = f"({', '.join(['N', *map(str, shape[1:])])})"
        raise LowbitError(where, f"an array of shape {described}", "a picture", "write it with np.save('x.npy', x)")
    channels, height, width = shape[1:]
    try:
        with Image.open(path) as picture:
            # The size is in the header: a huge picture is refused before it is decoded.
            if picture.size != (width, height):
                got = f"{picture.width} x {picture.height} pixels"
                raise LowbitError(
                    where, f"{width} x {height} pixels", got, "resize it first: the model's input is fixed"
                )
            if picture.mode not in _MODES:
                raise LowbitError(where, "8-bit grey or RGB, or 16-bit grey", f"mode {picture.mode}")
            count, mode, largest = _MODES[picture.mode]
            pixels = np.asarray(picture if picture.mode == mode else picture.convert(mode))
    except (UnidentifiedImageError, Image.DecompressionBombError, *_DAMAGE) as error:
        raise LowbitError(where, "a PNG or JPEG picture", _first_line(error), "is the file truncated?") from error
    pixels = pixels.reshape(height, width, -1)
    if pixels.shape[2] > count:
        if pixels[..., count].min() < largest:
            raise LowbitError(where, "an opaque picture", "one with transparency", "flatten it onto a background")
        pixels = pixels[..., :count]
    if count != channels:
        kinds = {1: "1 channel (grey)", 3: "3 channels (RGB)"}
        raise LowbitError(
            where, kinds[channels], kinds[count], f"convert it to {'grey' if channels == 1 else 'RGB'} first"
        )
    scaled = pixels.astype(np.float32) / np.float32(largest)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1)[None])


def arrays_of(result: Result) -> dict[str, Array]:
    """Every array of a result under one name, as ``predict.py`` on a board names them.

    ``deeplift.contributions``, ``.multipliers``, ``.target``, ``.gap``, of layers ``deeplift.contributions@LAYER``;
    ``codes.NAME`` for probes.
    """
    arrays = dict(result.outputs)
    for name, found in result.explanations.items():
        for row in found.method.results:
            values = found.layers[row.layer] if row.layer else found.values
            arrays[f"{name}.{row.key}"] = values[row.field]
    return arrays | {f"codes.{name}": codes for name, codes in result.codes.items()}


# What is said of an explanation: the column's heading, the field whose sum it is, and how it is written.
_SAID: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("{}: target", "target", lambda value: f"{value:.0f}"),
    ("sum", "contributions", lambda value: f"{value:+.6g}"),
    ("weight", "weight", lambda value: f"{value:.6g}"),
    ("entropy", "total_entropy", lambda value: f"{value:.6g}"),
    ("gap", "gap", lambda value: f"{value:.1e}" if value else "0"),
)


def predictions(result: Result) -> Table:
    """A row per item: the largest value of each output and where it is; target, sum and gap of each explanation."""
    table = Table("item", title="Predictions", title_justify="left")
    columns: list[list[str]] = []

    def column(name: str, cells: list[str]) -> None:
        table.add_column(Text(name), justify="right")  # as text: a name in brackets would be taken for markup
        columns.append(cells)

    for name, array in result.outputs.items():
        flat = array.reshape(len(array), -1)
        best = flat.argmax(axis=1)
        if flat.shape[1] > 1:
            places = [np.unravel_index(i, array.shape[1:]) for i in best]
            column(f"{name}: top", [", ".join(map(str, place)) for place in places])
        column(f"{name}: value", [f"{row[i]:.6g}" for row, i in zip(flat, best, strict=True)])
    for name, found in result.explanations.items():
        for heading, field, words in _SAID:
            if field in found.values:
                # An axis of targets, where there is one, stays: a figure each.
                rank = found.values.get("target", found.values[field]).ndim
                values = np.asarray(found.values[field])
                sums = values.sum(axis=tuple(range(rank, values.ndim)), dtype=np.float64)
                column(heading.format(name), [", ".join(map(words, np.atleast_1d(row))) for row in sums])
    for i, cells in enumerate(zip(*columns, strict=True)):
        table.add_row(str(i), *cells)
    return table


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> Path:
    """Write an ``.npz``, whole or not at all.

    ``np.savez`` would refuse an output that is called ``file``, and leaves half a file on a full disk.

    Raises
    ------
    LowbitError
        If it cannot be written.
    """
    with writing(path) as beside, zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.ascontiguousarray(array), allow_pickle=False)
    return path


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A file to write beside ``path``, that takes its place at the end, or goes if anything failed.

    Raises
    ------
    LowbitError
        If it cannot be written.
    """
    beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        beside = Path(name)
        yield beside
        # Unlike other new files, mkstemp's are for their owner only.
        mask = os.umask(0)
        os.umask(mask)
        beside.chmod(0o666 & ~mask)
        beside.replace(path)
    except OSError as error:
        raise LowbitError(str(path), "a file that can be written", _first_line(error)) from error
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()
