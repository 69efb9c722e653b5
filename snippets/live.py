"""Controls and figures of a live cell, as plain data.

A demo is a function whose parameters are controls and whose result is figures::

    @demo(temperature=slider(0.1, 4, step=0.1, label="temperature"))
    def show(temperature=1.0):
        return bars({"a": 1.0, "b": 2.0}, x="token", y="probability", caption="...")

Nothing here draws. A figure is a dictionary of numbers and names; the page draws it, at build time and in the
browser with the same code, and offers the same numbers as a table.
"""

from __future__ import annotations

import inspect
import math
from typing import Any, Callable

import numpy as np

__all__ = ["Demo", "Figure", "bars", "choice", "demo", "graph", "heatmap", "image", "line", "scatter", "slider", "table",
           "text", "toggle", "typed"]


# Controls


def slider(low: float, high: float, *, step: float | None = None, label: str, unit: str = "", log: bool = False) -> dict:
    """A number from ``low`` to ``high``; whole if both ends and ``step`` (default 1 for whole ends) are whole.

    With ``log=True`` equal distances on the slider are equal ratios, and values have three significant digits.
    """
    if not low < high:
        raise ValueError(f"slider {label!r}: low={low} is not below high={high}")
    if log and low <= 0:
        raise ValueError(f"slider {label!r}: a logarithmic slider cannot start at low={low}")
    whole = all(isinstance(v, int) for v in (low, high, step if step is not None else low))
    if step is None:
        step = 1 if whole else (high - low) / 100
    if not 0 < step <= high - low:
        raise ValueError(f"slider {label!r}: step={step} is not between 0 and {high - low}")
    return {"kind": "slider", "low": low, "high": high, "step": step, "label": label, "unit": unit, "log": log, "whole": whole}


def choice(*values: Any, label: str) -> dict:
    """One of several numbers or words."""
    if len(values) < 2:
        raise ValueError(f"choice {label!r} needs two values or more, got {values}")
    return {"kind": "choice", "values": list(values), "label": label}


def toggle(*, label: str) -> dict:
    """On or off."""
    return {"kind": "toggle", "label": label}


def typed(*, label: str, most: int = 80) -> dict:
    """What the reader types, at most so many characters; it may be empty."""
    if most < 1:
        raise ValueError(f"typed {label!r}: most={most} is below 1")
    return {"kind": "typed", "label": label, "most": most}


def allowed(control: dict, value: Any) -> bool:
    """Whether a control can have this value."""
    if control["kind"] == "toggle":
        return isinstance(value, bool)
    if control["kind"] == "choice":
        return value in control["values"]
    if control["kind"] == "typed":
        return isinstance(value, str) and len(value.encode("utf-16-le")) // 2 <= control["most"]  # as the browser counts
    return (isinstance(value, (int, float)) and not isinstance(value, bool)
            and control["low"] <= value <= control["high"] and (not control["whole"] or float(value).is_integer()))


class Demo:
    """A function, its controls and their defaults."""

    last: Demo | None = None  # the most recent one: what a page shows after it has run a source

    def __init__(self, function: Callable, controls: dict[str, dict]) -> None:
        parameters = inspect.signature(function).parameters
        if set(controls) != set(parameters):
            raise ValueError(f"demo: controls {sorted(controls)} are not the parameters {sorted(parameters)}")
        self.function, self.controls = function, controls
        self.defaults = {name: p.default for name, p in parameters.items()}
        for name, value in self.defaults.items():
            if not allowed(controls[name], value):
                raise ValueError(f"demo: the default {name}={value!r} is not a value of {controls[name]}")
        Demo.last = self

    def fits(self, name: str, value: Any) -> bool:
        """Whether a control can have this value."""
        return allowed(self.controls[name], value)

    def __call__(self, **values: Any) -> list[Figure]:
        """The figures for these values of the controls; the defaults for those not given."""
        for name, value in values.items():
            if name not in self.controls:
                raise TypeError(f"there is no control {name!r}; there are {sorted(self.controls)}")
            if not self.fits(name, value):
                raise ValueError(f"{name}={value!r} is not a value of {self.controls[name]}")
        result = self.function(**{**self.defaults, **values})
        result = result if isinstance(result, (tuple, list)) else [result]
        return [text(r) if isinstance(r, str) else _figure(r) for r in result]


def demo(**controls: dict) -> Callable[[Callable], Demo]:
    """Records the decorated function as the demo of its file."""
    return lambda function: Demo(function, controls)


# Figures


class Figure(dict):
    """Plain data; a notebook shows its caption and numbers."""

    def _repr_html_(self) -> str:
        import html

        shown = {k: v for k, v in self.items() if k not in ("kind", "caption")}
        return f"<p><b>{html.escape(self.get('caption', ''))}</b></p><pre>{html.escape(str(shown)[:4000])}</pre>"


def _figure(result: Any) -> Figure:
    if not isinstance(result, Figure):
        raise TypeError(f"a demo returns figures and strings, not {type(result).__name__}")
    return result


