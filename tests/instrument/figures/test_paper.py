"""Figures as a paper takes them: one style, letters that can be read, fonts, colors, sizes, and one's own axes."""

import importlib
import inspect
import io
import math
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pyarrow as pa
import pytest
from matplotlib import pyplot
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from dissimilarity import figures
from dissimilarity.figures.comparison import comparison_figure
from dissimilarity.figures.curves import curves_figure
from dissimilarity.figures.drift import groups_figure
from dissimilarity.figures.figure import PIXELS, PaperFigure, png_of, write_figure
from dissimilarity.figures.heatmaps import heatmap_figure
from dissimilarity.figures.intrinsic import intrinsic_figure
from dissimilarity.figures.models import model_pages, models_figure
from dissimilarity.figures.penalties import penalties_figure
from dissimilarity.figures.run import run_figures
from dissimilarity.figures.style import GROUP_COLORS
from dissimilarity.figures.text import text_figure
from tests.helpers.drawn import misprints, texts_of

LONG = "hf:some-organization/some-very-long-model-name-7b-v{}@main"
NOTHING: Any = {"value": math.nan, "dissimilarity": math.nan}
COLUMN = 3.25
"""Inches of a column of a paper."""


def records(
    layers: tuple[int, int] = (2, 2),
    steps: tuple[int, ...] = (4,),
    references: tuple[str, ...] = ("init",),
    measures: tuple[str, ...] = ("cka",),
    **columns: Any,
) -> pa.Table:
    """Return records of all pairs of sites, farther apart the less their relative depths agree."""
    rows = []
    for step in steps:
        for reference in references:
            for measure in measures:
                for i in range(layers[0]):
                    for j in range(layers[1]):
                        far = 0.1 + abs(i / max(1, layers[0] - 1) - j / max(1, layers[1] - 1)) / 2
                        at = dict(step=step, tokens=64 * step, reference=reference, reference_step=-1, measure=measure)
                        at |= dict(site_a=f"blocks.{i}.resid_post", site_b=f"blocks.{j}.resid_post", n_units=16)
                        at |= dict(value=1 - far, dissimilarity=far, stderr=0.01, null=0.1, note="")
                        rows.append(at | {k: v(at) if callable(v) else v for k, v in columns.items()})
    return pa.Table.from_pylist(rows)


def between_models(points: np.ndarray, name: str = "m{}", measures: tuple[str, ...] = ("cka",)) -> pa.Table:
    """Return the distances of models that are points in a plane."""
    site = {"site_a": "embed", "site_b": "embed"}
    rows = [
        {"model_a": name.format(a), "model_b": name.format(b), "measure": measure, **site, "dissimilarity": float(far)}
        for measure in measures
        for a in range(len(points))
        for b in range(a + 1, len(points))
        for far in [np.hypot(*(points[a] - points[b]))]
    ]
    return pa.Table.from_pylist(rows)


def penalties(fits: tuple[str, ...] = ("direct",)) -> list[dict[str, Any]]:
    at = {"reference": "init", "site_front": "embed", "stderr": 0.1, "sequences": 8}
    return [
        {"step": step, "value": 1 / (step + 1), "fit": fit, "direction": direction, **at}
        for step in range(4)
        for fit in fits
        for direction in ("into", "from")
    ]


def intrinsic(measures: tuple[str, ...] = ("rankme",), layers: int = 2) -> list[dict[str, Any]]:
    values = {"value": 4.0, "stderr": 0.1, "n_units": 8, "reference": "init"}
    return [
        {"step": step, "of": of, "site": f"blocks.{layer}.resid_post", "measure": measure, **values}
        for step in (0, 8)
        for of in ("model", "reference")
        for layer in range(layers)
        for measure in measures
    ]


def groups() -> pa.Table:
    at = {"tokens": 0, "measure": "cka", "site": "embed", "low": 0.1, "high": 0.6, "references": 3}
    return pa.Table.from_pylist(
        [{"step": step, "group": name, "dissimilarity": 0.5 / step, **at} for step in (1, 2) for name in ("x", "y")]
    ).filter(pa.array([True, False] * 2))


