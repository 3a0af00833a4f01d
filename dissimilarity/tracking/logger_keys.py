"""Keys of the curves in a trainer's loggers, which show the numbers of the table.

| key | value |
| --- | --- |
| ``dissimilarity/<reference>/<measure>/<site>`` | dissimilarity; ``<site>~<the reference's site>`` if they differ |
| ``dissimilarity/<reference>/reference_step`` | step of ``previous`` |
| ``stderr/<reference>/<measure>/<site>`` | standard error of the value, over the text of the probe set |
| ``calibrated/<reference>/<measure>/<site>`` | 1 for identical models, 0 for the null; at the steps of heat maps |
| ``intrinsic/<measure>/<site>`` | a measure of the model alone, at the steps of heat maps |
| ``dissimilarity/seconds`` | seconds that the tick took |
| ``dissimilarity/share`` | share of the training time so far that tracking took |

W&B and TensorBoard get them as ``dissimilarity <reference> <measure>/<site>``: one section per reference and measure
(``sectioned``), the heat maps of each reference as images by step (``heatmaps/<reference>``), and one chart per
reference and measure with all of its sites as lines (``layers/<reference> <measure>``).

If several trackers of one kind share a trainer, the name of its folder is part of the keys of each:
``dissimilarity/<folder>/<reference>/<measure>/<site>``.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = ("dissimilarity/", "stderr/", "calibrated/", "intrinsic/", "groups/", "penalty/")
"""Beginnings of the keys of trackers."""

HEATMAPS = "heatmaps"
"""First part of the keys of images."""

LAYERS = "layers"
"""First part of the keys of charts with all sites as lines."""

STEP_AXIS = "trainer/global_step"
"""Key of the x axis of all of them."""


def by_key(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the dissimilarities of records by key, without those that could not be computed.

    Examples:
        >>> record = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed"}
        >>> by_key([{**record, "dissimilarity": 0.25}])
        {'dissimilarity/init/cka/embed': 0.25}
    """
    values = {}
    for record in records:
        site = site_key(record["site_a"], record["site_b"])
        if not math.isnan(record["dissimilarity"]):
            values[f"dissimilarity/{record['reference']}/{record['measure']}/{site}"] = record["dissimilarity"]
        if record.get("reference_step", -1) > 0:
            values[f"dissimilarity/{record['reference']}/reference_step"] = float(record["reference_step"])
    return values


def beside(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the standard errors and the calibrated values of records by key, without those that have none.

    Examples:
        >>> record = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed"}
        >>> beside([{**record, "stderr": 0.01, "calibrated": math.nan}])
        {'stderr/init/cka/embed': 0.01}
    """
    return {
        f"{column}/{record['reference']}/{record['measure']}/{site_key(record['site_a'], record['site_b'])}": number
        for record in records
        for column in ("stderr", "calibrated")
        if math.isfinite(number := record.get(column, math.nan))
    }


def of_model(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the measures of the model alone by key, without those that could not be computed.

    Examples:
        >>> of_model([{"of": "model", "measure": "rankme", "site": "embed", "value": 7.5}])
        {'intrinsic/rankme/embed': 7.5}
    """
    return {
        f"intrinsic/{record['measure']}/{record['site']}": record["value"]
        for record in records
        if record["of"] == "model" and not math.isnan(record["value"])
    }


def site_key(site_a: str, site_b: str) -> str:
    """Return the name of a pair of sites in keys.

    Examples:
        >>> site_key("embed", "embed"), site_key("blocks.0.resid_post", "blocks.1.resid_post")
        ('embed', 'blocks.0.resid_post~blocks.1.resid_post')
    """
    return site_a if site_a == site_b else f"{site_a}~{site_b}"


def sectioned(key: str) -> str:
    """Return a key as workspaces show it that begin a section at the first slash: one per reference and measure.

    Examples:
        >>> sectioned("dissimilarity/init/cka/embed"), sectioned("dissimilarity/seconds")
        ('dissimilarity init cka/embed', 'dissimilarity/seconds')
    """
    section, _, name = key.rpartition("/")
    return f"{section.replace('/', ' ')}/{name}" if section else name


def names_of(folders: Sequence[Path]) -> list[str]:
    """Return a name for each tracker of a trainer: the end of the path of its folder; nothing if there is only one.

    Examples:
        >>> names_of([Path("tracked/train"), Path("tracked/val")]), names_of([Path("a/x"), Path("b/x")])
        (['train', 'val'], ['a/x', 'b/x'])
        >>> names_of([Path("tracked")])
        ['']
    """
    if len(folders) == 1:
        return [""]
    parts = [folder.parts for folder in folders]
    length = 1
    while len({part[-length:] for part in parts}) < len(set(parts)):
        length += 1
    return ["/".join(part[-length:]) for part in parts]


def named(key: str, name: str) -> str:
    """Return the key of one of several trackers.

    Examples:
        >>> named("dissimilarity/seconds", "val"), named("dissimilarity/seconds", "")
        ('dissimilarity/val/seconds', 'dissimilarity/seconds')
    """
    kind, *rest = key.split("/", 1)
    return "/".join([kind, *([name] if name else []), *rest])
