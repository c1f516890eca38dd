"""The report's pictures, as Plotly figures. Plotly is imported when the first picture is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from learnforge_kit.search.encoding import encode, flatten
from learnforge_plugins.stages.measured import Trials
from learnforge_plugins.stages.meta.measured import Adaptation

MOST_FEW = 8
"""Trials below which nothing is said about the importance of choices."""

THEMED = "themed"
"""What the layout of a figure says that takes the page's colours, light or dark."""

_COSTS = ("parameters", "macs", "latency_ms")


_SHARE = ".2~%"
"""Format of shares: as many digits as part one from the next."""

_LINES = {"gridcolor": "rgba(127,127,127,0.3)", "zerolinecolor": "rgba(127,127,127,0.3)"}


_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777")


def search_history(search: Trials) -> Any:
    """Draw each trial's first objective and the best so far."""
    name, sign = _objective(search)
    trials = _judged(search)
    values, numbers = [r["metrics"][name] for r in trials], [r["number"] for r in trials]
    figure = _figure("Search history", "trial", name)
    for state, colour in (("evaluated", _COLOURS[0]), ("stopped", _COLOURS[3])):
        own = [i for i, r in enumerate(trials) if r["state"] == state]
        if own:
            x, y = [numbers[i] for i in own], [values[i] for i in own]
            figure.add_scatter(x=x, y=y, mode="markers", name=state, marker_color=colour)
    best = [sign * value for value in accumulate((sign * value for value in values), max)]
    line = {"shape": "hv", "color": _COLOURS[1]}
    figure.add_scatter(x=numbers, y=best, mode="lines", name="best so far", line=line)
    return _as_share(figure, name)


def pareto(search: Trials) -> Any:
    """Draw the first objective against the cost that the search was to keep small, or against
    the parameters.
    """
    name, _ = _objective(search)
    costs = [o[1:] for o in search.objectives if o.startswith("-") and o[1:] not in ("loss", name)]
    trials = _judged(search)
    cost = costs[0] if costs else "parameters"
    front = search.front or ()
    figure = _figure("Pareto set", cost, name)
    known = [r for r in trials if cost in r["metrics"]]
    others = [r for r in known if r["number"] not in front]
    best = sorted((r for r in known if r["number"] in front), key=lambda r: r["metrics"][cost])
    for words, colour, members in (("other designs", _COLOURS[0], others), ("Pareto set", _COLOURS[1], best)):
        figure.add_scatter(
            x=[r["metrics"][cost] for r in members],
            y=[r["metrics"][name] for r in members],
            text=[f"trial {r['number']}" for r in members],
            mode="markers" if words == "other designs" else "lines+markers",
            name=words,
            marker_color=colour,
        )
    return _as_share(figure, name)


def costs(search: Trials) -> Any:
    """Draw the first objective against each cost that is known of the trials, and against their seconds."""
    from plotly.subplots import make_subplots

    name, _ = _objective(search)
    trials = _judged(search)
    known = [c for c in _COSTS if all(c in r["metrics"] for r in trials)]
    figure = make_subplots(1, len(known) + 1, shared_yaxes=True, subplot_titles=[*known, "seconds"])
    figure.update_layout(_figure("What trials cost", "", name).layout)
    for column, cost in enumerate([*known, "seconds"], start=1):
        x = [r["seconds"] if cost == "seconds" else r["metrics"][cost] for r in trials]
        y = [r["metrics"][name] for r in trials]
        text = [f"trial {r['number']}" for r in trials]
        marker = {"color": _COLOURS[0]}
        figure.add_scatter(
            x=x, y=y, text=text, mode="markers", marker=marker, showlegend=False, row=1, col=column
        )
    figure.update_xaxes(title=None, nticks=4, **_LINES)
    figure.update_yaxes(**_LINES)
    return _as_share(figure, name)


def importance(search: Trials) -> Any:
    """Draw how much of the first objective's variance each choice explains, by a random forest; None for
    few trials.

    Columns of one choice count together. With few trials this is a hint and no more.
    """
    from sklearn.ensemble import RandomForestRegressor

    name, _ = _objective(search)
    trials = [r for r in _judged(search) if r["state"] == "evaluated"]
    designs = [flatten(r["design"]) for r in trials]
    paths = [p for p in dict.fromkeys(p for design in designs for p in design) if _varies(designs, p)]
    if len(trials) < MOST_FEW or not paths:
        return None
    parts = [encode([{p: d[p]} if p in d else {} for d in designs]) for p in paths]
    forest = RandomForestRegressor(200, random_state=0).fit(
        np.hstack(parts), [r["metrics"][name] for r in trials]
    )
    ends = np.cumsum([part.shape[1] for part in parts])
    shares = [float(part.sum()) for part in np.split(forest.feature_importances_, ends[:-1])]
    order = sorted(range(len(paths)), key=lambda i: shares[i])[-12:]
    figure = _figure(f"Importance of choices for {name}", "share of the explained variance", "")
    x, y = [shares[i] for i in order], [_short(paths[i]) for i in order]
    figure.add_bar(x=x, y=y, orientation="h", marker_color=_COLOURS[0])
    figure.update_xaxes(tickformat=_SHARE)
    figure.update_layout(margin={"l": 180})
    return figure


