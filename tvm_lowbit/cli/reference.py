"""``--reference``: a number, numbers by channel, a file, or a word, as `DeepLift` and the other methods take it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tvm_lowbit import LowbitError
from tvm_lowbit.from_onnx.read import read_onnx
from tvm_lowbit.images import PICTURES, Array, read_arrays, read_picture
from tvm_lowbit.references import DinucleotideShuffle

INPUT, SHUFFLES = "input", "dinucleotide"
FILES = (".npy", ".npz", *PICTURES)
HELP = "Input that contributions count from; see below. Default: 0. Example: 0.5"
# For the end of a command's help.
ROWS = {
    "0.5": "this number everywhere",
    "0.5,0.4,0.4": "a number for each channel",
    "FILE": f"one input, {', '.join(FILES)}; deeplift averages over several, of .npy (N, ...) or .npz",
    INPUT: "deeplift: given when it runs, in an .npz beside the model's input, as deeplift.reference",
    f"{SHUFFLES}[:COUNT]": "deeplift: shuffles of each one-hot sequence (N, 4, L); COUNT is 10",
}


def reference_of(text: str, model: Path) -> Any:
    """What was written, as methods take it.

    Parameters
    ----------
    text : str
        See `ROWS`.
    model : Path
        The ONNX file; its first input says what shape channels and files must have.

    Raises
    ------
    LowbitError
        If it is none of these, or the file is missing, damaged, of another shape, or holds NaN or infinity.
    """
    word, colon, count = text.partition(":")
    if text == INPUT:
        return INPUT
    if word == SHUFFLES and (not colon or count.isdecimal()):
        return DinucleotideShuffle(*([int(count)] if colon else []))
    numbers = _numbers(text)
    if numbers is None:
        return _from_file(text, input_shape(model))
    return numbers[0] if len(numbers) == 1 else _by_channel(text, numbers, input_shape(model))


def input_shape(model: Path) -> tuple[int, ...]:
    """The shape of an ONNX file's first input without its batch.

    Raises
    ------
    LowbitError
        If there is no input, or its shape is not static.
    """
    graph = read_onnx(model).graph
    stored = {tensor.name for tensor in graph.initializer}
    given = next((value for value in graph.input if value.name not in stored), None)
    dims = [] if given is None else [dim.dim_value for dim in given.type.tensor_type.shape.dim][1:]
    if given is None or min(dims, default=1) < 1:
        got = "no input" if given is None else f"{given.name} of another"
        raise LowbitError(str(model), "an input of a static shape but for the batch", got)
    return tuple(dims)


def _numbers(text: str) -> list[float] | None:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        return None


def _by_channel(text: str, numbers: Sequence[float], shape: tuple[int, ...]) -> Array:
    channels = shape[0] if shape else 1
    if len(numbers) != channels:
        raise LowbitError(f"--reference {text}", f"{channels} numbers, one for each channel", str(len(numbers)))
    return np.asarray(numbers, np.float32).reshape([channels, *[1] * (len(shape) - 1)])


def _from_file(text: str, shape: tuple[int, ...]) -> Any:
    path, where = Path(text), f"--reference {text}"
    if path.suffix.lower() not in FILES:
        expected = f"a number, numbers by channel, a file {', '.join(FILES)}, {INPUT} or {SHUFFLES}"
        raise LowbitError(where, expected, repr(text), "as in 0.5, 0.5,0.4,0.4, mean.npy; --help says more")
    if path.suffix.lower() in PICTURES and path.is_file():
        return read_picture(path, (1, *shape))[0]
    read = read_arrays(path)
    arrays = [item for array in (read.values() if isinstance(read, dict) else [read]) for item in _items(array, shape)]
    if not arrays:
        raise LowbitError(where, "at least one array", "none")
    for array in arrays:
        _check(where, array, shape)
    return arrays[0] if len(arrays) == 1 else arrays


def _items(array: Array, shape: tuple[int, ...]) -> list[Array]:
    """One, or each of a batch."""
    return list(array) if array.ndim == len(shape) + 1 else [array]


def _check(where: str, array: Array, shape: tuple[int, ...]) -> None:
    expected = f"an array {shape}, (N, {', '.join(map(str, shape))}) of several, or one that broadcasts to it"
    if array.dtype.kind not in "fiu":
        raise LowbitError(where, "an array of numbers", f"dtype {array.dtype}")
    try:
        np.broadcast_to(array, shape)
    except ValueError as error:
        raise LowbitError(where, expected, str(array.shape)) from error
    if not np.all(np.isfinite(array)):
        raise LowbitError(where, "finite numbers", "NaN or infinity")
