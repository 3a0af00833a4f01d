"""Groups of references: means, what lies between two groups with its error, and a drift that was planted."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import pytorch_lightning as pl
import torch
from scipy import stats
from torch import Tensor, nn

from dissimilarity import CKA, Procrustes
from dissimilarity.figures.drift import groups_figure
from dissimilarity.inference.drift import drift, group_records, group_table, read_groups
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.tables.curves import SCHEMA as CURVES
from dissimilarity.tables.curves import read_curves, select
from dissimilarity.tracking import tables
from dissimilarity.tracking.reference_groups import labels_by_group
from launch.cli.compose import compose
from launch.cli.validate import validate
from tests.helpers.tiny_run import in_process, tiny

GROUPS = {"good": ["a", "b", "c"], "bad": ["d", "e", "f"]}


def curve(reference: str, step: int, value: float, stderr: float = 0.1, site: str = "s.1") -> dict[str, Any]:
    names = {"reference": reference, "measure": "cka", "site_a": site, "site_b": site, "note": ""}
    numbers = {"value": 1 - value, "dissimilarity": value, "stderr": stderr, "null": 0.0, "calibrated": 0.0}
    return {"step": step, "tokens": 10 * step, **names, **numbers, "n_samples": 5, "seconds": 0.0}


def tick(step: int, values: str, **options: Any) -> list[dict[str, Any]]:
    return [curve(label, step, float(value), **options) for label, value in zip("abcdef", values.split(), strict=True)]


def test_means_and_errors_are_those_of_numpy() -> None:
    rows = tick(4, "0.1 0.2 0.6 0.7 0.9 1.0")
    rows[0]["stderr"] = 0.4
    result = {row["group"]: row for row in group_records(rows, GROUPS)}
    good, bad = np.array([0.1, 0.2, 0.6]), np.array([0.7, 0.9, 1.0])
    errors = [math.sqrt(values.var(ddof=1) / len(values) + error**2) for values, error in ((good, 0.2), (bad, 0.1))]
    assert list(result) == ["good", "bad", "good-bad"]
    for name, values, error in (("good", good, errors[0]), ("bad", bad, errors[1])):
        assert result[name]["dissimilarity"] == pytest.approx(values.mean())
        assert result[name]["stderr"] == pytest.approx(error) and result[name]["references"] == len(values)
    assert result["good-bad"]["dissimilarity"] == pytest.approx(good.mean() - bad.mean())
    assert result["good-bad"]["stderr"] == pytest.approx(math.hypot(*errors))


def test_records_without_a_value_are_ignored() -> None:
    rows = tick(4, "nan 0.2 0.6 nan nan nan")
    good, bad, between = group_records(rows, GROUPS)
    assert (good["dissimilarity"], good["references"]) == (pytest.approx(0.4), 2)
    assert math.isnan(bad["dissimilarity"]) and bad["references"] == 0 and math.isnan(between["dissimilarity"])
    (single, *_) = group_records(rows[1:2], {"one": ["b"]})
    assert (single["dissimilarity"], single["stderr"]) == (0.2, 0.1)
    three = group_records(rows, {"x": ["a"], "y": ["b"], "z": ["c"]})
    assert [row["group"] for row in three] == ["x", "y", "z", "x-y", "x-z", "y-z"]


def test_the_error_bar_covers_the_spread_over_references_and_over_probe_sets() -> None:
    """References of two kinds that do not differ, an error that all values of a probe set share, and one of each."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(400):
        shared = rng.normal(0, 0.05, 2) + rng.normal(0, 0.05)
        values = [0.5 + rng.normal(0, 0.1) + shared[int(label in "def")] for label in "abcdef"]
        text = " ".join(map(str, values))
        between = group_records(tick(1, text, stderr=math.sqrt(2) * 0.05), GROUPS)[2]
        hits.append(between["low"] < 0 < between["high"])
    assert 0.93 < np.mean(hits) < 0.995


