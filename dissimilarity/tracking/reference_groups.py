"""Groups of references whose behavior is known: to which of them a model drifts while it trains.

| key | value |
| --- | --- |
| ``groups/<group>/<measure>/<site>`` | mean dissimilarity to the references of a group |
| ``groups/<a>-<b>/<measure>/<site>`` | of two groups, that to a minus that to b: below 0 = nearer to a |

The table ``groups.parquet`` has the same numbers with their standard errors (``dissimilarity.tables.drift``).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dissimilarity.tables.drift import FILE, drift, group_records, read_groups, write_groups


def labels_by_group(
    groups: Mapping[str, Sequence[str]], references: Mapping[str, str | nn.Module]
) -> dict[str, list[str]]:
    """The labels of the references of each group.

    Args:
        groups: name -> URIs or labels.
        references: label -> URI or module, all that there are.

    Raises:
        ValueError: a name that is no word, an empty group, a reference that there is not or that is in two groups.
    """
    labels = {source: label for label, source in references.items() if isinstance(source, str)}
    found: dict[str, list[str]] = {}
    for name, members in groups.items():
        if not re.fullmatch(r"\w+", name):
            raise ValueError(f"groups: {name!r}: expected a name of letters, digits and _, for it is part of keys")
        found[name] = list(dict.fromkeys(labels.get(member, member) for member in members))
        strangers = [label for label in found[name] if label not in references]
        if strangers or not members:
            raise ValueError(
                f"groups.{name}: expected some of the references {', '.join(references)}, found "
                f"{', '.join(strangers) or 'none'}; list those under references too"
            )
        twice = {label: other for other in found if other != name for label in found[name] if label in found[other]}
        for label, other in twice.items():
            raise ValueError(f"groups: {label} is in {other} and in {name}; leave it in one of them")
    return found


def by_key(rows: Iterable[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """The means of a tick by the loggers' keys, from its rows at matched pairs; what has no value is left out."""
    return {
        f"groups/{row['group']}/{row['measure']}/{row['site']}": row["dissimilarity"]
        for row in group_records(rows, groups)
        if math.isfinite(row["dissimilarity"])
    }


def fold(folder: Path, groups: Mapping[str, Sequence[str]]) -> None:
    """Brings the table of groups to what the curves say; without groups there is none."""
    if groups:
        write_groups(folder, groups)


def drift_of(folder: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """To which group the model was nearest in the end, by measure, from the table; empty without one."""
    return drift(read_groups(folder)) if groups and (folder / FILE).exists() else {}
