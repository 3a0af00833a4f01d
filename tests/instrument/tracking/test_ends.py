"""The last step of a training has a row, whatever ends it and wherever it is."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from torch import Tensor, nn

from dissimilarity import CKA, Tracker
from dissimilarity.figures.options import PNG
from dissimilarity.lightning import StitchingTracker
from dissimilarity.tables.curves import INTRINSIC
from dissimilarity.tables.journal import Journal
from dissimilarity.tracking.schedule import previous_step
from dissimilarity.tracking.tables import Tables
from tests.instrument.tracking.test_references import Wrapped, curves_of
from tests.instrument.tracking.test_tracker import LENGTH, Layered, fit, loader_of, rows_of, tokens, tracker_for


class At(pl.Callback):
    """A callback that does something after some steps."""

    def __init__(self, step: int, action: Callable[[pl.Trainer], None]) -> None:
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            self.action(trainer)


def stop(trainer: pl.Trainer) -> None:
    trainer.should_stop = True


def interrupt(trainer: pl.Trainer) -> None:
    raise KeyboardInterrupt


class Constant(Layered):
    """A module whose metric never gets better."""

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.log("metric", 1.0)
        return super().training_step(batch, batch_idx)


class Stream(torch.utils.data.IterableDataset):
    """Data whose number is unknown."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(tokens(1, 28, LENGTH))


ENDS: dict[str, dict[str, Any]] = {
    "a callback": {"others": [At(7, stop)]},
    "Ctrl-C": {"others": [At(7, interrupt)]},
    "the end of a stream": {"loader": loader_of(Stream()), "steps": -1, "max_epochs": 1},
    "early stopping": {
        "others": [EarlyStopping("metric", patience=0)],
        "module": Constant(),
        "limit_train_batches": 5,
        "accumulate_grad_batches": 2,
    },
}
STEPS = {"early stopping": 6}


@pytest.mark.parametrize("end", ENDS)
def test_a_training_may_end_between_two_ticks(end: str, tmp_path: Path) -> None:
    """The row at its end has all pairs of sites."""
    choices = {"steps": 50, "module": Layered(), **ENDS[end]}
    tracker = tracker_for(tmp_path, measures=[CKA()], every=5, heatmap_every=5)
    try:
        fit(tracker, **choices)
    except SystemExit:
        assert end == "Ctrl-C"
    last = STEPS.get(end, 7)
    rows = rows_of(tmp_path)
    assert {row["step"] for row in rows} == {step for step in (0, 1, 2, 4, 5, last) if step <= last}
    assert len([row for row in rows if row["step"] == last and row["reference"] == "init"]) == 4


def test_the_row_at_the_end_changes_nothing_for_a_continued_training(tmp_path: Path) -> None:
    """It goes when the training continues; the other training is not interrupted."""
    module, tracker = Layered(), tracker_for(tmp_path / "cut", measures=[CKA()], every=5)
    trainer = fit(tracker, module, steps=-1, max_epochs=1, limit_train_batches=7)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader_of(tokens(1, 400, LENGTH)))
    fit(tracker_for(tmp_path / "whole", measures=[CKA()], every=5), Layered(), 14, limit_train_batches=7)
    cut, whole = curves_of(tmp_path / "cut"), curves_of(tmp_path / "whole")
    assert cut == pytest.approx(whole, abs=1e-6)


def test_an_interruption_within_a_tick_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker, measured = tracker_for(tmp_path, ["init"], measures=[CKA()]), []
    compared = tracker._compare

    def interrupted(*args: Any) -> Any:
        measured.append(args)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return compared(*args)

    monkeypatch.setattr(tracker, "_compare", interrupted)
    with pytest.raises(SystemExit):
        fit(tracker, Layered())
    assert [row["step"] for row in rows_of(tmp_path)] == [0] * 4 + [1, 1] + [2] * 4