def _make(kind: str, caption: str, needed: dict[str, str], **data: Any) -> Figure:
    for name, value in {"caption": caption, **needed}.items():
        if not (isinstance(value, str) and value.strip()):
            raise ValueError(f"{kind}: {name} must say what is shown, got {value!r}")
    return Figure(kind=kind, caption=caption, **needed, **_plain(data))


def _plain(value: Any) -> Any:
    """Lists, dictionaries, strings, numbers; what is not finite becomes None, as JSON has no word for it."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple, range)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    raise TypeError(f"a figure holds numbers, strings, lists and dictionaries, not {type(value).__name__}")


def _points(kind: str, name: str, pairs: Any) -> np.ndarray:
    pairs = np.asarray(pairs, dtype=float)
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{kind}: {name!r} has shape {pairs.shape}; expected (points, 2)")
    return pairs


def line(series: dict, *, at: Any = None, x: str, y: str, caption: str, dashed: Any = (), steps: bool = False,
         markers: Any = (), levels: dict | None = None, marks: dict | None = None, log_x: bool = False,
         log_y: bool = False, range_y: tuple | None = None) -> Figure:
    """Curves with direct labels.

    Args:
        series: ``{name: values}`` over ``at``, or ``{name: (x values, y values)}``.
        at: Common x values; 0, 1, 2 ... if not given.
        x, y: Names of the axes with their units.
        caption: What to notice.
        dashed: Names drawn as references.
        markers: Names drawn as points instead of a line.
        steps: Whether values hold until the next one.
        levels, marks: ``{label: value}`` of horizontal and vertical reference lines.
        log_x, log_y: Whether an axis is logarithmic.
        range_y: ``(low, high)`` of the y axis, to keep it still while a control moves.
    """
    curves = {}
    for name, values in series.items():
        xs, ys = values if isinstance(values, tuple) else (at if at is not None else range(len(values)), values)
        xs, ys = np.asarray(xs, float), np.asarray(ys, float)
        if xs.shape != ys.shape or xs.ndim != 1:
            raise ValueError(f"line: {name!r} has {ys.shape} values at {xs.shape} positions")
        curves[name] = np.stack([xs, ys], 1)
    for name in (*dashed, *markers):
        if name not in curves:
            raise ValueError(f"line: {name!r} is not one of {list(curves)}")
    return _make("line", caption, {"x": x, "y": y}, series=curves, dashed=list(dashed), markers=list(markers),
                 steps=steps, levels=levels or {}, marks=marks or {}, log_x=log_x, log_y=log_y, range_y=range_y)


def scatter(groups: dict, *, x: str, y: str, caption: str, lines: dict | None = None, labels: dict | None = None,
            equal: bool = False, range_x: tuple | None = None, range_y: tuple | None = None, field: Any = None) -> Figure:
    """Points in the plane.

    Args:
        groups: ``{name: (points, 2)}``, one colour each.
        x, y: Names of the axes with their units.
        caption: What to notice.
        lines: ``{name: [(points, 2), ...]}`` drawn under the points: paths, lattices, arrows.
        labels: ``{group: [one word per point]}``.
        equal: Whether one unit is as long on both axes.
        range_x, range_y: ``(low, high)`` of an axis, to keep it still while a control moves.
        field: ``(rows, columns)``, drawn as contours, darker where it is lower. Rows go up from ``range_y[0]`` to ``range_y[1]``, columns from
            ``range_x[0]`` to ``range_x[1]``, which both must be given.
    """
    if field is not None:
        field = np.asarray(field, float)
        if field.ndim != 2 or min(field.shape) < 2 or not np.isfinite(field).all():
            raise ValueError(f"scatter: field has shape {field.shape}; expected (rows, columns), two or more each, of finite numbers")
        if range_x is None or range_y is None:
            raise ValueError("scatter: a field needs range_x and range_y, which say where it lies")
        # Three digits are finer than a contour's line, and short to send.
        field = [[float(f"{v:.3g}") for v in row] for row in field.tolist()]
    return _make("scatter", caption, {"x": x, "y": y}, field=field, groups={n: _points("scatter", n, p) for n, p in groups.items()},
                 lines={n: [_points("scatter", n, p) for p in ps] for n, ps in (lines or {}).items()},
                 labels=labels or {}, equal=equal, range_x=range_x, range_y=range_y)


def bars(values: dict, *, x: str = "", y: str, caption: str, stacked: bool = False, levels: dict | None = None,
         log_y: bool = False, range_y: tuple | None = None) -> Figure:
    """Bars: ``{name: number}``, or ``{series: {name: number}}`` side by side or stacked.

    Args:
        values: The bars.
        x, y: Names of the axes with their units; ``x`` may be empty where the names say it.
        caption: What to notice.
        stacked: Whether series are stacked.
        levels: ``{label: value}`` of horizontal reference lines.
        log_y: Whether the y axis is logarithmic.
        range_y: ``(low, high)`` of the y axis.
    """
    grouped = values if any(isinstance(v, dict) for v in values.values()) else {"": values}
    names = list(dict.fromkeys(str(name) for row in grouped.values() for name in row))
    table_ = {series: [dict((str(k), v) for k, v in row.items()).get(name) for name in names] for series, row in grouped.items()}
    return _make("bars", caption, {"y": y}, x=x, names=names, series=table_, stacked=stacked, levels=levels or {},
                 log_y=log_y, range_y=range_y)


def heatmap(values: Any, *, x: str, y: str, value: str, caption: str, rows: Any = None, columns: Any = None,
            signed: bool | None = None, range: tuple | None = None) -> Figure:
    """A matrix as colours; NaN cells stay empty.

    Args:
        values: ``(rows, columns)``; row 0 is drawn at the top.
        x, y, value: Names of the columns' axis, of the rows' axis and of the colour, with units.
        caption: What to notice.
        rows, columns: Names of the rows and columns; 0, 1, 2 ... if not given.
        signed: Diverging colours around zero; by default where values have both signs.
        range: ``(low, high)`` of the colours, to keep them still while a control moves.
    """
    matrix = np.asarray(values, float)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"heatmap: values have shape {matrix.shape}; expected (rows, columns)")
    for name, names, n in (("rows", rows, matrix.shape[0]), ("columns", columns, matrix.shape[1])):
        if names is not None and len(names) != n:
            raise ValueError(f"heatmap: {len(names)} names for {n} {name}")
    finite = matrix[np.isfinite(matrix)]
    low, high = range or ((finite.min(), finite.max()) if finite.size else (0.0, 1.0))
    if signed is None:
        signed = low < 0 < high
    if signed:
        low, high = -max(abs(low), abs(high)), max(abs(low), abs(high))
    return _make("heatmap", caption, {"x": x, "y": y, "value": value}, values=matrix, signed=signed, range=[low, high],
                 rows=None if rows is None else [str(r) for r in rows],
                 columns=None if columns is None else [str(c) for c in columns])


def graph(nodes: Any, edges: Any, *, caption: str, positions: dict | None = None, directed: bool = False) -> Figure:
    """Nodes and edges.

    Args:
        nodes: Names, or ``{name: group}``; each group has a colour.
        edges: Pairs of names, or triples with a weight from 0 to 1 that sets the line's width.
        caption: What to notice.
        positions: ``{name: (x, y)}``; without them, layers for a graph without cycles, a circle otherwise.
        directed: Whether edges have arrow heads.
    """
    groups = dict(nodes) if isinstance(nodes, dict) else {name: "" for name in nodes}
    edges = [tuple(edge) for edge in edges]
    for edge in edges:
        for name in edge[:2]:
            if name not in groups:
                raise ValueError(f"graph: edge {edge} names {name!r}, which is no node")
    positions = positions or _layout(list(groups), edges)
    return _make("graph", caption, {}, directed=directed,
                 nodes=[{"name": str(n), "group": str(g), "x": positions[n][0], "y": positions[n][1]} for n, g in groups.items()],
                 edges=[[str(e[0]), str(e[1]), e[2] if len(e) > 2 else 1.0] for e in edges])


def _layout(names: list, edges: list) -> dict:
    """Longest-path layers, top to bottom; a circle if there is a cycle."""
    depth = {name: 0 for name in names}
    for _ in names:
        before = dict(depth)
        for a, b, *_ in edges:
            depth[b] = max(depth[b], depth[a] + 1)
        if depth == before:
            layers = [[n for n in names if depth[n] == d] for d in range(max(depth.values(), default=0) + 1)]
            return {n: ((i + 0.5) / len(layer), -float(d)) for d, layer in enumerate(layers) for i, n in enumerate(layer)}
    angle = [2 * math.pi * i / len(names) for i in range(len(names))]
    return {n: (math.sin(a), math.cos(a)) for n, a in zip(names, angle)}


def image(pixels: Any, *, caption: str) -> Figure:
    """Grey ``(H, W)`` or colour ``(H, W, 3)``; numbers from 0 to 1, or bytes."""
    pixels = np.asarray(pixels)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] != 3) or not pixels.size:
        raise ValueError(f"image: pixels have shape {pixels.shape}; expected (H, W) or (H, W, 3)")
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(np.nan_to_num(pixels.astype(float)), 0, 1) * 255).astype(np.uint8)
    return _make("image", caption, {}, pixels=pixels)


def table(rows: Any, *, columns: Any, caption: str) -> Figure:
    """Rows of cells under named columns."""
    rows = [list(row) for row in rows]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError(f"table: every row needs {len(columns)} cells, one per column")
    return _make("table", caption, {}, columns=[str(c) for c in columns], rows=rows)


def text(message: str) -> Figure:
    """A sentence of the result."""
    return _make("text", message, {})
