"""The figures of a page as Vega-Lite specifications.

Each draws the data that the page puts under the name `rows`, in the columns that `COLUMNS` names. What depends on the
choices of the reader (measure, scale of steps, colors) is filled in by the page.
"""

from typing import Any

from dissimilarity.figures.maps import Dark

Spec = dict[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HEIGHT = 230
MEANING = "dissimilarity"
"""What the page replaces by the name of a measure, such as 1 - CKA."""
COLUMNS = {
    "lines": ("series", "step", "b", "d", "low", "high", "n", "c", "kind", "id", "alert"),
    "layers": ("row", "a", "b", "d", "low", "high", "n", "c"),
    "maps": ("a", "b", "row", "column", "step", "d", "h", "n", "chosen"),
    "values": ("series", "step", "d", "low", "high", "kind", "id", "alert"),
}
"""Columns of the data of each figure."""


def specs(dark: Dark = "same") -> dict[str, Spec]:
    """Return every specification by name.

    Args:
        dark: what dark cells of heat maps are.
    """
    return {"lines": lines(), "layers": layers(), "maps": maps(dark), "values": values()}


def lines() -> Spec:
    """Return curves of dissimilarity by step with their intervals, the null, and a mark for steps without a value."""
    null = {"mark": {"type": "line", "clip": True, "strokeDash": [4, 3], "strokeWidth": 1.1, "color": {"expr": "gray"}}}
    null |= {
        "transform": [{"filter": "isValid(datum.n)"}],
        "encoding": {"x": _step(), "y": {**_height("n"), "aggregate": "median"}},
    }
    missing = {
        "transform": [{"filter": "!isValid(datum.d)"}],
        "mark": {"type": "tick", "orient": "vertical", "color": {"expr": "gray"}, "size": 7},
        "encoding": {"x": _step(), "y": {"value": HEIGHT - 5}},
    }
    hover = [
        _tip("series", "curve", "nominal"),
        _tip("b", "site of the reference", "nominal"),
        _tip("step", "step", form=","),
        _tip("d", MEANING),
        _tip("low", "95% from"),
        _tip("high", "95% to"),
        _tip("n", "null"),
        _tip("c", "calibrated"),
    ]
    return {**_figure(), "layer": [_band(), null, missing, *_curve(hover)]}


def values() -> Spec:
    """Return curves of any quantity by step, such as a loss, with their intervals; those of a reference are dashed."""
    hover = [
        _tip("series", "curve", "nominal"),
        _tip("step", "step", form=","),
        _tip("d", "value"),
        _tip("low", "95% from"),
        _tip("high", "95% to"),
    ]
    spec = {**_figure(), "layer": [_band(), *_curve(hover)]}
    for layer in spec["layer"]:
        if "y" in layer["encoding"]:
            layer["encoding"]["y"] = {**layer["encoding"]["y"], "scale": {"zero": False}, "title": None}
    return spec


def layers() -> Spec:
    """Return dissimilarity by layer with its intervals, and the null dashed."""
    x = {
        "field": "row",
        "type": "ordinal",
        "sort": None,
        "title": None,
        "axis": {"labelAngle": 0, "labelOverlap": True},
    }
    y = {**_height("d"), "title": MEANING}
    hover = [
        _tip("a", "site of the first model", "nominal"),
        _tip("b", "site of the second model", "nominal"),
        _tip("d", MEANING),
        _tip("low", "95% from"),
        _tip("high", "95% to"),
        _tip("n", "null"),
        _tip("c", "calibrated"),
    ]
    null = {"type": "line", "strokeDash": [4, 3], "strokeWidth": 1.1, "color": {"expr": "gray"}, "clip": True}
    interval = {"x": x, "y": _height("low"), "y2": {"field": "high"}}
    blue = {"color": {"expr": "blue"}}
    figure = _figure()
    figure["params"] = [*figure["params"], {"name": "blue", "value": "#0072b2"}]
    figure["layer"] = [
        {"transform": [{"filter": "isValid(datum.n)"}], "mark": null, "encoding": {"x": x, "y": _height("n")}},
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "clip": True, **blue},
            "encoding": interval,
        },
        {"mark": {"type": "line", "strokeWidth": 1.2, **blue}, "encoding": {"x": x, "y": y}},
        {"mark": {"type": "point", "filled": True, "size": 60, **blue}, "encoding": {"x": x, "y": y, "tooltip": hover}},
    ]
    return figure


