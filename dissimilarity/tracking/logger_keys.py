"""Keys of the curves in a trainer's loggers, which show the numbers of the table.

| key | value |
| --- | --- |
| ``dissimilarity/<reference>/<measure>/<site>`` | dissimilarity; ``<site>~<the reference's site>`` if they differ |
| ``dissimilarity/seconds`` | seconds that the tick took |
| ``dissimilarity/share`` | share of the training time so far that tracking took |
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

STEP_AXIS = "trainer/global_step"
"""Key of the x axis of all of them."""


def by_key(records: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the dissimilarities of records by key, without those that could not be computed.

    Example:
        >>> record = {"reference": "init", "measure": "cka", "site_a": "embed", "site_b": "embed"}
        >>> by_key([{**record, "dissimilarity": 0.25}])
        {'dissimilarity/init/cka/embed': 0.25}
    """
    values = {}
    for record in records:
        site = record["site_a"]
        if record["site_b"] != site:
            site = f"{site}~{record['site_b']}"
        if not math.isnan(record["dissimilarity"]):
            values[f"dissimilarity/{record['reference']}/{record['measure']}/{site}"] = record["dissimilarity"]
    return values
