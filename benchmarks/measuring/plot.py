"""Plot of the figures, designed for a width of about 800 pixels."""

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from benchmarks.measuring.bounds import NAIVE_UTILISATION
from benchmarks.measuring.comparison import Comparison, Figure, median
from benchmarks.measuring.fleet_results import Fleet
from benchmarks.measuring.scenario import FIXED, VARYING

_ENGINE, _RAW, _NAIVE = "#1f6feb", "#d9822b", "#8250df"
_INK, _MUTED, _AXIS, _GRID = "#24292f", "#656d76", "#b5bac1", "#eaecef"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _AXIS,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
}


def draw(
    comparisons: Sequence[Comparison], path: Path, *, about: str, fleet: Sequence[Fleet] = ()
) -> None:
    """Write the picture, with panels for the measured scenarios.

    Args:
        comparisons: measured comparisons.
        path: path of the picture.
        about: footer with the conditions.
        fleet: figures of servers that share one Redis, by their number.
    """
    choices = [
        (_utilisation, [each for each in comparisons if each.scenario.predict_seconds == VARYING]),
        (_utilisation, [each for each in comparisons if each.scenario.predict_seconds == FIXED]),
        (_late, [each for each in comparisons if each.scenario.late]),
        (_cpu, [each for each in comparisons if not each.scenario.predict_seconds]),
    ]
    panels = [partial(panel, comparisons=measured) for panel, measured in choices if measured]
    if fleet:
        panels += [partial(_idle_commands, fleet=fleet), partial(_task_commands, fleet=fleet)]
    rows = math.ceil(len(panels) / 2)
    with mpl.rc_context(_STYLE):
        picture = Picture(figsize=(8, 2.7 * rows + 0.5), dpi=200, facecolor="white")
        picture.set_layout_engine("constrained", h_pad=0.1, w_pad=0.12)
        for place, panel in enumerate(panels, 1):
            panel(picture.add_subplot(rows, 2, place))
        entries, names = picture.axes[0].get_legend_handles_labels()
        picture.legend(entries, names, loc="outside upper center", ncols=len(names), fontsize=10)
        picture.supxlabel(about, fontsize=8, color=_MUTED)
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.savefig(path)


def _utilisation(axes: Axes, comparisons: list[Comparison]) -> None:
    limits = [each.scenario.limit for each in comparisons]
    seconds = f"{comparisons[0].scenario.predict_seconds}"
    axes.set_title(f"Share of the limit in use, {seconds.replace('-', '–')} s each")
    _lines(axes, _labels(limits), comparisons, lambda run: run.utilisation, "{:.1%}")
    if seconds == VARYING:
        measured = [limit for limit in limits if limit in NAIVE_UTILISATION]
        places, shares = _labels(measured), [NAIVE_UTILISATION[limit] for limit in measured]
        axes.plot(places, shares, "D", color=_NAIVE, ms=5, label="naive prototype")
    axes.set_xlabel("limit")
    axes.set_ylim(-0.06, 1.15)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25%", "50%", "75%", "100%"])


def _late(axes: Axes, comparisons: list[Comparison]) -> None:
    comparison = comparisons[0]
    scenario = comparison.scenario
    axes.set_title(
        f"{scenario.late} image beside a batch of {scenario.tasks}, limit {scenario.limit}"
    )
    for name, runs, colour in (
        ("raw client", comparison.raw, _RAW),
        ("engine", comparison.engine, _ENGINE),
    ):
        times = median(runs, lambda run: run.of_ideal) or 0
        over = "over " if any(run.given_up for run in runs) else ""
        bar = axes.barh(name, times, color=colour, height=0.5)
        axes.bar_label(bar, [f"{over}{times:.1f}"], padding=4)
    axes.set_xlabel("prediction times until it is there")
    axes.margins(x=0.15, y=0.25)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _cpu(axes: Axes, comparisons: list[Comparison]) -> None:
    axes.set_title("CPU ms an image, at no latency")
    _lines(
        axes,
        _labels([each.scenario.tasks for each in comparisons]),
        comparisons,
        lambda run: run.cpu_ms,
        "{:.1f}",
    )
    axes.set_xlabel("images asked for")
    axes.set_ylim(0, axes.get_ylim()[1] * 1.15)


def _idle_commands(axes: Axes, fleet: Sequence[Fleet]) -> None:
    axes.set_title("Redis commands/s of one idle server")
    _growth(axes, fleet, [each.idle_commands / each.servers for each in fleet], "{:.1f}")


def _task_commands(axes: Axes, fleet: Sequence[Fleet]) -> None:
    axes.set_title("Redis commands of one task")
    _growth(axes, fleet, [each.task_commands for each in fleet], "{:.0f}")


def _growth(axes: Axes, fleet: Sequence[Fleet], heights: Sequence[float], form: str) -> None:
    """Draw a line with labelled values over the number of servers."""
    places = _labels([each.servers for each in fleet])
    axes.plot(places, heights, "o-", color=_ENGINE)
    for place, height in zip(places, heights, strict=True):
        axes.annotate(
            form.format(height),
            (place, height),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=_ENGINE,
        )
    axes.set_xlabel("servers that share it")
    axes.set_ylim(0, max(heights) * 1.3)
    axes.margins(x=0.12)
    axes.grid(axis="y")


def _lines(
    axes: Axes, places: Sequence[str], comparisons: Sequence[Comparison], figure: Figure, form: str
) -> None:
    """Draw a line with labelled values for each contestant."""
    ours = [median(each.engine, figure) or 0 for each in comparisons]
    raw = [median(each.raw, figure) or 0 for each in comparisons]
    for name, heights, others, colour in (
        ("raw client", raw, ours, _RAW),
        ("engine", ours, raw, _ENGINE),
    ):
        axes.plot(places, heights, "o-", color=colour, label=name)
        for place, height, other in zip(places, heights, others, strict=True):
            level = math.isclose(height, other, rel_tol=0.05)
            above = name == "engine" if level else height > other
            axes.annotate(
                form.format(height),
                (place, height),
                xytext=(0, 6) if above else (-8, -6),
                textcoords="offset points",
                ha="center",
                va="bottom" if above else "top",
                fontsize=8,
                color=colour,
            )
    axes.margins(x=0.12)
    axes.grid(axis="y")


def _labels(numbers: Sequence[int]) -> list[str]:
    """Return the numbers as category labels, so that they are evenly spaced."""
    return [f"{number:,}" for number in numbers]
