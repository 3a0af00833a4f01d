"""The curves in the trainer's loggers: a view of the table, which is the truth.

| key | value |
| --- | --- |
| ``dissimilarity/<reference>/<measure>/<site>`` | dissimilarity at a matched pair; ``<site>~<its partner>`` if unlike |
| ``dissimilarity/seconds`` | seconds that this tick took |
| ``dissimilarity/share`` | share of the time so far that tracking took |
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

STEP_AXIS = "trainer/global_step"


def by_key(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Dissimilarities by the loggers' keys; what could not be computed is left out."""
    found = {}
    for row in rows:
        site = row["site_a"] if row["site_a"] == row["site_b"] else f"{row['site_a']}~{row['site_b']}"
        if not math.isnan(row["dissimilarity"]):
            found[f"dissimilarity/{row['reference']}/{row['measure']}/{site}"] = row["dissimilarity"]
    return found


def define_axes(trainer: pl.Trainer, keys: Iterable[str]) -> None:
    """Gives each key its x axis by its exact name: of several globs that match, W&B takes any."""
    for logger in trainer.loggers:
        with suppress(Exception):  # a logger that is broken must not end the training, and says so when it logs
            for key in sorted(keys):
                logger.experiment.define_metric(key, step_metric=STEP_AXIS)  # pyright: ignore[reportAttributeAccessIssue]


def log_pictures(trainer: pl.Trainer, pictures: Sequence[Path]) -> None:
    """Sends finished figures (PNG) to the loggers that take images."""
    for logger in trainer.loggers:
        log_image = getattr(logger, "log_image", None)
        if log_image is not None:
            for picture in pictures:
                if picture.suffix == ".png":
                    log_image(key=f"figures/{picture.stem}", images=[str(picture)])


def log_curves(trainer: pl.Trainer, rows: Sequence[Mapping[str, Any]]) -> None:
    """Sends the whole curves table, heat maps included, to the loggers that take tables."""
    for logger in trainer.loggers:
        log_table = getattr(logger, "log_table", None)
        if log_table is not None and rows:
            log_table(key="curves", columns=list(rows[0]), data=[list(row.values()) for row in rows])
