"""Figures: what is drawn, read back from the figure objects, and files that a paper can take."""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from matplotlib import pyplot, rcParams
from matplotlib.figure import Figure
from scipy import stats

from dissimilarity.figures.comparison import comparison_figure
from dissimilarity.figures.curves import curves_figure
from dissimilarity.figures.drift import groups_figure
from dissimilarity.figures.heatmaps import heatmap_figure
from dissimilarity.figures.penalties import penalties_figure
from dissimilarity.figures.run import draw_run, run_figures
from dissimilarity.inference.coverage import FIRST_TICK, HELD_OUT_TEXT, PROBE_TEXT, REFERENCES
from dissimilarity.tables.curves import JOURNAL, SCHEMA, Curves
from tests.helpers.intervals import check_figures, has_interval, sentences_of

STEPS = (0, 1, 2, 4, 8, 10, 20)


def posts(n_layers: int) -> list[str]:
    return [f"blocks.{i}.resid_post" for i in range(n_layers)]


def rows(
    depth: dict[str, int],
    measures: Iterable[str] = ("cka", "procrustes"),
    heatmaps: Iterable[int] = (0, 10, 20),
    sites: Sequence[str] = (),
    **second,
) -> list[dict]:
    """Return a made-up run of two layers (or `sites`); value = 1 - dissimilarity for CKA, equal to it otherwise."""
    records = []
    for step in STEPS:
        for reference, n_layers in depth.items():
            sites_a = list(sites) or posts(2)
            sites_b = list(sites) or posts(n_layers)
            ends = {sites_a[0]: sites_b[0], sites_a[-1]: sites_b[-1]} if not sites else dict.fromkeys(sites)
            for measure in measures:
                for i, a in enumerate(sites_a):
                    for j, b in enumerate(sites_b):
                        if step not in heatmaps and (ends[a] or a) != b:
                            continue
                        far = (step / 40) * (i + 1) / len(sites_a) + abs(i - j) / 10
                        falls = measure == "cka"
                        row = dict(step=step, tokens=64 * step, reference=reference, measure=measure, site_a=a)
                        row |= dict(site_b=b, value=1 - far if falls else far, dissimilarity=far, stderr=0.01)
                        row |= dict(null=0.1 if falls else 0.9, n_samples=8, n_units=16, seconds=0.5)
                        row |= dict(calibrated=1 - far / 0.9, note="")
                        records.append(row | {k: v(row) if callable(v) else v for k, v in second.items()})
    return records


def table(*args, **kwargs) -> pa.Table:
    return pa.Table.from_pylist(rows(*args, **kwargs), schema=SCHEMA)


def lines(panel) -> dict:
    return {line.get_label(): line for line in panel.lines if not str(line.get_label()).startswith("_")}


