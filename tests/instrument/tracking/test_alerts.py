"""Rules raise an alert for what is planted, within two ticks, and none in quiet trainings."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn

from dissimilarity import CKA
from dissimilarity.lightning import DissimilarityTracker
from dissimilarity.tracking.alerts import AlertRules, Collapse, Move, Tick, rules_of
from dissimilarity.tracking.tracker import Tracker

PROBE = torch.randint(40, (24, 4), generator=torch.Generator().manual_seed(1))
GROUPS = {"near": ["near"], "far": ["far"]}


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.head = nn.Embedding(40, 6), nn.Linear(6, 6)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embed(tokens))


def jitter(model: nn.Module, size: float = 0.01) -> None:
    with torch.no_grad():
        for weights in model.parameters():
            weights += size * torch.randn_like(weights)


def tracker(folder: Path, model: nn.Module, *alerts: Any) -> Tracker:
    """Return a tracker with a reference near the model and one far from it, in groups."""
    near = Net()
    near.load_state_dict(model.state_dict())
    jitter(near, 0.1)
    references = {"init": "init", "near": near, "far": Net(99)}
    options: dict[str, Any] = {"sites": ["embed", "head"], "every": 1, "heatmap_every": 100}
    return Tracker(references, CKA(), PROBE, folder, reference_groups=GROUPS, alerts=alerts, **options)


def raised(tracked: Tracker, model: nn.Module, ticks: int, change: Callable[[int], None]) -> list[tuple[int, str, str]]:
    """Tick after each change, and return step, rule and site of all alerts."""
    alerts = []
    for step in range(ticks):
        change(step)
        tracked.follow(model, step)
        alerts += [(alert.step, alert.rule, alert.site) for alert in tracked.alerts]
    return alerts


def test_quiet_trainings_raise_none(tmp_path: Path) -> None:
    for seed in range(3):
        model = Net(seed)
        quiet = tracker(tmp_path / str(seed), model, "nearest", "move", "collapse")
        assert raised(quiet, model, 5, lambda step, model=model: jitter(model)) == []


def test_a_collapse_is_reported_at_once_and_ends_the_training(tmp_path: Path) -> None:
    model = Net()
    tracked = tracker(tmp_path, model, {"rule": "collapse", "stop": True})

    def change(step: int) -> None:
        jitter(model)
        if step >= 4:  # the outputs lose all directions but one, the inputs none
            with torch.no_grad():
                model.head.weight[1:] *= 0.01

    assert raised(tracked, model, 4, change) == [] and not tracked.why_to_stop
    change(4)
    tracked.follow(model, 4)
    (alert,) = tracked.alerts
    assert (alert.step, alert.rule, alert.site, alert.measure) == (4, "collapse", "head", "rankme")
    assert alert.value < 1.5 < 4 < alert.before and alert.p < 1e-6
    assert tracked.why_to_stop.startswith("alert at step 4: the effective rank of head fell to 1.")
    tracked.follow(model, 5)
    assert not tracked.alerts and not tracked.why_to_stop  # it is known
    row = json.loads((tmp_path / "alerts.jsonl").read_text())
    assert (row["step"], row["rule"], row["site"], row["stops"]) == (4, "collapse", "head", True)


def test_a_layer_without_any_variance_has_collapsed(tmp_path: Path) -> None:
    model = Net()

    def change(step: int) -> None:
        if step == 3:
            model.head.weight.data.zero_()

    assert raised(tracker(tmp_path, model, "collapse"), model, 5, change) == [(3, "collapse", "head")]


def test_a_move_is_reported_where_it_is(tmp_path: Path) -> None:
    model = Net()

    def change(step: int) -> None:
        jitter(model, 0.6 if step == 4 else 0.01)

    alerts = raised(tracker(tmp_path, model, "move"), model, 6, change)
    assert {alert[:2] for alert in alerts} == {(4, "move")} and (4, "move", "embed") in alerts


def test_another_nearest_group_is_reported_once(tmp_path: Path) -> None:
    model, far = Net(), Net(99)

    def change(step: int) -> None:
        jitter(model)
        if step >= 3:
            model.load_state_dict(far.state_dict())

    assert raised(tracker(tmp_path, model, "nearest"), model, 6, change) == [(3, "nearest", "head")]


def records(step: int, units: Tensor) -> list[dict[str, Any]]:
    """Return a record per curve whose value is the mean over its units."""
    names = {"step": step, "reference": "init", "reference_step": 0, "measure": "mean", "probe": 1}
    return [
        {**names, "site_a": str(site), "site_b": str(site), "value": values.mean().item()}
        | {"dissimilarity": values.mean().item(), "influence": ((values - values.mean()) / len(values)).tolist()}
        for site, values in enumerate(units)
    ]


def test_a_training_without_any_move_raises_an_alert_as_rarely_as_its_level_says() -> None:
    generator, runs, false_alarms = torch.Generator().manual_seed(0), 150, 0
    for _ in range(runs):
        rule = Move(level=0.3, by=0.0)
        false_alarms += any(
            [rule.raised(Tick(step, records(step, torch.randn(3, 16, generator=generator)))) for step in range(1, 9)]
        )
    assert 3 < false_alarms < 0.3 * runs


def test_alerts_continue_from_a_checkpoint() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (AlertRules(["move"], {}, every=1) for _ in range(2))
    quiet, moved = torch.randn(2, 32, generator=generator) / 100, torch.ones(2, 32)
    assert first.raised(1, records(1, quiet), []) == []
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    raised = second.raised(2, records(2, quiet + moved), [])
    assert [alert.site for alert in raised] == ["0", "1"]
    assert all(alert.text.startswith("dissimilarity to ") for alert in raised), (
        "of a similarity it would be the reverse"
    )


@pytest.mark.parametrize(
    ("alert", "message"),
    [
        ("sudden", "expected one of the rules nearest, move, collapse, found 'sudden'"),
        ({"rule": "move", "above": 1}, "move: unknown key above; expected some of level, stop, by"),
        ({"rule": "collapse", "below": 2}, "collapse: expected below above 0 and below 1, found 2"),
        ({"rule": "collapse", "stop": "yes"}, "collapse: expected stop to be true or false, found 'yes'"),
        ("nearest", "nearest needs two groups of references or more"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(alert: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rules_of([alert], {})


class Module(Net, pl.LightningModule):
    """The network in Lightning, whose outputs collapse."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        if self.global_step == 3:
            self.head.weight.data[1:] *= 0.01
        return self(PROBE).square().mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