def test_what_groups_share_through_the_probe_text_cancels_in_their_difference() -> None:
    """Text that makes all references look farther away adds nothing to the error of the difference."""
    rng, results = np.random.default_rng(0), []
    for _ in range(200):
        unit = rng.normal(0, 0.5, 24)  # of each sequence, in all values alike
        influences = {label: (unit + rng.normal(0, 0.02, 24)) / 24 for label in "abcdef"}
        rows = [
            {**curve(label, 1, 0.5 + float(u.sum()) + rng.normal(0, 0.03), stderr=0.1), "influence": u.tolist()}
            for label, u in influences.items()
        ]
        results.append(group_records(rows, GROUPS))
    good, _, difference = ([row[place] for row in results] for place in range(3))
    for rows, truth in ((good, 0.5), (difference, 0.0)):
        values, errors = (np.array([row[key] for row in rows]) for key in ("dissimilarity", "stderr"))
        assert 0.8 < np.sqrt((errors**2).mean()) / values.std() < 1.25
        assert 0.92 < np.mean([row["low"] < truth < row["high"] for row in rows]) < 0.99
    assert np.mean([row["stderr"] for row in difference]) < 0.4 * np.mean([row["stderr"] for row in good])


def test_records_of_other_units_or_without_influences_are_not_paired() -> None:
    rows = [{**row, "influence": [0.1, -0.1, 0.3]} for row in tick(4, "0.1 0.2 0.6 0.7 0.9 1.0")]
    unpaired = [{**rows[0], "influence": []}, *rows[1:]]
    shorter = [*rows[:3], *({**row, "influence": [0.1, -0.1]} for row in rows[3:])]
    good, bad, difference = group_records(rows, GROUPS)
    assert difference["stderr"] ** 2 == pytest.approx(
        sum(np.var(values, ddof=1) / 3 for values in ([0.1, 0.2, 0.6], [0.7, 0.9, 1.0]))
    )
    for other in (unpaired, shorter):
        alone = group_records(other, GROUPS)
        assert alone[2]["stderr"] == pytest.approx(math.hypot(alone[0]["stderr"], alone[1]["stderr"]))
    assert good["stderr"] < math.hypot(good["stderr"], bad["stderr"])


def test_the_table_takes_matched_pairs_out_of_heat_maps() -> None:
    rows = []
    for label in "abcdef":
        for site_a in ("s.0", "s.1"):
            for site_b in ("s.0", "s.1"):
                value = 0.25 if site_a == site_b else 9.0
                rows.append({**curve(label, 2, value), "site_a": site_a, "site_b": site_b})
    table = group_table(pa.Table.from_pylist(rows, schema=CURVES), GROUPS)
    assert table["site"].to_pylist() == ["s.0"] * 3 + ["s.1"] * 3
    assert table["dissimilarity"].to_pylist() == [0.25, 0.25, 0.0] * 2


@pytest.mark.parametrize(
    ("values", "nearest", "differs"),
    [
        ("0.1 0.1 0.2 0.8 0.9 0.8", "good", True),
        ("0.8 0.9 0.8 0.1 0.2 0.1", "bad", True),
        ("0.4 0.5 0.6 0.5 0.6 0.6", "good", False),
    ],
)
def test_drift_says_which_group_is_nearest_and_whether_that_is_known(values: str, nearest: str, differs: bool) -> None:
    rows = [*tick(0, "0.5 0.5 0.5 0.5 0.5 0.5"), *tick(8, values), *tick(16, "nan nan nan nan nan nan")]
    table = group_table(pa.Table.from_pylist(rows, schema=CURVES), GROUPS)
    result = drift(table)["cka"]
    last = next(row for row in table.to_pylist() if (row["group"], row["step"]) == ("good-bad", 8))
    assert (result["nearest"], result["differs"], result["step"], result["site"]) == (nearest, differs, 8, "s.1")
    assert result["difference"] == pytest.approx(abs(last["dissimilarity"])) and result["difference"] >= 0
    assert result["stderr"] == pytest.approx(last["stderr"])
    assert result["differs"] == (not last["low"] < 0 < last["high"])


def test_without_error_from_the_probe_set_the_test_and_the_interval_are_welchs() -> None:
    good, bad = [0.1, 0.2, 0.4], [0.5, 0.6, 0.9]
    rows = tick(8, " ".join(map(str, good + bad)), stderr=0.0)
    table = group_table(pa.Table.from_pylist(rows, schema=CURVES), GROUPS)
    test = stats.ttest_ind(good, bad, equal_var=False)
    alone, _, between = table.to_pylist()
    assert drift(table)["cka"]["p"] == pytest.approx(test.pvalue)  # pyright: ignore[reportAttributeAccessIssue]
    assert (between["low"], between["high"]) == pytest.approx(test.confidence_interval())
    assert (alone["low"], alone["high"]) == pytest.approx(stats.ttest_1samp(good, 0).confidence_interval())


