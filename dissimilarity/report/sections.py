"""The HTML of a page, section by section. Everything that comes from a file is escaped."""

import base64
import io
import re
import time
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from PIL import Image

from dissimilarity.capture.site_names import site_name
from dissimilarity.figures.maps import Scale
from dissimilarity.inference.coverage import FEWEST_MODELS, HELD_OUT_TEXT, PROBE_TEXT, REFERENCES, SEEDS
from dissimilarity.inference.jackknife import half_width
from dissimilarity.report.about import command_of, origin_of
from dissimilarity.report.elements import DASH, facts, is_number, number, select, table
from dissimilarity.report.folders import Folder
from dissimilarity.tables.curves import TABLE

COLORS = "Red tokens make the models look more different, blue ones more alike; the strongest one has the full color."
LARGEST_LINK = 2**19
"""Bytes of a table up to which a page holds it as a link."""
FEW_PAIRS = 6
"""Pairs of models up to which a page of comparisons shows all of them at first."""
ROWS = 2000
"""Rows of a table that a page shows."""
SERIES = {
    "drift": f"""<section><h2>Reference groups</h2>
<p class="soft">Mean dissimilarity to the references of each group. {REFERENCES}</p>
<div id="drift" class="grid"></div></section>""",
    "intrinsic": f"""<section><h2>The model alone</h2>
<p class="soft">Dashed: <span id="dashed">the reference</span>. {PROBE_TEXT}</p>
<div id="intrinsic" class="grid"></div></section>""",
    "penalties": f"""<section><h2>Stitching penalties</h2>
<p class="soft">Loss of the stitched model minus that of the back model: into the reference, and dashed from it.
{HELD_OUT_TEXT}</p>
<div id="penalties" class="grid"></div></section>""",
}
"""Sections of quantities that a run may have, by the name of their data."""
OF_ONE = f"""Shaded: 95% intervals. Dashed: null, the median over the sites. Ring: an alert. Ticks at the bottom: not
measured.
{PROBE_TEXT}"""
OF_PAIRS = "Layers at equal relative depth. Bars: 95% intervals. Dashed: null."
OF_SEVERAL = f"""Thick: the mean of runs that differ in their seeds alone, with its 95% interval where there are
{FEWEST_MODELS} or more; thin: these runs. {SEEDS}"""
STEPS = """<label>steps <select id="steps"><option value="log">logarithmic</option>
<option value="linear">linear</option></select></label>"""


def head(title: str, state: str, entries: Mapping[str, str]) -> str:
    """Return the title, the state and the facts, and the button that switches between light and dark."""
    return (
        f'<header><div><h1>{escape(title)}</h1><p class="soft">{escape(state)}</p></div>'
        '<button type="button" id="theme" aria-label="switch between light and dark">light / dark</button></header>'
        f"<noscript><p>The figures need JavaScript; the tables do not.</p></noscript>{facts(entries)}"
    )


def problems(texts: Sequence[str]) -> str:
    """Return what could not be read."""
    return f'<ul class="bad" aria-label="what could not be read">{_items(texts)}</ul>' if texts else ""


def notes(folder: Folder) -> str:
    """Return the notes of a run's curves, each once, with the steps that have it."""
    if folder.curves is None:
        return ""
    steps: dict[tuple[str, str], list[int]] = {}
    columns = (folder.curves[name].to_pylist() for name in ("reference", "note", "step"))
    for reference, note, step in zip(*columns, strict=True):
        if note:
            steps.setdefault((reference, note), []).append(step)
    lines = [f"vs {reference}, {_range(at)}: {note}" for (reference, note), at in steps.items()]
    count = f"{len(lines):,} note{'s' * (len(lines) > 1)}"
    return f"<details><summary>{count}</summary><ul>{_items(lines)}</ul></details>" if lines else ""


def nothing(folder: Folder) -> str:
    """Say that there is nothing to draw, and what the folder holds instead."""
    names = sorted(path.name for path in folder.path.iterdir() if not path.name.startswith("."))
    rest = f" and {len(names) - 20} more" if len(names) > 20 else ""
    holds = ", ".join(names[:20]) + rest if names else "nothing"
    expected = "curves.parquet or curves.jsonl" + ("" if folder.kind == "run" else " of a run, or table.parquet")
    return f"<p>No curves here: expected {expected}, found {escape(holds)}.</p>"