def parallel(search: Trials) -> Any:
    """Draw every evaluated design as a line through its choices, coloured by the first objective; None
    for few.
    """
    import plotly.graph_objects as go

    name, _ = _objective(search)
    trials = [r for r in _judged(search) if r["state"] == "evaluated"]
    designs = [flatten(r["design"]) for r in trials]
    paths = [p for p in dict.fromkeys(p for design in designs for p in design) if _varies(designs, p)][:10]
    if len(trials) < 2 or not paths:
        return None
    values = [r["metrics"][name] for r in trials]
    axes = [_axis(path, [design.get(path) for design in designs]) for path in paths]
    axes.append({"label": name, "values": values})
    figure = _figure("Designs, choice by choice", "", "")
    line = {
        "color": values,
        "colorscale": "Viridis",
        "showscale": True,
        "colorbar": {"title": {"text": name}},
    }
    figure.add_trace(go.Parcoords(dimensions=axes, line=line, labelangle=-20))
    # narrower, labels would cover each other: on a phone the figure is scrolled
    figure.update_layout(width=max(400, 74 * len(axes) + 90), margin={"l": 70, "r": 150, "t": 110})
    return figure


def _axis(path: str, values: Sequence[Any]) -> dict[str, Any]:
    """Return an axis of parallel coordinates: numbers as they are, categories one above the other."""
    label = _short(path)
    if all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        return {"label": label, "values": list(values)}
    words = sorted({str(v) if v is not None else "none" for v in values})
    places = [words.index(str(v) if v is not None else "none") for v in values]
    return {"label": label, "values": places, "tickvals": list(range(len(words))), "ticktext": words}


def _short(path: str) -> str:
    """Return a choice's name as pictures have room for it."""
    return path.replace("stages.", "").replace("blocks.", "")


def _varies(designs: Sequence[Mapping[str, Any]], path: str) -> bool:
    return len({repr(design.get(path)) for design in designs}) > 1


def _judged(search: Trials) -> list[Any]:
    """Return the records of trials that have a value, oldest first."""
    name, _ = _objective(search)
    return [r for r in search.history if r["state"] in ("evaluated", "stopped") and name in r["metrics"]]


def _objective(search: Trials) -> tuple[str, float]:
    """Return the first objective's name, and 1 if more of it is better, else -1."""
    first = str(search.objectives[0])
    return first.removeprefix("-"), -1.0 if first.startswith("-") else 1.0


def _as_share(figure: Any, name: str) -> Any:
    if name == "accuracy":
        figure.update_yaxes(tickformat=_SHARE)
    return figure


_OF_EACH_EPOCH = ("epoch", "loss", "learning_rate")
"""What the history of a training has beside what it was validated by."""


