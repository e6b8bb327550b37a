"""Pixels: zero is the colour in the middle, limits are symmetric, and the drawing is where it should be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from tvm_lowbit import LowbitError, heatmap
from tvm_lowbit.heatmap import COLOURS, Heatmap, draw, draw_sheet, save, symmetric

MIDDLE = np.array(COLOURS(128))
SHAPES = [(1, 3, 4), (3, 8, 8), (3, 8, 32), (3, 32, 8), (4, 5, 6), (7,), (300,), (2, 9), (1, 1, 6)]


def item(contributions, values=None, **changed):
    contributions = np.asarray(contributions, np.float32)
    values = np.full_like(contributions, 0.5) if values is None else values
    fields = {"output": "logits", "prediction": 1, "score": 2.5, "target": 1, "gap": 1e-7, **changed}
    return Heatmap("item 0", values, contributions, **fields)


def random_item(shape, seed=0, **changed):
    return item(np.random.default_rng(seed).normal(size=shape), **changed)


def written(figure, path: Path):
    """The figure as written, and its axes by the order drawn."""
    save(figure, path)
    return imread(path)


def pixel(picture, figure, axes, x, y):
    """The colour at a place in the coordinates of the data."""
    column, row = axes.transData.transform((x, y)) * heatmap.DOTS_PER_INCH / figure.dpi
    return picture[picture.shape[0] - 1 - round(row), round(column), :3]


def maps_of(figure):
    return [axes for axes in figure.axes if axes.images and axes.images[0].get_cmap() == COLOURS]


def test_zero_has_a_colour_of_its_own_in_the_middle():
    norm = symmetric(np.array([-1.0, 4.0]))
    assert (norm.vmin, norm.vmax) == (-4.0, 4.0)
    np.testing.assert_array_equal(COLOURS(norm(0.0)), MIDDLE)
    assert np.ptp(MIDDLE[:3]) < 0.01  # neither red nor blue
    red, blue = COLOURS(norm(4.0)), COLOURS(norm(-4.0))
    assert red[0] > red[2] and blue[2] > blue[0]


def test_nothing_but_zeros_is_white_all_over(tmp_path):
    figure = draw(item(np.zeros((1, 2, 2))))
    picture = written(figure, tmp_path / "x.png")
    (axes,) = maps_of(figure)
    assert axes.images[0].get_clim() == (-1.0, 1.0)
    for x in (0, 1):
        for y in (0, 1):
            np.testing.assert_allclose(pixel(picture, figure, axes, x, y), MIDDLE[:3], atol=1 / 255)


def test_each_pixel_has_the_colour_of_its_contribution(tmp_path):
    values = np.array([[[0.0, 3.0, -1.0], [-3.0, 0.5, 2.0]]])
    figure = draw(item(values))
    picture = written(figure, tmp_path / "x.png")
    (axes,) = maps_of(figure)
    assert axes.images[0].get_clim() == (-3.0, 3.0)
    for (_, y, x), value in np.ndenumerate(values):
        expected = COLOURS((value + 3) / 6)[:3]
        np.testing.assert_allclose(pixel(picture, figure, axes, x, y), expected, atol=1 / 255)


def test_channels_are_summed_so_that_the_total_stays():
    contributions = np.arange(12).reshape(3, 2, 2) - 5.0
    np.testing.assert_array_equal(item(contributions).map, contributions.sum(axis=0))
    assert item(contributions).map.sum() == contributions.sum()


def test_bars_have_the_height_and_colour_of_their_contribution():
    values = [0.0, 2.0, -1.0]
    figure = draw(item(values))
    bars = figure.axes[1].patches
    assert [bar.get_height() for bar in bars] == values
    for bar, value in zip(bars, values, strict=True):
        np.testing.assert_allclose(bar.get_facecolor(), COLOURS((value + 2) / 4))
    low, high = figure.axes[1].get_ylim()
    assert low == -high and high >= 2


def test_the_title_says_prediction_target_and_gap():
    figure = draw(random_item((1, 4, 4), prediction=7, target=2, gap=-3e-6, output="$odd$ name"))
    said = figure.get_suptitle()
    assert "predicted 7" in said and "contributions to 2" in said and "gap -3.0e-06" in said and "$odd$" in said


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_sticks_out_of_the_picture(shape, tmp_path):
    many = [random_item(shape, seed, prediction=seed * 37, target=seed) for seed in range(13)]
    for figure in (draw(many[0]), draw_sheet(many[:2]), draw_sheet(many, "title")):
        picture = written(figure, tmp_path / "x.png")
        edges = [picture[0, :, :3], picture[-1, :, :3], picture[:, 0, :3], picture[:, -1, :3]]
        assert all((edge == 1).all() for edge in edges)


def test_a_sheet_is_on_one_scale():
    figure = draw_sheet([item(np.full((1, 2, 2), value)) for value in (1.0, -5.0, 0.0)])
    assert [axes.images[0].get_clim() for axes in maps_of(figure)] == [(-5.0, 5.0)] * 3


def test_captions_of_a_sheet_do_not_overlap():
    figure = draw_sheet([random_item((1, 8, 8), i, prediction=i, target=3) for i in range(10)])
    figure.draw_without_rendering()
    boxes = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
    assert len(boxes) == 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_picture_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LowbitError, match="a file that can be written"):
        save(draw(random_item((3,))), tmp_path / "file" / "x.png")
