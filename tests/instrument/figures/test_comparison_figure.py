"""The figure of a comparison: what is drawn where, for one measure as for twenty."""

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pyarrow as pa
import pytest

from dissimilarity import CKA, Procrustes, compare
from dissimilarity.figures.comparison import WIDTH, comparison_figure
from dissimilarity.figures.figure import write_figure
from tests.instrument.comparison.test_compare import model, tokens


def made(measures: list[str], n_a: int = 2, n_b: int = 3, **columns: Any) -> pa.Table:
    rows = []
    for measure in measures:
        for i in range(n_a):
            for j in range(n_b):
                far = (1 + abs(i - j)) / 10
                falls = measure.startswith("cka")
                row = dict(measure=measure, site_a=f"blocks.{i}.resid_post", site_b=f"blocks.{j}.resid_post", note="")
                row |= dict(value=1 - far if falls else far, dissimilarity=far, null=0.05 if falls else 1.2)
                rows.append(row | columns)
    return pa.Table.from_pylist(rows)


def maps(figure: Any) -> list[Any]:
    return [panel for panel in figure.axes if panel.images and panel.get_title()]


def test_values_stand_where_the_sites_are() -> None:
    a, b = model(16, 2), model(24, 3, seed=1)
    table = compare(a, b, tokens(), measures=[CKA(), Procrustes()])
    figure = comparison_figure(table, "first", "second")
    assert [panel.get_title() for panel in maps(figure)] == ["CKA", "Procrustes angle (rad)"]
    for panel, measure in zip(maps(figure), ("cka", "procrustes"), strict=True):
        expected = np.array([row["value"] for row in table.to_pylist() if row["measure"] == measure]).reshape(2, 3)
        assert np.asarray(panel.images[0].get_array()) == pytest.approx(expected)
        assert len(panel.texts) == 6 and panel.texts[0].get_text().lstrip("-0") == f"{expected[0, 0]:.2f}".lstrip("-0")
    assert figure.get_supylabel().split() == "first: resid_post of block".split()
    assert figure.get_supxlabel().split("\n")[0] == "second: resid_post of block"
    assert not plt.get_fignums()


def test_strips_show_the_share_of_the_first_component_beside_each_site() -> None:
    rows = made(["cka", "procrustes"]).to_pylist()
    shares = {"a": (0.2, 0.6), "b": (0.1, 0.3, 0.4)}
    for row in rows:
        row |= {f"first_pc_{side}": shares[side][int(row[f"site_{side}"].split(".")[1])] for side in "ab"}
    figure = comparison_figure(pa.Table.from_pylist(rows), "first", "second")
    for panel in maps(figure):
        strips = [axes for axes in panel.child_axes if axes.images and axes.images[0].get_cmap().name == "Grays"]
        upwards, rightwards = (np.asarray(strip.images[0].get_array()) for strip in strips)
        assert upwards.shape == (2, 1) and rightwards.shape[0] == 1
        assert upwards[0, 0] == 0.2
        assert rightwards[0, -1] == 0.4
        assert all(strip.images[0].get_clim() == (0, 1) for strip in strips)
    assert "share of variance in the first" in figure.get_supxlabel()
    low = pa.Table.from_pylist([row | {"first_pc_a": 0.2} for row in rows])
    assert "share" not in comparison_figure(low, "first", "second").get_supxlabel()


def test_dark_is_the_same_and_the_bar_says_which_end_and_where_the_null_is() -> None:
    similar, distance = maps(comparison_figure(made(["cka", "angle"]), "a", "b"))
    for panel, text, null in ((similar, "1 = same", 0.05), (distance, "0 = same", 1.2)):
        (bar,) = panel.child_axes
        assert bar.get_ylabel() == text
        assert [(note.get_text(), note.xy[1]) for note in bar.texts] == [("null", pytest.approx(null))]
        image = panel.images[0]
        values = np.asarray(image.get_array())
        shades = image.cmap(image.norm(values))[..., :3].sum(-1)
        nearest = np.unravel_index(shades.argmin(), shades.shape)
        assert nearest in ((0, 0), (1, 1)) and values[nearest] == (0.9 if panel is similar else 0.1)
    assert similar.images[0].get_clim()[1] == 1 and distance.images[0].get_clim()[0] == 0


@pytest.mark.parametrize("count", [1, 2, 3, 5, 12, 20])
@pytest.mark.parametrize("sites", [(2, 2), (12, 6), (24, 24)])
def test_panels_fit_on_a_page_and_each_column_is_named_below(count: int, sites: tuple[int, int]) -> None:
    figure = comparison_figure(made([f"measure_{index}" for index in range(count)], *sites), "a", "b")
    panels = maps(figure)
    assert len(panels) == count and figure.get_figwidth() <= WIDTH + 0.3
    columns = {panel.get_subplotspec().colspan.start for panel in panels}
    named = [panel for panel in panels if panel.xaxis.get_tick_params()["labelbottom"]]
    assert {panel.get_subplotspec().colspan.start for panel in named} >= columns


def test_a_measure_without_values_says_why_and_outputs_stand_below(tmp_path: Any) -> None:
    rows = made(["cka", "broken"]).to_pylist()
    for row in rows:
        if row["measure"] == "broken":
            row |= dict(value=math.nan, dissimilarity=math.nan, note="broken has 3 samples")
    rows.append(rows[0] | dict(measure="kl", site_a="logits", site_b="logits", value=0.2, null=1.4))
    figure = comparison_figure(pa.Table.from_pylist(rows), "a", "b")
    assert "broken has 3" in maps(figure)[1].texts[0].get_text()
    assert figure.get_supxlabel().endswith("\nKL (nats) 0.200 (null 1.400)")
    paths = write_figure(figure, tmp_path / "figures", "a")
    assert [path.read_bytes()[:4] for path in paths] == [b"\x89PNG", b"%PDF"]
    with pytest.raises(ValueError, match="without records"):
        comparison_figure(pa.Table.from_pylist(rows).slice(0, 0), "a", "b")