def maps(dark: Dark) -> Spec:
    """Return the heat map of all pairs of sites; both models begin at the lower left corner."""
    axis = {"labelLimit": 140, "labelOverlap": True}
    sites = {"type": "ordinal", "sort": None, "title": None, "axis": axis}
    cells = {
        "x": {"field": "column", **sites, "axis": {**axis, "labelAngle": 0}},
        "y": {"field": "row", **sites, "scale": {"reverse": True}},
    }
    color = {
        "field": "d",
        "type": "quantitative",
        "scale": {
            "scheme": "viridis",
            "reverse": dark == "different",
            "domain": [{"expr": "low"}, {"expr": "top"}],
            "clamp": True,
        },
        "legend": {"title": MEANING, "orient": "bottom", "gradientLength": 180, "titleLimit": 240, "format": ".3~g"},
    }
    hover = [
        _tip("a", "site of the model", "nominal"),
        _tip("b", "site of the reference", "nominal"),
        _tip("d", MEANING),
        _tip("h", "± (95%)"),
        _tip("n", "null"),
    ]
    chosen = {"condition": {"test": "datum.chosen", "value": 2.5}, "value": 0}
    return {
        **_figure(),
        "params": [{"name": "low", "value": 0}, {"name": "top", "value": 1}, {"name": "ink", "value": "#d55e00"}],
        "layer": [
            {
                "mark": {"type": "rect", "stroke": {"expr": "ink"}, "cursor": "pointer"},
                "encoding": {**cells, "color": color, "strokeWidth": chosen, "tooltip": hover},
            }
        ],
    }


def _figure() -> Spec:
    return {
        "$schema": SCHEMA,
        "data": {"name": "rows"},
        "width": "container",
        "height": HEIGHT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "params": [{"name": "top", "value": 1}, {"name": "gray", "value": "#777777"}],
    }


def _band() -> Spec:
    """Return the intervals of curves."""
    y = {**_height("low"), "title": MEANING}
    return {
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "area", "opacity": 0.18, "clip": True},
        "encoding": {"x": _step(), "y": y, "y2": {"field": "high"}, "color": _series(), "detail": {"field": "kind"}},
    }


def _curve(hover: list[Spec]) -> list[Spec]:
    """Return the lines of curves, the point of the nearest one, and rings where there was an alert."""
    valid = [{"filter": "isValid(datum.d)"}]
    at = {"x": _step(), "y": _height("d"), "color": _series()}
    dash = {"condition": {"test": "datum.kind === 'reference'", "value": [3, 3]}, "value": [1, 0]}
    width = {"condition": {"test": "datum.kind === 'run'", "value": 0.7}, "value": 1.7}
    line = {
        "transform": valid,
        "mark": {"type": "line", "clip": True},
        "encoding": {**at, "detail": [{"field": "kind"}, {"field": "id"}], "strokeDash": dash, "strokeWidth": width},
    }
    near = {"name": "near", "select": {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True}}
    seen = {"condition": {"param": "near", "empty": False, "value": 1}, "value": 0}
    point = {
        "transform": valid,
        "params": [near],
        "mark": {"type": "point", "filled": True, "size": 55},
        "encoding": {**at, "opacity": seen, "tooltip": hover},
    }
    ring = {
        "transform": [{"filter": "isValid(datum.alert)"}],
        "mark": {"type": "point", "filled": False, "size": 130, "strokeWidth": 1.8},
        "encoding": {**at, "tooltip": [_tip("alert", "alert", "nominal"), _tip("step", "step", form=",")]},
    }
    return [line, point, ring]


def _step() -> Spec:
    return {
        "field": "step",
        "type": "quantitative",
        "title": "training step",
        "scale": {"type": "symlog", "constant": 1, "nice": False},
        "axis": {
            "grid": False,
            "labelOverlap": True,
            "labelExpr": "datum.value < 1000 ? datum.value : format(datum.value, '~s')",
        },
    }


def _height(field: str) -> Spec:
    return {"field": field, "type": "quantitative", "scale": {"domainMin": 0, "domainMax": {"expr": "top"}}}


def _series() -> Spec:
    return {"field": "series", "type": "nominal", "sort": None, "scale": {}, "legend": None}


def _tip(field: str, title: str, kind: str = "quantitative", form: str = ".4~g") -> Spec:
    return {"field": field, "type": kind, "title": title, **({"format": form} if kind == "quantitative" else {})}
