"""The summary and the terminal tables of the study `compare`, written from its numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
from rich.markup import escape

from dissimilarity.capture.sites import LOGITS
from dissimilarity.cli.fitted_table import FittedTable, inner_first
from dissimilarity.figures.style import short_names, spread
from dissimilarity.inference.coverage import PROBE_TEXT, SAMPLES
from dissimilarity.inference.jackknife import half_width
from dissimilarity.measures.base.measure import Measure
from dissimilarity.tables.curves import distinct, select
from dissimilarity.tables.equal_depth import at_equal_depth
from studies.common.format import table_head, table_row
from studies.common.resampling import finite_mean

PAIRS_SHOWN = 3
ONE_DIRECTION = 0.5
"""The summary warns if the first principal component has a larger share of the variance."""


def summary(
    tables: Mapping[tuple[str, str], pa.Table],
    measures: Sequence[Measure],
    provenance: Mapping[str, Any],
    aligned: Mapping[tuple[str, str], Mapping[str, Any]],
) -> str:
    """Return the findings in Markdown: the matched layers and the extremes of each pair of models and each measure.

    Args:
        tables: the table of each pair of models.
        measures: the measures of the study.
        provenance: the models and the probe set.
        aligned: the alignment of each pair of models with different tokenizers.
    """
    lines = ["# How similar are the models, layer by layer?", "", *_models(provenance), ""]
    lines += [
        "Values are the literature's, with 95% intervals (Student's t over units of sequences).",
        PROBE_TEXT if provenance["probe"] else SAMPLES,
        "The null is the value after the sequences of one side are rearranged so that none meets itself, which is what",
        "models score that read different text; calibrated is (value - null) / (identical - null): 1 = identical, 0 =",
        "as different as the null. p is the share of rearrangements that are at least as similar.",
    ]
    for (a, b), table in tables.items():
        lines += ["", f"## {a} and {b}", "", *_first_components(table, a, b)]
        if (a, b) in aligned:
            lines += [
                "",
                f"They use different tokenizers and are compared at {alignment_in_words(a, b, aligned[a, b])}.",
            ]
        for measure in measures:
            records = select(table, measure=measure.label).to_pylist()
            if records:
                lines += ["", f"### {measure.label} ({_direction(measure)})", "", *_measure(records)]
    return "\n".join(lines) + "\n"


def alignment_in_words(a: str, b: str, alignment: Mapping[str, Any]) -> str:
    """Say where two models with different tokenizers are compared."""
    ends = "ends of words" if alignment["unit"] == "word" else "common boundaries of their tokens"
    return (
        f"{alignment['units']} {ends} in each of {alignment['sequences']} sequences: {alignment['share_a']:.0%} of the "
        f"tokens of {a}, {alignment['share_b']:.0%} of those of {b}"
    )


def terminal_tables(
    tables: Mapping[tuple[str, str], pa.Table],
    measures: Sequence[Measure],
    aligned: Mapping[tuple[str, str], Mapping[str, Any]],
) -> list[FittedTable]:
    """Return one table per pair of models, or for many pairs one table of their mean calibrated values."""
    if len(tables) > PAIRS_SHOWN:
        return [_overview(tables, measures)]
    shown = []
    for labels, table in tables.items():
        shown.append(_pair(table, measures, *labels))
        if labels in aligned:
            shown[-1].caption = escape(f"at {alignment_in_words(*labels, aligned[labels])}")
    return shown


def _overview(tables: Mapping[tuple[str, str], pa.Table], measures: Sequence[Measure]) -> FittedTable:
    shown = FittedTable("mean calibrated value at equal depth (1 = identical, 0 = null)", names=["model", "and"])
    for column in ("measure", "model", "and"):
        shown.add_column(column)
    shown.add_column("calibrated", justify="right")
    for measure in measures:
        for (a, b), table in tables.items():
            records = matched_records(select(table, measure=measure.label).to_pylist())
            mean = _number(finite_mean([record["calibrated"] for record in records]), 2)
            shown.add_row(measure.label, escape(a), escape(b), mean)
        shown.add_section()
    return shown


def _pair(table: pa.Table, measures: Sequence[Measure], a: str, b: str) -> FittedTable:
    """Return one line per measure: values at matched layers, and the means of their nulls and calibrated values."""
    pairs = list(zip(table["site_a"].to_pylist(), table["site_b"].to_pylist(), strict=True))
    sites_a, sites_b = (
        [site for site in distinct(table, column) if site != LOGITS] or [LOGITS] for column in ("site_a", "site_b")
    )
    (kind, names_a), (_, names_b) = short_names(sites_a), short_names(sites_b)
    matched = spread(
        [pairs[place] for place in at_equal_depth(pairs)], 3 if max(map(len, names_a + names_b)) < 4 else 2
    )
    columns = []
    for site_a, site_b in matched:
        names = names_a[sites_a.index(site_a)], names_b[sites_b.index(site_b)]
        same = site_a == site_b and not names[0].isdecimal()
        columns.append(escape(names[0] if same else " ~ ".join(names)))
    shown = FittedTable(
        f"{escape(a)} and {escape(b)}: {escape(kind)}", drop=["same", "null", *inner_first(columns), "calibr."]
    )
    for column in ("measure", "same", *columns, "null", "calibr."):
        shown.add_column(column, justify="left" if column == "measure" else "right")
    outputs = (LOGITS, LOGITS)
    for measure in measures:
        records = select(table, measure=measure.label).to_pylist()
        by_sites = {_pair_of(record): record for record in records}
        cells = [_interval(by_sites[pair]) if pair in by_sites else "" for pair in matched]
        label = measure.label
        if outputs in by_sites and cells and not any(cells):
            cells[0], label = _interval(by_sites[outputs]), f"{label} (outputs)"
        averaged = [by_sites[pair] for pair in (*matched, outputs) if pair in by_sites]
        means = [finite_mean([record[column] for record in averaged]) for column in ("null", "calibrated")]
        shown.add_row(label, f"{measure.identical:g}", *cells, *(_number(mean, 2) for mean in means))
    return shown


def _models(provenance: Mapping[str, Any]) -> list[str]:
    """Return the models and the probe set."""
    lines = table_head("model", "from", "step", "sha256")
    for label, notes in provenance["models"].items():
        digest = notes["sha256"] if isinstance(notes["sha256"], str) else ", ".join(map(str, notes["sha256"].values()))
        step = notes.get("step")
        lines.append(table_row(label, f"`{notes['uri']}`", "" if step is None else str(step), f"`{digest[:12]}`"))
    probe = provenance["probe"]
    if probe:
        lines += [
            "",
            f"Probe set: {probe['sequences']} sequences of {probe['length']} tokens from the {probe['split']} split of "
            f"`{probe['data']}`, sha256 `{probe['sha256'][:12]}`.",
        ]
    return lines


def _first_components(table: pa.Table, a: str, b: str) -> list[str]:
    """Return the share of variance in the first principal component of each site, with a warning if it is large."""
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
            "Where this share is high, CKA and Procrustes reflect one direction and little else, perhaps due to a few "
            "tokens: compare with control.drop_top_norm=2, control.skip_first=1 or control.normalize=layer_norm."
        )
    return lines


def _measure(records: list[dict[str, Any]]) -> list[str]:
    """Return the lines of one measure of one pair of models."""
    matched = matched_records(records)
    lines = table_head("site a", "site b", "value", "null", "p", "calibrated")
    for record in matched:
        calibrated = _interval(record, "calibrated", "calibrated_stderr")
        values = (_interval(record), _spread(record), _number(record["p"]), calibrated)
        lines.append(table_row(record["site_a"], record["site_b"], *values))
    finite = [record for record in records if math.isfinite(record["dissimilarity"])]
    if len(finite) > 1:
        nearest, farthest = (choose(finite, key=_dissimilarity) for choose in (min, max))
        extremes = f"{_in_words(nearest)}; least similar: {_in_words(farthest)}"
        lines += ["", f"Most similar of {len(finite)} pairs of sites: {extremes}."]
        lines += [_best_null(nearest)] if math.isfinite(nearest["null_best"]) else []
    if len(matched) > 1:
        means = [_number(finite_mean([record[column] for record in matched])) for column in ("value", "calibrated")]
        lines += ["", f"Mean over the layers of the table: {means[0]}, calibrated {means[1]}."]
    notes = {record["note"]: math.isnan(record["value"]) for record in records if record["note"]}
    return lines + [f"{'Not measured' if is_missing else 'Note'}: {note}." for note, is_missing in notes.items()]


def _best_null(record: dict[str, Any]) -> str:
    """Return what the most similar pair of sites of rearranged text scores, beside the pair that was found."""
    p = f" (p = {_number(record['p_best'])} for the pair above)" if math.isfinite(record["p_best"]) else ""
    return f"The most similar pair of rearranged text has {_number(record['null_best'])}{p}."


def _spread(record: dict[str, Any]) -> str:
    """Return the null with the standard deviation over rearrangements, if there are several."""
    spread = f" (sd {_number(record['null_sd'])})" if math.isfinite(record["null_sd"]) else ""
    return f"{_number(record['null'])}{spread}"


def matched_records(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the records of one measure at matched sites."""
    return [records[place] for place in at_equal_depth([_pair_of(record) for record in records])]


def _pair_of(record: dict[str, Any]) -> tuple[str, str]:
    return record["site_a"], record["site_b"]


def _direction(measure: Measure) -> str:
    return f"{measure.identical:g} = same, {'lower' if measure.higher_is_more_similar else 'higher'} = more different"


def _dissimilarity(record: dict[str, Any]) -> float:
    return record["dissimilarity"]


def _in_words(record: dict[str, Any]) -> str:
    calibrated = _number(record["calibrated"])
    return f"{record['site_a']} and {record['site_b']}, {_interval(record)} (calibrated {calibrated})"


def _interval(record: dict[str, Any], column: str = "value", stderr: str = "stderr") -> str:
    if not math.isfinite(record[column]):
        return "-"
    error = "" if not math.isfinite(record[stderr]) else f" ± {half_width(record[stderr], record['n_units']):.3f}"
    return f"{record[column]:.3f}{error}"


def _number(value: float, digits: int = 3) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