class Messenger(Logger):
    """A logger that passes alerts on, as that of W&B does."""

    name = version = "messenger"  # pyright: ignore[reportAssignmentType]

    def __init__(self) -> None:
        super().__init__()
        self.experiment, self.texts = self, []

    def alert(self, title: str, text: str) -> None:
        self.texts.append(f"{title}: {text}")

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        pass

    def log_hyperparams(self, params: Any) -> None:
        pass


def test_a_rank_without_an_error_bar_has_not_collapsed() -> None:
    rule = Collapse()
    for step, rank in ((50, 10.0), (100, 4.9), (150, 2.0)):
        record = {"site": "s", "measure": "rankme", "value": rank, "stderr": math.nan, "note": ""}
        assert not rule.raised(Tick(step, [], [record], {}, 50))


GROUPS_OF_TWO = {"start": ["init"], "other": ["a"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alerts": "shrink"}, "alerts: expected one of the rules nearest, move, collapse, found 'shrink'"),
        ({"alerts": ["collapse"], "references": []}, "without references that is nothing"),
        ({"alerts": ["collapse"], "measures": []}, "without measures that is nothing"),
        ({"alerts": ["move"], "references": ["previous"]}, "move needs a reference that stays"),
        ({"alerts": ["move"], "n_units": 1}, "move needs error bars, which n_units=1 turns off"),
        ({"alerts": ["collapse"], "n_units": 1}, "collapse needs error bars, which n_units=1 turns off"),
        (
            {"alerts": ["nearest"], "references": ["init", "a"], "reference_groups": GROUPS_OF_TWO, "n_units": 1},
            "nearest needs error bars",
        ),
        ({"alerts": [{"rule": "move", "level": 0}]}, "move: expected level above 0 and below 1, found 0"),
        ({"references": ["init", "init"]}, "references: init is there twice; leave one out"),
    ],
)
def test_alerts_that_could_never_be_raised_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"references": ["init"], "measures": [CKA()], "folder": tmp_path}
    with pytest.raises(ValueError, match=message):
        Tracker(**{**arguments, **options, "probe": torch.randn(8, 4), "sites": "*"})


