"""A rule that no tick could raise on its probe set is refused, or said to be once a tick shows it."""

import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dissimilarity import CKA, KL, MutualKNN, Procrustes
from dissimilarity.measures.base.measure import Measure
from dissimilarity.tables.curves import read_curves
from dissimilarity.tracking.tracker import Tracker

CROSSFIT = Procrustes(crossfit=True)


def prepared(folder: Path, alert: str, measures: Sequence[Measure], sequences: int, **options: Any) -> Tracker:
    length = options.pop("length", 6)
    tokens = torch.randint(20, (sequences, length), generator=torch.Generator().manual_seed(0))
    return Tracker({"init": "init"}, measures, tokens, folder, sites="*", alerts=alert, **options)


@pytest.mark.parametrize(
    ("alert", "measures", "sequences", "options", "reason"),
    [
        ("move", [CKA()], 4, {}, "cka has no standard error: without one unit 3 sequences are left, and it needs 4"),
        ("move", [Procrustes()], 3, {}, "procrustes has no standard error: it needs 4 sequences in 2 units and has 3"),
        ("move", [CROSSFIT], 15, {}, "a cross-fitted value needs 8 units and has 7: pass more sequences"),
        ("move", [CROSSFIT, CKA()], 5, {}, "a cross-fitted value needs 8 units and has 2"),
        ("move", [CROSSFIT], 32, {"n_units": 4}, "a cross-fitted value needs 8 units and has 4"),
        ("move", [MutualKNN()], 4, {"length": 3}, "without some of its units too few samples are left"),
        ("collapse", [Procrustes()], 3, {}, "the effective rank has no standard error: it needs 4 sequences in 2"),
        ("collapse", [CKA()], 8, {"n_units": 1}, "which n_units=1 turns off; leave n_units out"),
    ],
)
def test_a_rule_without_error_bars_is_refused(
    alert: str, measures: Sequence[Measure], sequences: int, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"alerts: {alert} needs error bars, .*{re.escape(reason)}"):
        prepared(tmp_path, alert, measures, sequences, **options)


@pytest.mark.parametrize(
    ("alert", "measures", "sequences", "options"),
    [
        ("move", [CKA()], 5, {}),
        ("move", [Procrustes()], 4, {}),
        ("move", [CROSSFIT], 16, {}),
        ("move", [CROSSFIT, CKA()], 6, {}),
        ("move", [KL()], 4, {}),
        ("move", [MutualKNN()], 4, {}),
        ("move", [CKA()], 5, {"control": {"skip_first": 1, "drop_top_norm": 1}}),
        ("move", [CKA()], 8, {"mask": torch.arange(6) < torch.tensor([6, 5, 4, 5, 6, 4, 5, 6])[:, None]}),
        ("move", [CKA()], 5, {"pool": "mean"}),
        ("collapse", [KL()], 4, {}),
    ],
)
def test_what_has_error_bars_is_accepted(
    alert: str, measures: Sequence[Measure], sequences: int, options: dict[str, Any], tmp_path: Path
) -> None:
    state = torch.get_rng_state()
    prepared(tmp_path, alert, measures, sequences, **options)
    assert torch.equal(state, torch.get_rng_state())


class Net(nn.Module):
    def __init__(self, seed: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed = nn.Embedding(20, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.embed(tokens)


@pytest.mark.parametrize("sequences", [4, 5, 15, 16])
@pytest.mark.parametrize("measure", [CKA(), CROSSFIT, Procrustes()], ids=lambda measure: measure.label)
def test_what_is_refused_is_what_has_no_error_in_a_training(measure: Measure, sequences: int, tmp_path: Path) -> None:
    """The oracle is a training without alerts: its table has errors, or it has none."""
    tokens = torch.randint(20, (sequences, 6), generator=torch.Generator().manual_seed(0))
    Tracker({"other": Net(1, 3)}, measure, tokens, tmp_path, sites="embed").follow(Net(0, 3), 0)
    (row,) = read_curves(tmp_path).to_pylist()
    try:
        Tracker({"other": Net(1, 3)}, measure, tokens, tmp_path, sites="embed", alerts="move")
    except ValueError:
        assert math.isnan(row["stderr"])
    else:
        assert math.isfinite(row["stderr"])


def test_what_only_the_model_decides_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Only the model knows how many positions its sites have: none here, so that too few samples are left."""
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    other = nn.Sequential(nn.Linear(4, 3))
    tracker = Tracker({"other": other}, MutualKNN(), vectors, tmp_path, sites="0", every=1, alerts="move")
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            tracker.follow(nn.Sequential(nn.Linear(4, 3)), step)
    warnings = [message for message in caplog.messages if "move cannot be raised" in message]
    assert len(warnings) == 1 and warnings[0].startswith("step 1: ") and "no standard error" in warnings[0]


def test_a_training_that_ends_in_its_dense_start_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for last, warned in ((20, True), (21, False)):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            tokens = torch.zeros(8, 4, dtype=torch.long)
            tracker = Tracker("init", CKA(), tokens, tmp_path, sites="embed", every=20, alerts=["move", "collapse"])
            tracker.follow(Net(0, 3), 0, last)
        text = "alerts: move, collapse: no tick comes after step 20, the first that they compare; lower every"
        assert (text in caplog.messages) == warned
