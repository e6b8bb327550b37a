"""Arrays as pictures inside a page: pixels, their colours, and the address that holds them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tvm_lowbit.heatmap import COLOURS

Array = npt.NDArray[Any]
Pixels = npt.NDArray[np.uint8]


def rows_and_columns(values: Array) -> Array | None:
    """An item as ``(channels, rows, columns)``: images as they are, sequences a row per channel; None for vectors."""
    if values.ndim == 3 and min(values.shape[1:]) > 1:
        return values
    narrow = values.reshape([extent for extent in values.shape if extent > 1] or [1])
    return narrow[None] if narrow.ndim == 2 else None


def input_pixels(values: Array) -> Pixels:
    """An image ``(channels, rows, columns)`` as one sees it: RGB where it has three channels, else grey."""
    values = np.asarray(values, np.float64)
    low, high = min(0.0, values.min()), max(1.0, values.max())
    # Normalised images leave 0..1; they are stretched back into it to be seen.
    scaled = (values - low) / (high - low)
    shown = scaled.transpose(1, 2, 0) if len(values) == 3 else np.repeat(scaled.mean(axis=0)[..., None], 3, axis=2)
    return np.rint(255 * shown).astype(np.uint8)


def map_pixels(values: Array, limit: float) -> Pixels:
    """A map ``(rows, columns)`` in the diverging colours, zero in the middle, ``limit`` at the ends."""
    return np.asarray(np.rint(255 * COLOURS(_fraction(values, limit))[..., :3]), np.uint8)


def overlay_pixels(image: Pixels, values: Array, limit: float) -> Pixels:
    """The map over the paled grey image, each pixel as opaque as its share of the limit is large."""
    grey = 255 - (255 - np.asarray(image, np.float64).mean(axis=2, keepdims=True)) * 0.25
    alpha = np.minimum(1.0, np.abs(values) / limit)[..., None] ** 0.6
    ends = 255 * COLOURS(np.where(values < 0, 0.12, 0.88))[..., :3]
    return np.asarray(np.rint(alpha * ends + (1 - alpha) * grey), np.uint8)


def _fraction(values: Array, limit: float) -> Array:
    return np.clip(0.5 + np.asarray(values, np.float64) / (2 * limit), 0.0, 1.0)


def colour(value: float, limit: float) -> str:
    """The colour of one value, as CSS writes it."""
    red, green, blue = map_pixels(np.array([[value]]), limit)[0, 0]
    return f"rgb({red},{green},{blue})"


def data_uri(pixels: Pixels) -> str:
    """A PNG as an address."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