def test_a_lightning_training_ends_and_says_why(tmp_path: Path) -> None:
    logger = Messenger()
    alerts = [{"rule": "collapse", "stop": True}]
    tracked = DissimilarityTracker("init", CKA(), PROBE, tmp_path, sites="head", every=1, alerts=alerts)
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(max_steps=9, accelerator="cpu", logger=[logger], callbacks=[tracked], **quiet)
    trainer.fit(Module(), torch.utils.data.DataLoader(range(9)))  # pyright: ignore[reportArgumentType]
    assert trainer.global_step == 4 and len(logger.texts) == 1
    assert logger.texts[0].startswith("collapse: step 4: the effective rank of head fell to 1.")


@pytest.mark.usefixtures("unchecked")
def test_a_rule_begins_anew_with_each_tracker_and_takes_numbers_of_numpy(tmp_path: Path) -> None:
    """What it remembers is of one training; its alerts are written as JSON."""
    rule = Collapse(below=0.9)
    model = Net()
    first = tracker(tmp_path / "first", model, rule)
    raised(first, model, 3, lambda step: None)
    small = Net(1)
    with torch.no_grad():
        small.embed.weight[:, 2:] = 0
    second = tracker(tmp_path / "second", small, rule)
    assert raised(second, small, 3, lambda step: None) == []

    numbers = {"rule": "collapse", "stop": np.True_, "level": np.float64(0.05)}
    third = tracker(tmp_path / "third", model, numbers)
    assert raised(third, model, 4, lambda step: jitter(model)) == []
    with torch.no_grad():
        model.head.weight[1:] *= 0.001
    third.follow(model, np.int64(4), last_step=np.int64(4))  # pyright: ignore[reportArgumentType]
    lines = [json.loads(line) for line in (tmp_path / "third" / "alerts.jsonl").read_text().splitlines()]
    assert {line["rule"] for line in lines} == {"collapse"} and all(line["stops"] is True for line in lines)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("arguments", [(None, 0), (Net(), True), (Net(), -1), (Net(), 0.5), (Net(), 0, "9")])
def test_a_step_that_is_none_is_refused(arguments: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected"):
        tracker(tmp_path, Net()).follow(*arguments)


def test_rules_keep_what_they_remember_wherever_they_stand() -> None:
    """A rule that is new or has other options starts afresh."""
    before = AlertRules(["collapse", "move", {"rule": "move", "by": 0.2}], {}, 1)
    for number, rule in enumerate(before.rules):
        rule.state = {"ticks": number, "last": {"a": number}}
    states = json.loads(json.dumps(before.state_dict()))
    after = AlertRules([{"rule": "move", "by": 0.3}, {"rule": "move", "by": 0.2}, "move", "collapse"], {}, 1)
    after.load_state_dict(states)
    assert [rule.state.get("ticks") for rule in after.rules] == [None, 2, 1, 0]
    after.rules[1].state["last"]["a"] = 9
    assert states == before.state_dict()