def test_two_references_are_no_verdict_however_far_apart() -> None:
    rows = tick(8, "0.1 0.1 0.11 0.9 0.91 nan")
    table = group_table(pa.Table.from_pylist(rows, schema=CURVES), GROUPS)
    result = drift(table)["cka"]
    assert (result["nearest"], result["differs"], result["references"]) == ("good", False, 2) and math.isnan(
        result["p"]
    )
    assert [math.isnan(row["low"]) for row in table.to_pylist()] == [False, True, True]


def test_the_nearest_of_three_groups_differs_from_each_of_the_others() -> None:
    """Near the next one in the mean, and far from the third: that it is nearest is not known."""
    groups = {"x": ["a", "b", "c"], "y": ["d", "e", "f"], "z": ["g", "h", "i"]}
    labels = dict(zip("abcdefghi", [0.10, 0.11, 0.12, 0.30, 0.31, 0.32, 0.1, 0.4, 0.9], strict=True))
    rows = [curve(label, 8, value, stderr=0.0) for label, value in labels.items()]
    result = drift(group_table(pa.Table.from_pylist(rows, schema=CURVES), groups))["cka"]
    assert (result["nearest"], result["next"], result["differs"]) == ("x", "y", False)
    assert result["p"] == pytest.approx(
        stats.ttest_ind([0.10, 0.11, 0.12], [0.1, 0.4, 0.9], equal_var=False).pvalue  # pyright: ignore
    )


class Drawn(pl.LightningModule):
    """Two layers that are drawn to those of a target."""

    def __init__(self, seed: int, target: "Drawn | None" = None, noise: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
        fixed = torch.Generator().manual_seed(0)
        self.embedding.weight.data = torch.randn(50, 8, generator=fixed)
        for number, layer in enumerate(self.layers):
            drawn: Any = torch.randn(8, 8, generator=generator)
            aim: Any = drawn if target is None else target.layers[number].weight.data
            layer.weight.data = (1 - noise) * aim + noise * drawn
        self.toward: list[Tensor] = []

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return sum(((a.weight - b) ** 2).sum() for a, b in zip(self.layers, self.toward, strict=True))  # pyright: ignore

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.layers.parameters(), 0.1)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory, no_figures: Any) -> tuple[Path, dict[str, Any]]:
    """A model that is drawn to `good`, the folder of its run, and what the tracker says of it."""
    folder, centers = tmp_path_factory.mktemp("drawn"), [Drawn(1), Drawn(2)]
    references = {
        f"{kind}{n}": Drawn(10 + n, center, 0.3) for kind, center in zip("gb", centers, strict=True) for n in range(3)
    }
    module = Drawn(3)
    module.toward = [layer.get_parameter("weight").data.clone() for layer in centers[0].layers]
    probe = torch.randint(50, (24, 8), generator=torch.Generator().manual_seed(0))
    groups = {"good": ["g0", "g1", "g2"], "bad": ["b0", "b1", "b2"]}
    options: Any = {
        "sites": "layers.*",
        "every": 8,
        "heatmap_every": 16,
        "n_units": 6,
    }
    tracker = DissimilarityTracker(references, [CKA(), Procrustes()], probe, folder, reference_groups=groups, **options)
    quiet: Any = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_steps=24, accelerator="cpu", enable_model_summary=False, callbacks=[tracker], **quiet)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "draw_run", no_figures)
        trainer.fit(module, torch.utils.data.DataLoader(torch.zeros(100, 1), batch_size=4))  # pyright: ignore
    return folder, tracker.drift


def test_a_planted_drift_is_seen(drawn: tuple[Path, dict[str, Any]]) -> None:
    folder, result = drawn
    table = read_groups(folder)
    between = [row for row in table.to_pylist() if row["group"] == "good-bad" and row["site"] == "layers.1"]
    for measure in ("cka", "procrustes"):
        line = {row["step"]: row for row in between if row["measure"] == measure}
        assert line[0]["low"] < 0 < line[0]["high"], "not yet nearer to any"
        assert line[24]["high"] < 0 and line[24]["dissimilarity"] < -3 * line[24]["stderr"]
        assert (result[measure]["nearest"], result[measure]["next"], result[measure]["differs"]) == (
            "good",
            "bad",
            True,
        )
    curves = read_curves(folder).to_pylist()
    assert {row["reference"] for row in curves} == {"g0", "g1", "g2", "b0", "b1", "b2"}, "groups have no rows there"
    place = {"step": 24, "measure": "cka", "site_a": "layers.1", "site_b": "layers.1"}
    last = [row["dissimilarity"] for row in curves if place.items() <= row.items()]
    expected_at = {"step": 24, "measure": "cka", "site": "layers.1"}
    means = {row["group"]: row for row in table.to_pylist() if expected_at.items() <= row.items()}
    assert means["good"]["dissimilarity"] == pytest.approx(np.mean(last[:3]))
    assert means["bad"]["dissimilarity"] == pytest.approx(np.mean(last[3:]))
    assert (folder / "figures" / "groups.png").stat().st_size > 10_000