def text(**options: Any) -> Figure:
    row = {"token_influence": [0.1, -0.2, 0.4, 0.1], "token_index": [0, 1, 2, 3]}
    return text_figure(row, [[5, 6], [7, 8]], lambda tokens: " ".join(map(str, tokens)), **{"title": "cka", **options})


POINTS = np.random.default_rng(0).normal(size=(6, 2))
DRAWN: dict[str, tuple[Callable[..., Figure], int]] = {
    "comparison_figure": (lambda **options: comparison_figure(records(), "solu", "gelu", **options), 1),
    "curves_figure": (lambda **options: curves_figure(records(steps=(0, 1, 10)), model="solu", **options), 1),
    "groups_figure": (lambda **options: groups_figure(groups(), "solu", **options), 1),
    "heatmap_figure": (lambda **options: heatmap_figure(records(), "solu", **options), 1),
    "intrinsic_figure": (lambda **options: intrinsic_figure(intrinsic(), "solu", **options), 1),
    "models_figure": (lambda **options: models_figure(between_models(POINTS), **options), 2),
    "penalties_figure": (lambda **options: penalties_figure(penalties(), "solu", **options), 1),
    "text_figure": (text, 1),
}
"""Every drawing function with what it draws on one panel, or two, and how many."""


def drawing_functions() -> dict[str, Callable[..., Any]]:
    names = [module.name for module in pkgutil.iter_modules(figures.__path__)]
    modules = [importlib.import_module(f"dissimilarity.figures.{name}") for name in names]
    return {
        name: function
        for module in modules
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if name.endswith("_figure") and function.__module__ == module.__name__ and name != "write_figure"
    }


def test_every_drawing_function_takes_a_size_and_axes() -> None:
    functions = drawing_functions()
    assert set(functions) == set(DRAWN)
    for name, function in functions.items():
        parameters = inspect.signature(function).parameters
        assert {"figsize", "ax"} <= set(parameters), name
        assert all(parameters[key].default is None for key in ("figsize", "ax")), name


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_of_a_columns_width_can_be_read(name: str) -> None:
    figure = DRAWN[name][0](figsize=(COLUMN, 2.6))
    assert isinstance(figure, PaperFigure) and figure.get_size_inches().tolist() == [COLUMN, 2.6]
    assert not misprints(figure)
    for panel in figure.axes:
        labels: list[Any] = [panel.xaxis.label, panel.yaxis.label, panel.title]
        assert all(label.get_fontsize() >= 7 for label in labels if label.get_text())
    texts: list[Any] = texts_of(figure)
    assert min(text.get_fontsize() for text in texts) >= 5


@pytest.mark.parametrize("name", DRAWN)
def test_axes_of_the_caller_are_drawn_on_and_nothing_else_is_changed(name: str) -> None:
    draw, count = DRAWN[name]
    mine = pyplot.figure(figsize=(8, 3))
    try:
        axes = mine.subplots(1, count + 1)
        settings = dict(mpl.rcParams)
        assert draw(ax=axes[0] if count == 1 else axes[:count]) is mine
        assert all(panel.has_data() or panel.texts for panel in axes[:count]) and not axes[count].has_data()
        assert mine.get_size_inches().tolist() == [8, 3] and not mine.legends and dict(mpl.rcParams) == settings
        with pytest.raises(ValueError, match=f"expected 1 x {count} axes, one per panel, found 3"):
            draw(ax=[*axes, *axes][:3])
    finally:
        pyplot.close(mine)