class Adversarial(pl.LightningModule):
    """A module with two optimizers, each of which steps once per batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.layers, self.generator = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)]), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.generator(x)
        for layer in self.layers:
            x = layer(x)
        return x

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        for optimizer in self.optimizers():  # pyright: ignore[reportGeneralTypeIssues]
            loss = self(batch["real"]).square().mean() + self(batch["other"]).mean().square()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(part.parameters(), 0.1) for part in (self.layers, self.generator)]


def test_steps_of_two_optimizers_are_counted_together(tmp_path: Path) -> None:
    """Two steps per batch pass over odd steps of the schedule, and the number of batches is not that of steps."""
    numbers = torch.randn(56, 8, generator=torch.Generator().manual_seed(0))
    loader = {"real": loader_of(numbers, 8), "other": loader_of(numbers, 8)}
    tracker = tracker_for(tmp_path, ["init"], measures=[CKA()], probe=numbers, every=3, heatmap_every=9)
    trainer = fit(tracker, Adversarial(), -1, loader=loader, max_epochs=2)
    assert trainer.global_step == 28
    counts: dict[int, int] = {}
    for row in rows_of(tmp_path):
        counts[row["step"]] = counts.get(row["step"], 0) + 1
    heatmaps = {0: 4, 10: 4, 18: 4, 28: 4}
    assert counts == {**dict.fromkeys((2, 4, 6, 12, 16, 22, 24), 2), **heatmaps}


@pytest.mark.parametrize("every", [3, 5, 25])
def test_previous_is_the_nearest_state_where_steps_pass_over_it(every: int, tmp_path: Path) -> None:
    numbers = torch.randn(56, 8, generator=torch.Generator().manual_seed(0))
    loader = {"real": loader_of(numbers, 8), "other": loader_of(numbers, 8)}
    tracker = tracker_for(tmp_path, ["previous"], measures=[CKA()], probe=numbers, every=every)
    fit(tracker, Adversarial(), -1, loader=loader, max_epochs=4)
    rows = [row for row in rows_of(tmp_path) if row["step"]]
    assert rows and not [row for row in rows if row["value"] != row["value"] or row["note"]]
    for row in rows:
        assert abs(row["reference_step"] - previous_step(row["step"], every)) <= 2 or row["step"] == 56


@pytest.mark.parametrize("is_first", [True, False])
def test_a_training_that_ends_at_a_tick_of_matched_pairs_has_all_pairs_there(is_first: bool, tmp_path: Path) -> None:
    """Once, with nulls and intrinsic measures; ``previous``, which is forgotten by then, stays as it was."""
    tracker = tracker_for(tmp_path, every=5, heatmap_every=50)
    fit(None, Layered(), 50, others=[tracker, At(10, stop)] if is_first else [At(10, stop), tracker])
    at_end = [row for row in rows_of(tmp_path) if row["step"] == 10]
    pairs = [(row["reference"], row["measure"], row["site_a"], row["site_b"]) for row in at_end]
    assert len(pairs) == len(set(pairs)) == 3 * (4 + 2)
    assert all(row["null"] == row["null"] for row in at_end if row["reference"] == "init")
    assert all(row["value"] == row["value"] for row in at_end)
    assert {row["step"] for row in Journal(tmp_path / INTRINSIC).read()} == {0, 10}


def test_a_training_that_goes_on_after_an_end_at_a_tick_has_that_tick_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)  # of whoever keeps them there
    module, tracker = Layered(), tracker_for(tmp_path / "cut", every=5, heatmap_every=50)
    trainer = fit(tracker, module, steps=-1, max_epochs=1, limit_train_batches=10)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader_of(tokens(1, 400, LENGTH)))
    fit(tracker_for(tmp_path / "whole", every=5, heatmap_every=50), Layered(), 20, limit_train_batches=10)
    cut, whole = (
        [(row["step"], row["reference"], row["measure"], row["site_a"], row["site_b"]) for row in rows_of(folder)]
        for folder in (tmp_path / "cut", tmp_path / "whole")
    )
    assert sorted(cut) == sorted(whole)
    assert {row["step"] for row in Journal(tmp_path / "cut" / INTRINSIC).read()} == {0, 20}


def test_ctrl_c_while_a_page_is_drawn_leaves_each_row_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = tracker_for(tmp_path, every=5, heatmap_every=5)
    drawn: list[int] = []

    def refresh(self: Tables) -> None:
        drawn.append(1)
        if len(drawn) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Tables, "refresh_page", refresh)
    with pytest.raises(SystemExit):
        fit(tracker, Layered(), 50)
    names = ("step", "reference", "measure", "site_a", "site_b")
    rows = [tuple(row[name] for name in names) for row in rows_of(tmp_path)]
    assert rows and len(rows) == len(set(rows))


def test_an_interrupt_while_rows_are_written_leaves_each_once(tmp_path: Path) -> None:
    tracker, net = Tracker(["init"], CKA(), tokens(0, 16, LENGTH), tmp_path, sites="layers.*", every=1), Layered()
    tracker.follow(net, 0)
    append, journal = tracker.tables.curves.append, tracker.tables._outboxes["curves"]

    def interrupted(records: Any) -> None:
        append(records)
        raise KeyboardInterrupt

    journal._append = interrupted
    with pytest.raises(KeyboardInterrupt):
        tracker.follow(net, 1)
    journal._append = append
    tracker.follow(net, 1)
    rows = [(row["step"], row["site_a"], row["site_b"]) for row in rows_of(tmp_path)]
    assert len(rows) == len(set(rows)) and {step for step, *_ in rows} == {0, 1}


def test_alerts_that_wait_outlive_a_second_tick(tmp_path: Path) -> None:
    tables, place = Tables(tmp_path, {}, PNG), {"reference": "init", "measure": "rankme", "site": "embed"}
    before, now = ({"step": step, "of": "model", "value": 9.5, **place} for step in (5, 10))
    alert = {"step": 10, "rule": "move", "text": "it moved", "value": 0.2, "before": 0.1, "p": 0.001, **place}
    tables.load_state_dict({"intrinsic": [before, now], "alerts": [alert]})
    tables.drop(10)
    assert tables.state_dict() == {"curves": [], "intrinsic": [before], "alerts": [alert]}


def test_stitches_at_the_end(tmp_path: Path) -> None:
    tracker = StitchingTracker(["init"], lambda n: tokens(0, n, LENGTH), tmp_path, every=5)
    fit(tracker, Wrapped(), steps=50, others=[At(7, stop)])
    assert {row["step"] for row in Journal(tmp_path / "penalties.jsonl").read()} == {5, 7}


@pytest.mark.parametrize("again", ["stops", "Ctrl-C"])
def test_a_continued_training_that_ends_at_once_keeps_its_last_row(again: str, tmp_path: Path) -> None:
    class Begin(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            trainer.should_stop = again == "stops"

        def on_train_batch_start(self, *args: Any) -> None:
            if again == "Ctrl-C":
                raise KeyboardInterrupt

    def trackers() -> list[pl.Callback]:
        stitches = StitchingTracker(["init"], lambda n: tokens(0, n, LENGTH), tmp_path, every=5)
        tracker = tracker_for(tmp_path, ["init"], measures=[CKA()], sites="net.layers.*", every=5)
        return [stitches, tracker]

    saving = ModelCheckpoint(tmp_path / "saved", save_on_exception=True)
    with contextlib.suppress(SystemExit):
        fit(None, Wrapped(), 50, others=[*trackers(), At(7, interrupt), saving])
    (last,) = (tmp_path / "saved").glob("*.ckpt")
    rows = curves_of(tmp_path)
    assert max(step for _, step, _ in rows) == 7
    with contextlib.suppress(SystemExit):
        fit(None, Wrapped(), 50, others=[Begin(), *trackers()], ckpt_path=last)
    assert curves_of(tmp_path) == rows
    assert {row["step"] for row in Journal(tmp_path / "penalties.jsonl").read()} == {5, 7}
