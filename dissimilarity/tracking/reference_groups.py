"""Groups of references that behave alike: which of them does a model drift to while it trains?

| key | value |
| --- | --- |
| ``groups/<group>/<measure>/<site>`` | mean dissimilarity to the references of a group |
| ``groups/<a>-<b>/<measure>/<site>`` | the mean to group a minus the mean to group b: below 0 = nearer to a |

The table ``groups.parquet`` has the same numbers with their standard errors (``dissimilarity.inference.drift``).
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from dissimilarity.inference.drift import FILE, drift, group_records, read_groups, write_groups
from dissimilarity.probe.arguments import mapping, shown


def labels_by_group(
    groups: Mapping[str, Sequence[str]], references: Mapping[str, str | nn.Module]
) -> dict[str, list[str]]:
    """Return the labels of the references in each group.

    Args:
        groups: name -> URIs or labels.
        references: label -> URI or module, for all references.

    Raises:
        ValueError: a name has other characters than letters, digits and _; a group is empty; a member is not a
            reference, or is in two groups.

    Examples:
        >>> labels_by_group({"good": ["runs/a", "b"]}, {"a": "runs/a", "b": "runs/b", "init": "init"})
        {'good': ['a', 'b']}
    """
    labels = {source: label for label, source in references.items() if isinstance(source, str)}
    mapping("reference_groups", groups, "{'good': ['runs/a', 'runs/b']}")
    members_by_group: dict[str, list[str]] = {}
    for name, members in groups.items():
        is_list = isinstance(members, Sequence) and not isinstance(members, str)
        if not is_list or not all(isinstance(member, str) for member in members):
            raise ValueError(f"reference_groups.{name}: expected a list of references, found {shown(members)}")
        if not isinstance(name, str) or not re.fullmatch(r"\w+", name):
            raise ValueError(
                f"reference_groups: {name!r}: expected a name of letters, digits and _, because keys contain it"
            )
        members_by_group[name] = list(dict.fromkeys(labels.get(member, member) for member in members))
        unknown = [label for label in members_by_group[name] if label not in references]
        if unknown or not members:
            raise ValueError(
                f"reference_groups.{name}: expected some of the references {', '.join(references)}, found "
                f"{', '.join(unknown) or 'none'}; list those under references too"
            )
        for label in members_by_group[name]:
            for other in members_by_group:
                if other != name and label in members_by_group[other]:
                    raise ValueError(f"reference_groups: {label} is in {other} and in {name}; leave it in one")
    return members_by_group


def by_key(records: Iterable[Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return the means of a tick by key, from its records at equal depth, without means that have no value."""
    return {
        f"groups/{record['group']}/{record['measure']}/{record['site']}": record["dissimilarity"]
        for record in group_records(records, groups)
        if math.isfinite(record["dissimilarity"])
    }


def fold(folder: Path, groups: Mapping[str, Sequence[str]]) -> None:
    """Bring the table of groups up to date with the curves; without groups, write none."""
    if groups:
        write_groups(folder, groups)


def drift_of(folder: Path, groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the group that the model ended up nearest to, by measure, from the table; empty without one."""
    return drift(read_groups(folder)) if groups and (folder / FILE).exists() else {}