@pytest.mark.parametrize(
    ("grid", "size", "layers", "names"),
    [
        ((1, 1), (2, 2), (6, 6), ("solu", "gelu")),
        ((1, 1), (3, 3), (6, 6), (LONG.format(0), LONG.format(1))),
        ((1, 1), (10, 2.5), (4, 24), (LONG.format(0), LONG.format(1))),
        ((2, 3), (8, 6), (6, 6), (LONG.format(0), LONG.format(1))),
    ],
)
def test_maps_on_the_callers_axes_can_be_read(
    grid: tuple[int, int], size: tuple[float, float], layers: tuple[int, int], names: tuple[str, str]
) -> None:
    mine = Figure(size, layout="compressed")
    for number, panel in enumerate(mine.subplots(*grid, squeeze=False).flat):
        if number % 2:
            heatmap_figure(records(layers, references=names[1:]), names[0], ax=panel)
        else:
            comparison_figure(records(layers), *names, ax=panel)
    assert not misprints(mine)


def test_a_size_without_space_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no space is left for the panels; give \(.*\) inches or more"):
        curves_figure(records(steps=(0, 1)), figsize=(0.9, 2))


@pytest.mark.parametrize("name", DRAWN)
def test_settings_of_the_user_change_no_figure(name: str) -> None:
    expected = png_of(DRAWN[name][0]())
    with matplotlib.style.context(["dark_background", {"font.size": 20, "lines.linewidth": 9, "axes.grid": True}]):
        assert png_of(DRAWN[name][0]()) == expected


def test_files_embed_their_fonts_however_they_are_saved(tmp_path: Any) -> None:
    figure = DRAWN["curves_figure"][0]()
    (written,) = write_figure(figure, tmp_path, "written", ["pdf"])
    saved, picture = tmp_path / "saved.pdf", tmp_path / "saved.svg"
    figure.savefig(saved)
    figure.savefig(picture)
    for path in (written, saved):
        assert b"/FontFile2" in path.read_bytes() and b"/Type3" not in path.read_bytes()
    (other,) = write_figure(figure, tmp_path, "written", ["svg"])
    for path in (picture, other):
        drawing = path.read_text()
        assert "<svg" in drawing and "<text" not in drawing and "<path" in drawing


def test_a_figure_shows_itself_in_a_notebook_without_pyplot() -> None:
    data, size = DRAWN["heatmap_figure"][0]()._repr_png_()  # type: ignore[attr-defined]
    assert data.startswith(b"\x89PNG") and size["width"] > 100 and not pyplot.get_fignums()


def test_the_style_is_there_for_figures_of_ones_own() -> None:
    with matplotlib.style.context("dissimilarity.figures.paper"):
        assert mpl.rcParams["pdf.fonttype"] == 42 and mpl.rcParams["font.size"] == 8


def as_seen(colors: np.ndarray, kind: str) -> np.ndarray:
    """Return linear RGB colors as color-blind readers see them (Machado et al. 2009, severity 1)."""
    red, green, blue = {
        "deuteranopia": (
            (0.367322, 0.280085, -0.01182),
            (0.860646, 0.672501, 0.04294),
            (-0.227968, 0.047413, 0.968881),
        ),
        "protanopia": (
            (0.152286, 0.114503, -0.003882),
            (1.052583, 0.786281, -0.048116),
            (-0.204868, 0.099216, 1.051998),
        ),
    }[kind]
    return np.clip(colors @ np.array([red, green, blue]), 0, 1)