def panels(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def far(row: dict) -> list[float]:
    """Return influences that are small beside the distance from the first step."""
    return [1e-4 * row["step"], -1e-4 * row["step"], 0.0]


def test_figures_say_what_their_intervals_cover():
    sizes = ({"init": 2}, {"init": 2, "deep": 5, "previous": 2})
    for depth in sizes:
        for measures in (["cka"], ["cka", "procrustes", "mutual_knn"]):
            figure = curves_figure(table(depth, measures))
            check_figures([figure])
            assert sentences_of(figure) == [PROBE_TEXT]
            moving = curves_figure(table(depth, measures, influence=far, probe="ab"))
            check_figures([moving])
            assert sentences_of(moving) == [PROBE_TEXT, FIRST_TICK]
    record = {"fit": "direct", "direction": "into", "site_front": "embed", "stderr": 0.1, "value": 1.0, "sequences": 8}
    penalties = penalties_figure([{"step": step, "reference": "init", **record} for step in (1, 2)])
    check_figures([penalties])
    assert sentences_of(penalties) == [HELD_OUT_TEXT]
    groups = {"tokens": 0, "measure": "cka", "site": "embed", "low": 0.1, "high": 0.6, "references": 3}
    records = [{"step": 1, "group": name, "dissimilarity": 0.5, **groups} for name in ("a", "b", "a-b")]
    drift = groups_figure(pa.Table.from_pylist(records))
    check_figures([drift])
    assert sentences_of(drift) == [REFERENCES]
    assert has_interval(figure) and has_interval(penalties) and has_interval(drift)


def test_bars_of_penalties_are_students():
    """A penalty on 8 held-out sequences is known to within 2.36 standard errors, not 1.96."""
    at = {"reference": "init", "fit": "direct", "direction": "into", "site_front": "embed"}
    sizes = [8, 1000]
    rows = [{**at, "step": n, "value": 1.0, "stderr": 0.1, "sequences": n} for n in sizes]
    containers: list[Any] = penalties_figure(rows).axes[0].containers
    ((bars,),) = (container.lines[2] for container in containers)
    heights = [np.ptp(segment[:, 1]) for segment in bars.get_segments()]
    np.testing.assert_allclose(heights, [0.2 * stats.t.ppf(0.975, n - 1) for n in sizes])


def test_the_first_step_that_differs_is_marked():
    """The first layer moves from step 4 on, the second one never."""

    def influence(row):
        late = row["site_a"] == posts(2)[0] and row["step"] >= 4
        return [0.001, -0.001, 0.0] if late else [9.0, -5.0, -4.0] if row["step"] else [0.0, 0.0, 0.0]

    figure = curves_figure(table({"init": 2}, ["procrustes"], influence=influence, probe=""))
    drawn = lines(figure.axes[0])
    marks = [line for line in figure.axes[0].lines if isinstance(line.get_markerfacecolor(), str)]
    (mark,) = (line for line in marks if line.get_markerfacecolor() == "white" and np.size(line.get_xdata()))
    assert [*np.asarray(mark.get_xydata())[0]] == [4, np.asarray(drawn[posts(2)[0]].get_xydata())[3, 1]]
    assert (np.array(mark.get_color()) == np.array(drawn[posts(2)[0]].get_color())).all()
    assert "moves" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_panel_per_measure_and_reference_and_one_line_per_pair():
    figure = curves_figure(table({"init": 2, "deep": 5, "previous": 2}))
    assert len(panels(figure)) == 6
    assert [panel.get_title() for panel in figure.axes[:3]] == ["vs init", "vs deep", "vs previous"]
    for panel in figure.axes:
        drawn = lines(panel)
        assert set(drawn) == {*posts(2), "null"}
        assert all(tuple(drawn[site].get_xdata()) == STEPS for site in posts(2))
        assert np.allclose(drawn["null"].get_ydata(), 0.9)
    first, last = (lines(figure.axes[0])[site] for site in posts(2))
    assert np.allclose(last.get_ydata(), np.array(STEPS) / 40)
    assert first.get_color() is not None and not np.allclose(first.get_color(), last.get_color())
    labels = [figure.axes[0].get_ylabel(), figure.axes[3].get_ylabel()]
    assert labels == ["1 - CKA\n(0 = same)", "Procrustes angle (rad)\n(0 = same)"]
    assert figure.axes[-1].get_xlabel() == "training step (64 tokens each)"
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["0", "1", "95% interval", "null (all sites)"]


def test_pairs_of_unequal_depth_are_the_matched_ones():
    figure = curves_figure(table({"deep": 5}, measures=["procrustes"]))
    drawn = lines(figure.axes[0])
    assert np.allclose(drawn[posts(2)[1]].get_ydata(), np.array(STEPS) / 40 + 0.3)


def test_the_band_is_a_t_interval_over_units_and_step_0_has_a_place():
    figure = curves_figure(table({"init": 2}, measures=["cka"], stderr=lambda row: 0.01 * row["step"]))
    panel = figure.axes[0]
    band = panel.collections[0].get_paths()[0].get_extents()
    assert band.y0 == pytest.approx(20 / 80 - 2.1314 * 0.2, abs=1e-4) and band.y1 == pytest.approx(
        20 / 80 + 2.1314 * 0.2, abs=1e-4
    )
    left, right = panel.get_xlim()
    assert left < 0 and right > 20
    places = panel.transData.transform(np.array([(0, 0), (1, 0), (10, 0), (20, 0)]))[:, 0]
    assert (np.diff(places) > 5).all()


def test_missing_values_are_left_out_and_ticked():
    skip = {"value": math.nan, "dissimilarity": math.nan}

    def gone(name):
        return lambda row: skip[name] if row["step"] in (4, 8) else row[name]

    records = table({"init": 2}, measures=["cka"], value=gone("value"), dissimilarity=gone("dissimilarity"))
    figure = curves_figure(records)
    panel = figure.axes[0]
    assert tuple(lines(panel)[posts(2)[0]].get_xdata()) == (0, 1, 2, 10, 20)
    (ticked,) = [line for line in panel.lines if line.get_marker() == "|"]
    assert list(np.asarray(ticked.get_xdata())) == [4, 8]
    assert "not measured" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_panel_without_any_value_says_why():
    nothing = dict.fromkeys(("value", "dissimilarity", "stderr", "null"), math.nan)
    figure = curves_figure(table({"init": 2}, **nothing, note="cka is undefined"))
    assert [text.get_text() for text in figure.axes[0].texts] == ["no values\ncka is undefined"]
    assert "null" not in lines(figure.axes[0])


def test_a_null_far_above_the_curves_does_not_flatten_them():
    near, far = (curves_figure(table({"init": 2}, measures=["procrustes"], null=null)).axes[0] for null in (0.9, 9.0))
    assert near.get_ylim()[1] > 0.9 and near.get_title("right") == ""
    assert far.get_ylim()[1] < 1 and far.get_title("right") == "null at 9"


def test_maps_show_all_pairs_by_measure_and_step():
    figure = heatmap_figure(table({"deep": 5}), "solu-w64-d2-s0")
    maps = panels(figure)
    assert len(maps) == 6
    assert [panel.get_title() for panel in maps[:3]] == ["step 0", "step 10", "step 20"]
    for index, panel in enumerate(maps):
        (image,) = panel.images
        step = (0, 10, 20)[index % 3]
        expected = [[step / 40 * (i + 1) / 2 + abs(i - j) / 10 for j in range(5)] for i in range(2)]
        assert np.allclose(image.get_array(), expected)
        assert image.get_clim() == (0, pytest.approx(0.9)) and panel.get_aspect() == 1
        assert image.origin == "lower" and len(panel.texts) == 10
    assert maps[2].texts[4].get_text() == ".65"
    assert [label.get_text() for label in maps[3].get_xticklabels()] == ["0", "1", "2", "3", "4"]
    assert figure.get_supylabel() == "solu-w64-d2-s0: resid_post of block"
    assert figure.get_supxlabel() == "deep: resid_post of block"
    bars = [maps[row].child_axes[0] for row in (2, 5)]
    marks: list[Any] = [bar.texts[0] for bar in bars]
    assert [mark.xy[1] for mark in marks] == [pytest.approx(0.9)] * 2


@pytest.mark.parametrize("letter", "xW")
@pytest.mark.parametrize("figsize", [None, (3.25, 3)])
def test_long_names_of_models_stay_beside_maps(letter: str, figsize: Any):
    figure = heatmap_figure(table({"init": 2}, measures=["cka"]), letter * 60, figsize=figsize)
    figure.draw_without_rendering()
    (label,) = [text for text in figure.texts if letter * 5 in text.get_text()]
    box = label.get_window_extent()
    assert box.y0 >= 0 and box.y1 <= figure.bbox.height


@pytest.mark.parametrize("letter", "xW")
@pytest.mark.parametrize("figsize", [None, (3.25, 4)])
def test_long_names_stay_within_maps(letter: str, figsize: Any):
    name = letter * 200
    records = table({name: 2}, measures=["cka"])
    last = records.filter(pa.array([step == STEPS[-1] for step in records["step"].to_pylist()]))
    for figure in (heatmap_figure(records, "m", figsize=figsize), comparison_figure(last, "m", name, figsize=figsize)):
        figure.draw_without_rendering()
        (label,) = [text for text in figure.texts if letter in text.get_text()]
        assert label.get_text().replace("\n", "").startswith(name)
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0
        assert all(box.y1 <= panel.get_window_extent().y0 for panel in panels(figure))


def test_kinds_of_sites_get_separate_figures():
    sites = [f"blocks.{i}.{kind}" for i in range(2) for kind in ("mlp_out", "resid_post")]
    assert list(run_figures(table({"init": 2}, sites=["embed", *sites]), "m")) == [
        "curves_other",
        "curves_mlp_out",
        "curves_resid_post",
        "heatmap_init",
    ]
    alone = run_figures(table({"init": 2}, sites=["embed", *posts(2), "ln_final"], heatmaps=()), "m")
    assert list(alone) == ["curves"]
    assert [text.get_text() for text in alone["curves"].legends[0].get_texts()][:2] == ["embed", "0.resid_post"]


def test_many_references_are_spread_over_figures_of_safe_and_different_names():
    depth = {name: 2 for name in ("init", "runs/a", "runs-a", "hf:org/model@main", "previous")}
    records = run_figures(table(depth, measures=["cka"], heatmaps=[10]), "m")
    assert [name for name in records if name.startswith("curves")] == ["curves", "curves_2"]
    assert len(panels(records["curves_2"])) == 1
    assert len(records) == 7 and not any(set(name) & set("/:*? ") for name in records)


def test_draw_run_writes_whole_files_with_embedded_fonts(tmp_path):
    run = Curves(tmp_path / "solu")
    run.folder.mkdir()
    run.append(rows({"init": 2}, measures=["cka"]))
    paths = draw_run(run.folder)
    names = ["curves.png", "curves.pdf", "heatmap_init.png", "heatmap_init.pdf"]
    assert [path.name for path in paths] == names
    assert sorted(path.name for path in (run.folder / "figures").iterdir()) == sorted(names)
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".png":
            assert data.startswith(b"\x89PNG") and b"IEND" in data[-12:]
        else:
            assert data.startswith(b"%PDF") and b"/FontFile2" in data and b"/Type3" not in data
    assert draw_run(run.folder) == paths


def test_no_rows_no_figures(tmp_path):
    assert draw_run(tmp_path / "nowhere") == []
    (tmp_path / JOURNAL).touch()
    assert draw_run(tmp_path) == []
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("steps", [(0,), (0, 1)])
def test_the_first_rows_can_be_drawn(tmp_path, monkeypatch, steps):
    monkeypatch.setattr(sys.modules[__name__], "STEPS", steps)
    run = Curves(tmp_path)
    run.append(rows({"init": 2}, heatmaps=(0,), null=math.nan, stderr=math.nan))
    assert len(draw_run(tmp_path)) == 4


def test_pyplot_and_its_backend_are_left_alone(tmp_path):
    Curves(tmp_path).append(rows({"init": 2}, measures=["cka"], heatmaps=()))
    mine = pyplot.figure()
    settings, backend, manager = dict(rcParams), pyplot.get_backend(), type(mine.canvas)
    try:
        assert len(draw_run(tmp_path)) == 2
        assert dict(rcParams) == settings and pyplot.get_backend() == backend
        assert pyplot.get_fignums() == [mine.number] and pyplot.gcf() is mine and type(mine.canvas) is manager
    finally:
        pyplot.close(mine)
