"""What the study `compare` found, in words and tables that follow from the numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.markup import escape
from rich.table import Table

from dissimilarity.capture.sites import LOGITS, matched_pairs
from dissimilarity.figures.style import short_names, spread
from dissimilarity.measures.base.measure import Measure
from dissimilarity.tables.curves import distinct, select

CONFIDENCE = 1.96
PAIRS_SHOWN = 3
ONE_DIRECTION = 0.5
"""From this share of variance in one direction on the summary warns of it."""


def summary(
    tables: Mapping[tuple[str, str], pa.Table],
    measures: Sequence[Measure],
    provenance: Mapping[str, Any],
    aligned: Mapping[tuple[str, str], Mapping[str, Any]],
) -> str:
    """The findings in Markdown: of each pair of models and each measure the matched layers and the extremes.

    `aligned` says, of pairs of models that read other tokens, where they were compared.
    """
    lines = ["# How similar the models are, layer by layer", "", *_models(provenance), ""]
    lines += [
        "Values are the literature's, with 95 % intervals (1.96 jackknife standard errors over groups of sequences).",
        "The null is the value with the sequences of one side shifted so that none meets itself; calibrated is",
        "(value - null) / (identical - null): 1 = identical, 0 = as far as the null.",
    ]
    for (a, b), table in tables.items():
        lines += ["", f"## {a} and {b}", "", *_first_components(table, a, b)]
        if (a, b) in aligned:
            lines += ["", f"They read other tokens, and are compared at {alignment_said(a, b, aligned[a, b])}."]
        for measure in measures:
            rows = select(table, measure=measure.label).to_pylist()
            if rows:
                lines += ["", f"### {measure.label} ({_direction(measure)})", "", *_measure(rows)]
    return "\n".join(lines) + "\n"


def alignment_said(a: str, b: str, found: Mapping[str, Any]) -> str:
    """Where two models that read other tokens were compared, in words."""
    ends = "ends of words" if found["unit"] == "word" else "common boundaries of their tokens"
    return (
        f"{found['units']} {ends} in each of {found['sequences']} sequences: {found['share_a']:.0%} of the tokens of "
        f"{a}, {found['share_b']:.0%} of those of {b}"
    )


def terminal_tables(
    tables: Mapping[tuple[str, str], pa.Table],
    measures: Sequence[Measure],
    aligned: Mapping[tuple[str, str], Mapping[str, Any]],
) -> list[Table]:
    """What the terminal shows: a table a pair of models, or of many pairs one of their mean calibrated values."""
    if len(tables) <= PAIRS_SHOWN:
        shown = [terminal_table(table, measures, *names) for names, table in tables.items()]
        for each, names in zip(shown, tables, strict=True):
            each.caption = escape(f"at {alignment_said(*names, aligned[names])}") if names in aligned else None
        return shown
    shown = Table(title="mean calibrated value at equal depth (1 = identical, 0 = null)", title_justify="left")
    for column in ("measure", "model", "and"):
        shown.add_column(column)
    shown.add_column("calibrated", justify="right")
    for measure in measures:
        for (a, b), table in tables.items():
            rows = _at_equal_depth(select(table, measure=measure.label).to_pylist())
            mean = _number(_mean([row["calibrated"] for row in rows]), 2)
            shown.add_row(measure.label, escape(a), escape(b), mean)
        shown.add_section()
    return [shown]


def terminal_table(table: pa.Table, measures: Sequence[Measure], a: str, b: str) -> Table:
    """A line a measure: its values at matched layers, and the mean of their nulls and calibrated values."""
    sites_a, sites_b = (
        [site for site in distinct(table, column) if site != LOGITS] or [LOGITS] for column in ("site_a", "site_b")
    )
    (kind, names_a), (_, names_b) = short_names(sites_a), short_names(sites_b)
    matched = spread(_matched(sites_a, sites_b), 3 if max(map(len, names_a + names_b)) < 4 else 2)
    shown = Table(title=f"{escape(a)} and {escape(b)}: {kind}", title_justify="left")
    shown.add_column("measure", no_wrap=True)
    shown.add_column("same", justify="right")
    for site_a, site_b in matched:
        names = names_a[sites_a.index(site_a)], names_b[sites_b.index(site_b)]
        alike = site_a == site_b and not names[0].isdecimal()
        shown.add_column(names[0] if alike else " ~ ".join(names), justify="right")
    shown.add_column("null", justify="right")
    shown.add_column("calibr.", justify="right", no_wrap=True)
    for measure in measures:
        found = {(row["site_a"], row["site_b"]): row for row in select(table, measure=measure.label).to_pylist()}
        rows = [found[pair] for pair in (*matched, (LOGITS, LOGITS)) if pair in found]
        cells = [_interval(found[pair]) if pair in found else "" for pair in matched]
        if (LOGITS, LOGITS) in found and not any(cells):
            cells = [f"{_interval(found[LOGITS, LOGITS])} (outputs)", *cells[1:]] if cells else cells
        means = [_mean([row[column] for row in rows]) for column in ("null", "calibrated")]
        shown.add_row(measure.label, f"{measure.identical:g}", *cells, *(_number(mean, 2) for mean in means))
    return shown


def _models(provenance: Mapping[str, Any]) -> list[str]:
    """The models, and what they were run on."""
    lines = ["| model | from | step | sha256 |", "| --- | --- | --- | --- |"]
    for label, notes in provenance["models"].items():
        digest = notes["sha256"] if isinstance(notes["sha256"], str) else ", ".join(map(str, notes["sha256"].values()))
        step = notes.get("step")
        lines.append(f"| {label} | `{notes['uri']}` | {'' if step is None else step} | `{digest[:12]}` |")
    probe = provenance["probe"]
    if probe:
        lines += [
            "",
            f"Probe set: {probe['sequences']} sequences of {probe['length']} tokens of the {probe['split']} split of "
            f"`{probe['data']}`, sha256 `{probe['sha256'][:12]}`.",
        ]
    return lines


def _first_components(table: pa.Table, a: str, b: str) -> list[str]:
    """The share of variance in the first principal component of each site, and what to make of a large one."""
    lines, highest = [], 0.0
    for model, side in ((a, "a"), (b, "b")):
        pairs = zip(table[f"site_{side}"].to_pylist(), table[f"first_pc_{side}"].to_pylist(), strict=True)
        shares = {site: share for site, share in pairs if math.isfinite(share)}
        kind, names = short_names(list(shares)) if shares else ("", [])
        listed = ", ".join(f"{name}: {share:.2f}" for name, share in zip(names, shares.values(), strict=True))
        lines.append(f"Share of variance in the first principal component, {model} ({kind}): {listed or '-'}.")
        highest = max(highest, *shares.values(), 0.0)
    if highest > ONE_DIRECTION:
        lines.append(
            "Where that is high, CKA and Procrustes see one direction and little else, be it the work of a few tokens: "
            "compare with control.drop_top_norm=2, control.skip_first=1 or control.normalize=layer_norm."
        )
    return lines


def _measure(rows: list[dict[str, Any]]) -> list[str]:
    """One measure of one pair of models."""
    matched = _at_equal_depth(rows)
    lines = ["| site a | site b | value | null | calibrated |", "| --- | --- | --- | --- | --- |"]
    for row in matched:
        values = f"{_interval(row)} | {_number(row['null'])} | {_number(row['calibrated'])}"
        lines.append(f"| {row['site_a']} | {row['site_b']} | {values} |")
    known = [row for row in rows if math.isfinite(row["dissimilarity"])]
    if len(known) > 1:
        nearest, farthest = min(known, key=_far), max(known, key=_far)
        lines += ["", f"Most similar of {len(known)} pairs of sites: {_said(nearest)}; least: {_said(farthest)}."]
    if len(matched) > 1:
        means = [_number(_mean([row[column] for row in matched])) for column in ("value", "calibrated")]
        lines += ["", f"Mean over the layers of the table: {means[0]}, calibrated {means[1]}."]
    lines += [f"Not measured: {note}." for note in dict.fromkeys(row["note"] for row in rows) if note]
    return lines


def _at_equal_depth(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one measure at matched sites."""
    pairs = {(row["site_a"], row["site_b"]): row for row in rows}
    matched = _matched([a for a, _ in pairs], [b for _, b in pairs])
    return [pairs[pair] for pair in matched if pair in pairs]


def _matched(sites_a: Sequence[str], sites_b: Sequence[str]) -> list[tuple[str, str]]:
    """Sites at equal relative depth; in order of appearance where no kind of site is on both sides."""
    sites_a, sites_b = list(dict.fromkeys(sites_a)), list(dict.fromkeys(sites_b))
    try:
        return matched_pairs(sites_a, sites_b)
    except ValueError:
        return list(zip(sites_a, sites_b, strict=False))


def _direction(measure: Measure) -> str:
    return f"{measure.identical:g} = same, {'lower' if measure.higher_is_more_similar else 'higher'} = more different"


def _said(row: dict[str, Any]) -> str:
    return f"{row['site_a']} and {row['site_b']}, {_interval(row)} (calibrated {_number(row['calibrated'])})"


def _interval(row: dict[str, Any]) -> str:
    if not math.isfinite(row["value"]):
        return "-"
    error = "" if not math.isfinite(row["stderr"]) else f" ± {CONFIDENCE * row['stderr']:.3f}"
    return f"{row['value']:.3f}{error}"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def _far(row: dict[str, Any]) -> float:
    return row["dissimilarity"]