def in_lab(colors: np.ndarray) -> np.ndarray:
    """Return linear RGB colors in CIE Lab, where a distance of 2 can just be seen."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = colors @ np.array(to_xyz).T / (0.9505, 1.0, 1.089)
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * root[:, 1] - 16, 500 * (root[:, 0] - root[:, 1]), 200 * (root[:, 1] - root[:, 2])], 1)


@pytest.mark.parametrize("kind", ["deuteranopia", "protanopia"])
def test_colors_can_be_told_apart_by_color_blind_readers(kind: str) -> None:
    linear = np.array([to_rgb(color) for color in GROUP_COLORS]) ** 2.2
    lab = in_lab(as_seen(linear, kind))
    apart = np.linalg.norm(lab[:, None] - lab, axis=-1)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 10
    scale = in_lab(as_seen(mpl.colormaps["viridis"](np.linspace(0, 1, 12))[:, :3] ** 2.2, kind))
    assert (np.diff(scale[:, 0]) > 2).all()  # lighter with every step, so that it also works in gray
    red = in_lab(as_seen(np.array([[0.8, 0.1, 0.1], [0.1, 0.6, 0.1]]) ** 2.2, kind))
    assert np.linalg.norm(red[0, 1:] - red[1, 1:]) < 40  # the simulation does mix red and green


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: heatmap_figure(records((12, 48), (1, 4, 30)), LONG.format(0)), "deep"),
        (lambda: heatmap_figure(records((48, 12), (1, 4)), LONG.format(0)), "deep model"),
        (lambda: heatmap_figure(records((1, 2)), LONG.format(0)), "one layer"),
        (lambda: heatmap_figure(records(references=(LONG.format(1),)), LONG.format(0)), "long names"),
        (lambda: comparison_figure(records(null=0.1, null_best=0.1001), "a", "b"), "marks in one place"),
        (lambda: comparison_figure(records((12, 48)), LONG.format(0), LONG.format(1)), "comparison"),
        (lambda: curves_figure(records(steps=tuple(range(30)), references=("init", LONG.format(1)))), "30 ticks"),
        (lambda: curves_figure(records(steps=(0,)), model=LONG.format(0)), "one tick"),
        (lambda: curves_figure(records((48, 48), steps=(0, 9)), model="solu"), "48 layers"),
        (lambda: curves_figure(records(**NOTHING, note="too few samples for it " * 3)), "NaN"),
        (lambda: heatmap_figure(records(**NOTHING, note="too few samples for it"), "solu"), "NaN in maps"),
        (lambda: intrinsic_figure(intrinsic(("rankme", "alpha_req"), 48), LONG.format(0)), "intrinsic"),
        (lambda: text(title=LONG.format(0) * 3), "text"),
        (lambda: models_figure(between_models(POINTS, LONG)), "6 models"),
        (lambda: models_figure(between_models(np.random.default_rng(1).normal(size=(40, 2)), LONG)), "40 models"),
        (lambda: models_figure(between_models(np.repeat(POINTS[:2], 20, 0), LONG)), "20 in one place"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_nothing_is_printed_over_anything_else(make: Callable[[], Figure], name: str) -> None:
    figure = make()
    assert not misprints(figure)
    assert figure.get_figheight() * figure.get_dpi() <= PIXELS


def test_a_misprint_is_found() -> None:
    figure = Figure()
    figure.text(0.5, 0.5, "one")
    figure.text(0.51, 0.5, "two")
    figure.text(-0.1, 0.9, "three")
    assert [line.split(":")[0] for line in misprints(figure)] == ["outside", "over each other"]


def test_many_measures_and_models_take_several_figures() -> None:
    measures = tuple(f"measure_{number}" for number in range(12))
    drawn = run_figures(records(measures=measures, steps=(1, 2)), "solu")
    assert list(drawn) == ["curves", "curves_2", "heatmap_init", "heatmap_init_2", "heatmap_init_3"]
    table = between_models(np.random.default_rng(2).normal(size=(30, 2)), measures=measures[:5])
    pages = [models_figure(page) for page in model_pages(table)]
    assert [len(figure.axes) for figure in pages] == [4, 4, 2]
    assert all(figure.get_figheight() * figure.get_dpi() <= PIXELS for figure in (*drawn.values(), *pages))
    tall = PaperFigure(figsize=(1, 40))
    assert int.from_bytes(png_of(tall)[20:24]) <= PIXELS and tall.get_dpi() == 200


def test_every_figure_of_a_run_names_it() -> None:
    drawn = run_figures(records(steps=(1, 2)), "solu-w64-d2-s0")
    alone = [intrinsic_figure(intrinsic(), "solu-w64-d2-s0"), groups_figure(groups(), "solu-w64-d2-s0")]
    alone.append(penalties_figure(penalties(), "solu-w64-d2-s0"))
    for figure in (*drawn.values(), *alone):
        assert any("solu-w64-d2-s0" in text.get_text() for text in texts_of(figure))


def hatched(figure: Figure) -> int:
    (panel,) = (panel for panel in figure.axes if panel.images)
    return sum(len(cells.get_paths()) for cells in panel.collections if cells.get_hatch())


def test_cells_whose_interval_holds_the_null_are_hatched() -> None:
    """Two of four cells are 0.05 from the null, which two standard errors of 0.03 reach; the others are farther."""

    def near(row: dict[str, Any]) -> float:
        return row["value"] - 0.05 if row["site_a"] == row["site_b"] else row["value"] - 0.2

    for draw in (lambda table: heatmap_figure(table, "a"), lambda table: comparison_figure(table, "a", "b")):
        figure = draw(records(null=near, stderr=0.03))
        assert hatched(figure) == 2 and "hatched" in figure.get_supxlabel()
        sure = draw(records(null=near, stderr=0.003))
        assert hatched(sure) == 0 and "hatched" not in sure.get_supxlabel()
        assert hatched(draw(records(null=math.nan))) == hatched(draw(records().drop_columns(["stderr"]))) == 0


def shades(figure: Figure) -> np.ndarray:
    (panel,) = (panel for panel in figure.axes if panel.images)
    image: Any = panel.images[0]
    return image.cmap(image.norm(np.asarray(image.get_array())))[..., :3].sum(-1)


@pytest.mark.usefixtures("unchecked")
def test_colors_run_in_both_directions_and_to_the_null_or_over_the_data() -> None:
    for draw in (
        lambda **o: heatmap_figure(records(), "a", **o),
        lambda **o: comparison_figure(records(), "a", "b", **o),
    ):
        same, different = shades(draw()), shades(draw(dark="different"))
        assert same[0, 0] < same[0, 1] and different[0, 0] > different[0, 1]
        ranges = {scale: draw(scale=scale).axes[0].images[0].get_clim() for scale in ("null", "data")}
        values: Any = draw().axes[0].images[0].get_array()
        assert ranges["data"] == (values.min(), values.max())
        assert {0.0, 0.9} == {*np.round(ranges["null"], 9)} or {0.1, 1.0} == {*np.round(ranges["null"], 9)}
        with pytest.raises(ValueError, match="scale: expected null or data, found 'nul'"):
            draw(scale="nul")


def test_a_model_beside_itself_is_no_picture() -> None:
    """At step 0, the model and its start are one."""
    own = records(steps=(0, 400), reference_step=0)
    assert [panel.get_title() for panel in heatmap_figure(own, "solu").axes] == ["step 400"]
    alone = run_figures(records(steps=(0,), reference_step=0), "solu")
    assert list(alone) == ["curves"]
    assert list(run_figures(records(steps=(0,), reference_step=-1), "solu")) == ["curves", "heatmap_init"]


def test_outputs_first_leave_the_maps_of_the_sites() -> None:
    kl = records((1, 1), measures=("kl",), site_a="logits", site_b="logits")
    drawn = run_figures(pa.concat_tables([kl, records()]), "solu")
    assert [panel.get_title() for panel in drawn["heatmap_init"].axes] == ["step 4"]


def test_strips_stand_where_one_component_has_more_than_half_of_the_variance() -> None:
    def with_share(share: float) -> Figure:
        at = {"step": 4, "reference": "init", "of": "model", "site": "blocks.0.resid_post"}
        return heatmap_figure(records(), "solu", [{**at, "share": share}])

    assert "PC1" in with_share(0.51).get_supxlabel() and "PC1" not in with_share(0.5).get_supxlabel()


def test_a_pdf_is_as_wide_as_it_was_asked_for() -> None:
    """Letters of 8 points have 8 points in the file itself, 72 of which are an inch."""
    file = io.BytesIO()
    figure = DRAWN["heatmap_figure"][0](figsize=(COLUMN, 2.6))
    figure.savefig(file, format="pdf")
    assert re.search(rb"/MediaBox \[ ?0 0 234 187.2 ?\]", file.getvalue())
