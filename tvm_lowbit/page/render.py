"""``write_page``: the page of an explanation, from its template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from tvm_lowbit.heatmap import COLOURS
from tvm_lowbit.images import writing
from tvm_lowbit.manifest import Manifest
from tvm_lowbit.page.contents import FIELDS, MOST_ITEMS, items_of
from tvm_lowbit.result import Result

# Colours along the scale bar.
_STOPS = 17
# A reference of more numbers than this is told by its shape.
_MOST_NUMBERS = 8


def write_page(path: Path, title: str, inputs: npt.NDArray[Any], result: Result, name: str, manifest: Manifest) -> Path:
    """Write a self-contained HTML page: input, map, outputs, layers, gap.

    Parameters
    ----------
    path : Path
        Where; made whole or not at all.
    title : str
        What was explained, for the heading.
    inputs : array
        What the model was run on, its first input.
    result : Result
        What it gave.
    name : str
        Key of ``result.explanations``.
    manifest : Manifest
        Of the library that was run.

    Raises
    ------
    LowbitError
        If the explanation holds nothing to draw, or the file cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tvm_lowbit", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    row = result.explanations[name].method
    text = environment.get_template("page.html").render(
        title=title,
        name=name,
        says=FIELDS,
        row=row,
        settings={key.replace("_", " "): words(value) for key, value in row.settings.items()},
        manifest=manifest,
        items=items_of(inputs, result, name),
        left_out=max(0, len(inputs) - MOST_ITEMS),
        low_bit=sum(bool(layer.technique) for layer in manifest.layers),
        stops=[tuple(int(255 * v) for v in COLOURS(i / (_STOPS - 1))[:3]) for i in range(_STOPS)],
    )
    with writing(path) as beside:
        beside.write_text(text, encoding="utf-8")
    return path


def words(value: Any) -> str:
    """A setting as a reader would say it."""
    if isinstance(value, dict) and set(value) == {"shape", "values"}:
        numbers = np.asarray(value["values"])
        if numbers.size <= _MOST_NUMBERS:
            return ", ".join(f"{v:g}" for v in numbers)
        return f"an array {tuple(value['shape'])}, {numbers.min():g} to {numbers.max():g}"
    if isinstance(value, list | tuple):
        return ", ".join(words(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