def final_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of the last value of each curve, from rows as `final_values` returns them."""
    names = ["reference", "measure", "site", "step", "value", "95% interval", "null", "calibrated", "dissimilarity"]
    lines = []
    for row in rows:
        half, site = float(half_width(row["stderr"], row["n_units"])), site_name(row["site_a"], row["site_b"])
        low, high = number(row["value"] - half), number(row["value"] + half)
        interval = DASH if low == DASH else f"{low} to {high}"
        numbers = (row["step"], row["value"], interval, row["null"], row["calibrated"], row["curve"][-1])
        lines.append([row["reference"], row["measure"], site, *numbers])
    content = table("final", names, lines)
    return f'<section><h2>Where it ended</h2><p class="soft">{PROBE_TEXT}</p>{content}</section>'


def choices(data: Mapping[str, Any]) -> str:
    """Return the lists from which a reader chooses what the figures show; none without curves.

    Args:
        data: the data of the page.
    """
    if not data["measures"]:
        return ""
    kind, references, sites = data["kind"], data["references"], [data["labels"][site] for site in data["sites"]]
    if kind == "comparison":
        first = None if len(references) <= FEW_PAIRS else 0
        lists = [select("measure", "measure", data["measures"], None), select("reference", "models", references, first)]
    elif kind == "runs":
        lists = [
            select("measure", "measure", data["measures"], None),
            select("reference", "reference", references, 0),
            select("site", "site", sites, None, "last of each"),
            STEPS,
        ]
    else:
        lists = [
            select("measure", "measure", data["measures"], 0),
            select("reference", "reference", references, None),
            select("site", "site", sites, None),
            STEPS,
        ]
    return f'<nav id="choices" aria-label="what the figures show">{"".join(lists)}</nav>'


def curves(title: str, caption: str) -> str:
    """Return the place of the curves."""
    return (
        f'<section><h2>{title}</h2><div id="legend" aria-hidden="true"></div><div id="curves" class="grid"></div>'
        f'<p class="soft">{caption}</p></section>'
    )


def heat_maps(scale: Scale) -> str:
    """Return the place of the heat maps, and what their colors run over."""
    colors = "Colors run from 0 (the same) to the null." if scale == "null" else "Colors run over the values."
    return f"""<section id="heatmaps">
<h2>All pairs of layers</h2>
<div class="row"><button type="button" id="play">play</button>
<label>step <input type="range" id="tick" min="0" max="0" value="0"></label> <span id="at"></span></div>
<div id="maps" class="grid"></div>
<p class="soft">{colors} Rows are the sites of the model, columns those of the reference. A click on a cell, or the two
lists, choose the pair whose curve is drawn below, at the steps that have all pairs.</p>
<div class="row"><label>row <select id="row"></select></label> <label>column <select id="column"></select></label></div>
<div id="pair" class="grid"></div>
</section>"""


def alerts(records: Sequence[Mapping[str, Any]]) -> str:
    """Return the alerts of a run, if there are any."""
    lines = [
        f"step {number(step) if is_number(step := record.get('step')) else step}, {record.get('rule')}: "
        f"{record.get('text')}"
        for record in records
    ]
    return f"<section><h2>Alerts</h2><ul>{_items(lines)}</ul></section>" if lines else ""


def provenance(folder: Folder) -> str:
    """Return where a folder comes from, and the command that makes it again."""
    command, config = command_of(folder), folder.texts.get("config.yaml")
    again = f"<p>To repeat it:</p><pre>{escape(command)}</pre>" if command else ""
    shown = f"<details><summary>config.yaml</summary><pre>{escape(config)}</pre></details>" if config else ""
    return f"<section><h2>Provenance</h2>{again}{facts(origin_of(folder))}{shown}</section>"


def downloads(folder: Folder) -> str:
    """Return the table of a folder as a link, if it is small; the figures have their own."""
    name = TABLE if folder.kind == "run" else "table.parquet"
    path = folder.path / name
    if not path.is_file():
        return ""
    if path.stat().st_size > LARGEST_LINK:
        return f'<p class="soft">All numbers: {escape(str(path))}</p>'
    data = base64.b64encode(path.read_bytes()).decode()
    link = f'<a download="{name}" href="data:application/vnd.apache.parquet;base64,{data}">{name}</a>'
    return f"<p>All numbers: {link}. Each figure can be saved as SVG, and its numbers as CSV.</p>"


def foot() -> str:
    """Return when the page was written."""
    return f'<p class="soft">Written {time.strftime("%Y-%m-%d %H:%M:%S %z")} by dissimilarity.</p>'


def answer(folder: Folder) -> str:
    """Return the beginning of a study's summary: its question and answer."""
    return _markdown(_summary(folder)[0])


def details(folder: Folder) -> str:
    """Return the rest of the summary of a study."""
    return _markdown(_summary(folder)[1])