def curves(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Draw the training loss, and the accuracy, or what else was validated, of each training in a stage."""
    figure = _figure("Training", "outer step" if "meta" in history else "epoch", "loss")
    measures: list[str] = []
    for colour, (name, entries) in zip(_COLOURS, history.items(), strict=False):
        epochs = list(range(1, len(entries) + 1)) if name != "meta" else [e["epoch"] for e in entries]
        figure.add_scatter(
            x=epochs, y=[e["loss"] for e in entries], name=f"{name}: loss", line={"color": colour}
        )
        for measure in [key for key in (entries[0] if entries else ()) if key not in _OF_EACH_EPOCH][:1]:
            values = [e[measure] for e in entries]
            line = {"color": colour, "dash": "dot"}
            figure.add_scatter(x=epochs, y=values, name=f"{name}: {measure}", line=line, yaxis="y2")
            measures += [measure] if measure not in measures else []
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "tickformat": _SHARE if set(measures) <= {"accuracy"} else "",
            "tickmode": "auto",
            "title": ", ".join(measures) or "accuracy",
            "showgrid": False,
        }
    )
    return figure


def bars(title: str, x: Sequence[str], groups: Mapping[str, Sequence[float | None]]) -> Any:
    """Draw accuracies in groups of bars."""
    figure = _figure(title, "", "accuracy")
    for colour, (name, values) in zip(itertools.cycle(_COLOURS), groups.items(), strict=False):
        figure.add_bar(x=list(x), y=list(values), name=name, marker_color=colour)
    figure.update_yaxes(tickformat=_SHARE, range=[0, 1])
    return figure


def reliability(bins: Sequence[Sequence[float]]) -> Any:
    """Draw accuracy over confidence, beside the diagonal where they are equal."""
    figure = _figure("Reliability on test images", "confidence", "accuracy")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": "#888", "dash": "dot"}
    )
    counts = [f"{int(count)} images" for *_, count in bins]
    x, y = [b[0] for b in bins], [b[1] for b in bins]
    figure.add_scatter(
        x=x, y=y, mode="lines+markers", name="network", text=counts, line={"color": _COLOURS[0]}
    )
    figure.update_xaxes(tickformat=_SHARE, range=[0, 1.02])
    figure.update_yaxes(tickformat=_SHARE, range=[0, 1.02])
    return figure


def returns(entries: Sequence[Mapping[str, Any]]) -> Any:
    """Draw the mean return before and after adaptation over meta-training."""
    x = [entry["epoch"] for entry in entries]
    names = {"before adaptation": "return_before", "after adaptation": "return"}
    lines = {name: [entry[key] for entry in entries] for name, key in names.items()}
    return lines_figure("Meta-training", "batches of episodes", "mean return", x, lines)


def confusion(counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Any:
    """Draw how often each true class was taken for each class."""
    figure = _figure("Test images by true and predicted class", "predicted", "true")
    figure.add_heatmap(
        z=counts,
        x=list(classes),
        y=list(classes),
        colorscale="Blues",
        text=counts,
        texttemplate="%{text}",
        showscale=False,
    )
    figure.update_xaxes(type="category")
    figure.update_yaxes(type="category", autorange="reversed")
    return figure


def adaptation(scores: Adaptation, measure: str) -> Any:
    """Draw accuracy or loss after each step of adaptation with its confidence interval."""
    figure = _figure("Adaptation to unseen tasks", "steps", measure)
    means = [mean for mean, _ in scores.by_step]
    bars = {"type": "data", "array": [interval for _, interval in scores.by_step]}
    figure.add_bar(
        x=[str(step) for step in range(len(means))], y=means, error_y=bars, marker_color=_COLOURS[0]
    )
    if measure == "accuracy":
        figure.update_yaxes(tickformat=_SHARE, range=[0, 1])
    return figure


def by_shots(rows: Sequence[Sequence[float]], measure: str) -> Any:
    """Draw the score after adaptation over the number of shots, with its confidence interval."""
    words = "rollouts" if measure == "return" else "shots"
    figure = _figure(f"Adaptation with more {words}", words, measure)
    bars = {"type": "data", "array": [row[2] for row in rows]}
    x, y = [row[0] for row in rows], [row[1] for row in rows]
    figure.add_scatter(x=x, y=y, error_y=bars, mode="lines+markers", line={"color": _COLOURS[0]})
    figure.update_xaxes(type="log", tickvals=x, ticktext=[str(int(shots)) for shots in x])
    if measure == "accuracy":
        figure.update_yaxes(tickformat=_SHARE, range=[0, 1])
    return figure


def lines_figure(
    title: str,
    x_title: str,
    y_title: str,
    x: Sequence[float],
    curves: Mapping[str, Sequence[float | None]],
    log: bool = False,
) -> Any:
    """Draw curves over one axis, by name."""
    figure = _figure(title, x_title, y_title)
    for colour, (name, values) in zip(itertools.cycle(_COLOURS), curves.items(), strict=False):
        figure.add_scatter(x=list(x), y=list(values), mode="lines", name=name, line={"color": colour})
    if log:
        figure.update_yaxes(type="log")
    return figure


def bars_figure(
    title: str, y_title: str, names: Sequence[str], values: Sequence[float], errors: Sequence[float]
) -> Any:
    """Draw a bar with its error for each name."""
    figure = _figure(title, "", y_title)
    bars = {"type": "data", "array": list(errors)}
    figure.add_bar(x=list(names), y=list(values), error_y=bars, marker_color=_COLOURS[0])
    return figure


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title=title,
        meta=THEMED,
        height=360,
        margin={"l": 60, "r": 60, "t": 50, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(127,127,127,0.08)",
        font={"color": "#808080"},
        legend={"orientation": "h", "y": -0.25},
    )
    figure.update_xaxes(title=x, **_LINES)
    figure.update_yaxes(title=y, **_LINES)
    return figure