def test_the_figure_has_one_panel_per_measure_and_the_difference_below(drawn: tuple[Path, dict[str, Any]]) -> None:
    table = read_groups(drawn[0])
    axes = groups_figure(table).get_axes()
    titles = [panel.get_title().splitlines() for panel in axes[:2]]
    at = "at layers of block 1"
    assert titles == [["1 - CKA", at], ["Procrustes angle (rad)", at]]
    assert len(axes) == 4
    line = axes[0].get_lines()[0]
    shown = select(table, group="good", measure="cka", site="layers.1")["dissimilarity"].to_numpy()
    np.testing.assert_allclose(np.asarray(line.get_ydata()), shown)
    three = {"x": ["g0"], "y": ["g1"], "z": ["b0"]}
    assert len(groups_figure(group_table(read_curves(drawn[0]), three)).get_axes()) == 2, "no difference of three"


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"good/": ["a"]}, "'good/': expected a name of letters"),
        ({"good-bad": ["a"]}, "'good-bad': expected a name"),
        ({"good": []}, "groups.good: expected .* found none"),
        ({"good": ["a", "z"]}, "groups.good: expected some of the references a, b, c, found z; list"),
        ({"good": ["a"], "bad": ["runs/a", "b"]}, "a is in good and in bad; leave it in one"),
    ],
)
def test_impossible_groups_are_rejected(groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        labels_by_group(groups, {"a": "runs/a", "b": "runs/b", "c": nn.Identity()})


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "reference_groups={good:[runs/a],bad:[runs/c]}",
            r"reference_groups.bad: runs/c is not among references=\[runs/a,runs/b\]; list it",
        ),
        (
            "reference_groups={good:[runs/a],bad:[runs/b,runs/a]}",
            "reference_groups.bad: runs/a is in good already; leave it in one",
        ),
        ("reference_groups=[runs/a]", "expected names with lists of models, such as {good"),
        ("reference_groups={good:runs/a}", "expected names with lists of models, such as {good"),
        ("reference_groups={good:[],bad:[runs/a]}", "expected names with lists of models"),
        ("reference_groups={good-x:[runs/a]}", "reference_groups: 'good-x': expected a name of letters, digits and _"),
    ],
)
def test_groups_of_the_command_line_are_rejected_before_anything_else(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate(compose(["references=[runs/a,runs/b]", override]))
    validate(compose(["references=[runs/a,runs/b]", "reference_groups={good:[runs/a],bad:[runs/b]}"]))


def test_a_language_model_is_tracked_against_two_kinds_of_runs(tmp_path: Path) -> None:
    """Two lines of runs start from different weights, and the tracked model continues none of them."""
    for name, seed in (("first", 0), ("second", 5)):
        assert in_process(tiny(tmp_path, name=name, init_seed=seed, data_seed=seed)) == 0
    runs = {
        name: [f"{tmp_path}/runs/{name}/checkpoints/step_{step:07d}.ckpt" for step in (4, 8, 11)]
        for name in ("first", "second")
    }
    lists = {name: "[" + ",".join(paths) + "]" for name, paths in runs.items()}
    against = "[" + ",".join(path for paths in runs.values() for path in paths) + "]"
    groups = "{" + ",".join(f"{name}:{paths}" for name, paths in lists.items()) + "}"
    assert in_process(tiny(tmp_path, name="now", references=against, reference_groups=groups)) == 0
    folder = tmp_path / "runs" / "now"
    summary = json.loads((folder / "summary.json").read_text())["drift"]
    assert {drift["nearest"] for drift in summary.values()} == {"first"} and "cka" in summary
    table = read_groups(folder)
    assert set(table["group"].to_pylist()) == {"first", "second", "first-second"}
    assert set(table["references"].to_pylist()) == {3, 6}
    assert table["step"].to_pylist()[-1] == 11