def _summary(folder: Folder) -> tuple[str, str]:
    """Return the summary of a study up to the first heading of a section, and from there on."""
    text = folder.texts.get("summary.md", "")
    parts = re.split(r"^(?=## )", text, maxsplit=1, flags=re.MULTILINE)
    return parts[0], "".join(parts[1:])


def _markdown(text: str) -> str:
    """Return Markdown as HTML, in which wide tables scroll. HTML in it is shown as text."""
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    shown = markdown.render(text).replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return f"<section>{shown}</section>" if text.strip() else ""


def colored_texts(folder: Folder) -> str:
    """Return the texts that differ most, each token on the color of its influence, which hovering shows."""
    parts = []
    for text in folder.colored:
        pieces = [value for sequence in text["sequences"] for _, value in sequence["pieces"] if value is not None]
        most = max(map(abs, pieces), default=0.0) or 1.0
        lines = "".join(
            f'<p class="text"><span class="soft">sequence {sequence["sequence"]}: {sequence["influence"]:+.2g}</span> '
            f"{''.join(_piece(piece, value, most) for piece, value in sequence['pieces'])}</p>"
            for sequence in text["sequences"]
        )
        parts.append(f"<h3>{escape(text['title'])}</h3>{lines}")
    return (
        f'<section><h2>Which text differs</h2><p class="soft">{COLORS}</p>{"".join(parts)}</section>' if parts else ""
    )


def figures(folder: Folder) -> str:
    """Return the pictures of a study, in the size that they have on paper where the page has space for it."""
    kinds = {".png": "image/png", ".svg": "image/svg+xml"}
    pictures = "".join(
        f'<figure class="plot picture"><h3>{escape(Path(name).stem)}</h3>'
        f'<img alt="{escape(Path(name).stem)}"{_width(content)} '
        f'src="data:{kinds[Path(name).suffix]};base64,{base64.b64encode(content).decode()}"></figure>'
        for name, content in folder.figures.items()
    )
    return f"<section><h2>Figures</h2>{pictures}</section>" if pictures else ""


def _width(picture: bytes) -> str:
    """Return the attribute for the width of a PNG that says how many pixels make an inch; empty of other pictures."""
    try:
        with Image.open(io.BytesIO(picture), formats=["PNG"]) as image:
            inches = image.width / image.info["dpi"][0]
    except (OSError, ValueError, KeyError, ZeroDivisionError, SyntaxError, Image.DecompressionBombError):
        return ""
    return f' width="{round(96 * inches)}"'


def results_table(folder: Folder) -> str:
    """Return the table of a study, without columns of lists, and those without values."""
    if folder.table is None:
        return ""
    kinds = ("list", "large_list", "struct", "map", "fixed_size_list", "binary")
    lists = [field.name for field in folder.table.schema if str(field.type).startswith(kinds)]
    shown = folder.table.drop_columns(lists)
    shown = shown.select([name for name in shown.column_names if _has_values(shown[name].to_pylist())])
    lines = [list(row.values()) for row in shown.slice(0, ROWS).to_pylist()]
    note = f'<p class="soft">The first {ROWS:,} of {shown.num_rows:,} rows.</p>' if shown.num_rows > ROWS else ""
    return f"<section><h2>Table</h2>{table('rows', shown.column_names, lines)}{note}</section>"


def runs_table(rows: Sequence[Sequence[Any]], references: Sequence[str], measure: str | None) -> str:
    """Return the table of several folders, from rows as `row_of` returns them."""
    names = ["name", "state", "step", "loss", "parameters", "seconds", *(f"vs {name}" for name in references)]
    by = f'<p class="soft">vs: final dissimilarity by {escape(measure)} at the last site.</p>' if measure else ""
    return f"<section><h2>Runs</h2>{table('runs', names, rows, numbered=True)}{by}</section>"


def _piece(text: str, value: float | None, most: float) -> str:
    if value is None:
        return escape(text)
    color, share = ("202, 0, 32" if value > 0 else "5, 113, 176"), 0.65 * min(1.0, abs(value) / most)
    return f'<span style="background: rgba({color}, {share:.2f})" title="{value:+.2g}">{escape(text)}</span>'


def _has_values(column: Sequence[Any]) -> bool:
    return any(value not in (None, "") and value == value for value in column)


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _range(steps: Sequence[int]) -> str:
    steps = sorted(set(steps))
    return f"step {steps[0]:,}" if len(steps) == 1 else f"{len(steps):,} steps from {steps[0]:,} to {steps[-1]:,}"
