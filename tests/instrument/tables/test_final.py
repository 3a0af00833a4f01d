"""Where curves end: the last row of each at sites of equal depth, and the way there."""

import math

import pyarrow as pa

from dissimilarity.tables.curves import SCHEMA
from dissimilarity.tables.final import BLOCKS, POINTS, blocks, final_values
from tests.instrument.tables.test_curves import row


def test_each_curve_ends_with_its_last_row() -> None:
    steps = range(0, 400, 10)
    rows = [row(step, a, b) for step in reversed(steps) for a in (0, 1) for b in (0, 1)]
    rows += [row(step, 0, 0, reference="base", value=math.nan, dissimilarity=math.nan) for step in (0, 7)]
    finals = final_values(pa.Table.from_pylist(rows, schema=SCHEMA))
    assert [(end["reference"], end["site_a"][7], end["site_b"][7], end["step"]) for end in finals] == [
        ("init", "0", "0", 390),
        ("init", "1", "1", 390),
        ("base", "0", "0", 7),
    ]
    assert all(finals[0][key] == row(390)[key] for key in ("value", "stderr", "n_units", "null", "calibrated"))
    assert len(finals[0]["curve"]) == POINTS and finals[0]["curve"][-1] == 390 / 7 and finals[0]["curve"][0] == 0
    assert finals[0]["curve"] == sorted(finals[0]["curve"]) and len(finals[2]["curve"]) == 2


def test_blocks_rise_with_the_curve_and_leave_out_what_is_missing() -> None:
    assert blocks([index / 7 for index in range(8)]) == BLOCKS
    assert blocks([0.0, 0.0]) == "▁▁" and blocks([]) == "" and blocks([math.nan, None, 2.0]) == "  █"
    assert blocks([-1.0, 1.0]) == "▁█"
