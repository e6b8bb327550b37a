"""Pictures as inputs: exact values, and refusals that name the expected and the got."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tvm_lowbit import LowbitError
from tvm_lowbit.images import read_picture, write_arrays

GREY = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)


def saved(tmp_path, array, mode=None, name="x.png"):
    picture = Image.fromarray(array)
    (picture if mode is None else picture.convert(mode)).save(tmp_path / name)
    return tmp_path / name


def test_grey_and_colour(tmp_path):
    grey = read_picture(saved(tmp_path, GREY), (1, 1, 4, 6))
    assert grey.dtype == np.float32
    np.testing.assert_array_equal(grey[0, 0], GREY.astype(np.float32) / np.float32(255))
    colour = read_picture(saved(tmp_path, COLOUR), (1, 3, 4, 6))
    np.testing.assert_array_equal(colour[0], COLOUR.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_sixteen_bits(tmp_path):
    deep = (np.arange(24).reshape(4, 6) * 2849).astype(np.uint16)
    found = read_picture(saved(tmp_path, deep), (1, 1, 4, 6))
    np.testing.assert_array_equal(found[0, 0], deep.astype(np.float32) / np.float32(65535))
    assert found.max() <= 1


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("LA", 1), ("P", 3), ("RGBA", 3)])
def test_other_modes_that_lose_nothing(tmp_path, mode, channels):
    black_and_white = np.where(GREY > 127, 255, 0).astype(np.uint8)
    found = read_picture(saved(tmp_path, black_and_white, mode), (1, channels, 4, 6))
    np.testing.assert_array_equal(found[0], np.repeat(black_and_white[None] / np.float32(255), channels, axis=0))


def test_jpeg(tmp_path):
    found = read_picture(saved(tmp_path, np.full((8, 8), 128, np.uint8), name="x.jpg"), (1, 1, 8, 8))
    np.testing.assert_allclose(found, 128 / 255, atol=2 / 255)


@pytest.mark.parametrize(
    ("array", "mode", "shape", "expected", "got"),
    [
        (GREY, None, (1, 1, 6, 4), "4 x 6 pixels", "6 x 4 pixels"),
        (GREY, None, (1, 3, 4, 6), "3 channels", "1 channel"),
        (COLOUR, None, (1, 1, 4, 6), "1 channel", "3 channels"),
        (COLOUR, "CMYK", (1, 3, 4, 6), "8-bit grey or RGB", "mode CMYK"),
        (np.dstack([COLOUR, GREY]), None, (1, 3, 4, 6), "an opaque picture", "transparency"),
        (GREY, None, (1, 24), r"shape \(N, 24\)", "a picture"),
        (GREY, None, (1, 4, 4, 6), r"shape \(N, 4, 4, 6\)", "a picture"),
    ],
)
def test_what_does_not_fit(tmp_path, array, mode, shape, expected, got):
    name = "x.jpg" if mode == "CMYK" else "x.png"
    with pytest.raises(LowbitError, match=f"expected .*{expected}.*, got .*{got}"):
        read_picture(saved(tmp_path, array, mode, name), shape)


def test_arrays_may_have_any_name(tmp_path):
    arrays = {"file": np.arange(3), "a/b": np.float32(2).reshape(1), "allow_pickle": np.zeros((2, 0))}
    with np.load(write_arrays(tmp_path / "new" / "y.npz", arrays)) as found:
        assert set(found) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)


def test_arrays_are_written_whole_or_not_at_all(tmp_path):
    write_arrays(tmp_path / "y.npz", {"a": np.arange(3)})
    with pytest.raises(ValueError, match="Object arrays"):
        write_arrays(tmp_path / "y.npz", {"a": np.arange(4), "b": np.array([object()])})
    assert [path.name for path in tmp_path.iterdir()] == ["y.npz"]
    with np.load(tmp_path / "y.npz") as found:
        assert len(found["a"]) == 3
