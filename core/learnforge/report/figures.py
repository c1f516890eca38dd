"""The report's pictures, as Plotly figures. Plotly is imported when the first picture is drawn."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

_COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2", "#65a30d", "#db2777")


def search_history(metrics: Mapping[str, Any]) -> Any:
    """Draw each trial's validation accuracy and the best so far."""
    trials = [r for r in metrics["history"] if r["state"] == "evaluated"]
    accuracy = [r["metrics"]["accuracy"] for r in trials]
    numbers = [r["number"] for r in trials]
    figure = _figure("Search history", "trial", "validation accuracy")
    figure.add_scatter(x=numbers, y=accuracy, mode="markers", name="trial", marker_color=_COLOURS[0])
    best = list(accumulate(accuracy, max))
    figure.add_scatter(
        x=numbers, y=best, mode="lines", name="best so far", line={"shape": "hv", "color": _COLOURS[1]}
    )
    figure.update_yaxes(tickformat=".0%")
    return figure


def pareto(metrics: Mapping[str, Any]) -> Any:
    """Draw accuracy against the cost that the search was to keep small, or against the parameters."""
    costs = [name[1:] for name in metrics["objectives"] if name.startswith("-") and name != "-loss"]
    cost = costs[0] if costs else "parameters"
    trials = [r for r in metrics["history"] if r["state"] == "evaluated"]
    figure = _figure("Accuracy and cost", cost, "validation accuracy")
    for name, colour, members in (
        ("other designs", _COLOURS[0], [r for r in trials if r["number"] not in metrics["front"]]),
        (
            "Pareto set",
            _COLOURS[1],
            sorted((r for r in trials if r["number"] in metrics["front"]), key=lambda r: r["metrics"][cost]),
        ),
    ):
        figure.add_scatter(
            x=[r["metrics"][cost] for r in members],
            y=[r["metrics"]["accuracy"] for r in members],
            text=[f"trial {r['number']}" for r in members],
            mode="markers" if name == "other designs" else "lines+markers",
            name=name,
            marker_color=colour,
        )
    figure.update_yaxes(tickformat=".0%")
    return figure


def curves(history: Mapping[str, Sequence[Mapping[str, Any]]]) -> Any:
    """Draw the training loss, and the accuracy where it was measured, of each training in a stage."""
    figure = _figure("Training", "epoch", "loss")
    for colour, (name, entries) in zip(_COLOURS, history.items(), strict=False):
        epochs = list(range(1, len(entries) + 1)) if name != "meta" else [e["epoch"] for e in entries]
        figure.add_scatter(
            x=epochs, y=[e["loss"] for e in entries], name=f"{name}: loss", line={"color": colour}
        )
        if entries and "accuracy" in entries[0]:
            accuracy = [e["accuracy"] for e in entries]
            line = {"color": colour, "dash": "dot"}
            figure.add_scatter(x=epochs, y=accuracy, name=f"{name}: accuracy", line=line, yaxis="y2")
    figure.update_layout(
        yaxis2={
            "overlaying": "y",
            "side": "right",
            "tickformat": ".0%",
            "title": "accuracy",
            "showgrid": False,
        }
    )
    return figure


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


def adaptation(scores: Mapping[str, Any]) -> Any:
    """Draw accuracy after each step of adaptation with its confidence interval."""
    figure = _figure("Adaptation to unseen classes", "steps", "accuracy")
    means = [mean for mean, _ in scores["by_step"]]
    bars = {"type": "data", "array": [interval for _, interval in scores["by_step"]]}
    figure.add_bar(
        x=[str(step) for step in range(len(means))], y=means, error_y=bars, marker_color=_COLOURS[0]
    )
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
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


def _figure(title: str, x: str, y: str) -> Any:
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.update_layout(
        title=title,
        height=360,
        margin={"l": 60, "r": 60, "t": 50, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(127,127,127,0.08)",
        font={"color": "#808080"},
        legend={"orientation": "h", "y": -0.25},
    )
    figure.update_xaxes(title=x)
    figure.update_yaxes(title=y)
    return figure
