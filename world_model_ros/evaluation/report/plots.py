"""Plots as SVG that takes its colours from the page, so that light and dark both fit."""

import io
from typing import NamedTuple

import numpy as np

# What is drawn in these colours becomes the page's variables.
INK, MUTED, LINE, GOOD, BAD = "#000001", "#000002", "#000003", "#000004", "#000005"
SERIES = ("#000010", "#000011", "#000012", "#000013", "#000014", "#000015")
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    **{colour: f"var(--c{i})" for i, colour in enumerate(SERIES)},
}
_STYLE = {
    "svg.fonttype": "none",  # text stays text: light, and searchable
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "lines.solid_capstyle": "round",
}
_WIDTH = 10.0  # inches; the page scales it
_MOST_POINTS = 400  # of a curve or a cloud


class Plot(NamedTuple):
    """A drawing for the page, and what it shows in words."""

    svg: str
    label: str


def learning_curves(training: list[dict], validation: list[dict]) -> Plot:
    """Draw the lines of metrics.jsonl: prediction against copying, spread and rank, the regulariser."""

    def draw(figure):
        losses, ratio, spread, regulariser = figure.subplots(1, 4)
        steps, there = _column(training, "step"), _column(validation, "step")
        for axes, name, colour in ((losses, "prediction", 0), (losses, "copy", 5), (ratio, "ratio", 0)):
            label = {"prediction": "model", "copy": "copying"}.get(name)
            axes.plot(*_thin(steps, _column(training, name)), color=SERIES[colour], alpha=0.45, lw=1)
            axes.plot(there, _column(validation, name), color=SERIES[colour], label=label)
        spread.plot(*_thin(steps, _column(training, "effective_rank")), color=SERIES[2], alpha=0.45, lw=1)
        spread.plot(there, _column(validation, "effective_rank"), color=SERIES[2])
        regulariser.plot(*_thin(steps, _column(training, "sigreg")), color=SERIES[3])
        for axes in (losses, ratio, regulariser):
            _logarithmic(axes, "y", minor=(2, 5))
        losses.legend()
        spread.set_ylim(bottom=0)
        titles = ("Error of one step", "Ratio to copying", "Effective rank", "SIGReg")
        for axes, title in zip((losses, ratio, spread, regulariser), titles, strict=True):
            axes.set_title(title)
            axes.set_xlabel("step")
            axes.locator_params(axis="x", nbins=4)

    return _plot(
        "learning",
        draw,
        2.5,
        "Learning curves: error of one step, its ratio to copying, effective rank, SIGReg",
    )


def probe_bars(probes: dict) -> Plot:
    """Draw R2 by quantity and input, a panel a kind of probe; ``probes`` as in results of probing."""
    kinds = list(probes)

    def draw(figure):
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
        for axes, kind in zip(panels, kinds, strict=True):
            inputs = list(probes[kind])
            quantities = list(probes[kind][inputs[0]])
            width = min(0.8 / len(inputs), 0.2)
            for i, name in enumerate(inputs):
                values = np.array([probes[kind][name][q] for q in quantities], float)
                heights = np.clip(values, 0, 1)
                places = np.arange(len(quantities)) + (i - (len(inputs) - 1) / 2) * width
                colour = {"latent": SERIES[0], "pixels": SERIES[1]}.get(name, SERIES[5])
                axes.bar(places, heights, 0.92 * width, color=colour, label=name)
                for x, height, value in zip(places, heights, values, strict=True):
                    axes.text(x, height + 0.02, f"{value:.2f}", ha="center", fontsize=7.5, color=MUTED)
            axes.set_xticks(range(len(quantities)), quantities)
            axes.set_xlim(-0.6, len(quantities) - 0.4)
            axes.set_ylim(0, 1.12)
            axes.grid(axis="x", visible=False)
            axes.set_title({"linear": "Linear probe", "mlp": "MLP probe"}.get(kind, kind))
        panels[0].set_ylabel("R²")
        panels[-1].legend(ncols=len(probes[kinds[0]]), loc="lower right", bbox_to_anchor=(1.01, 1))

    return _plot(
        "probes", draw, 2.9, "R squared of probes by quantity, from latents, pixels and an untrained encoder"
    )


def scatter(points: dict) -> Plot:
    """Draw true against predicted, a panel a quantity; ``points`` as in results of probing."""

    rows = -(-len(points) // 3)

    def draw(figure):
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        for axes in panels[len(points) :]:
            axes.remove()
        for axes, (name, pair) in zip(panels, points.items(), strict=False):
            true, predicted = (
                np.asarray(pair[k], float).reshape(len(pair[k]), -1) for k in ("true", "predicted")
            )
            angle = "angle" in name
            if angle:  # 359 degrees read as 1 are no great mistake
                predicted = true + (predicted - true + 180) % 360 - 180
            scale = 1.0 if angle else 100.0
            for column, label in zip(range(true.shape[1]), ("x", "y"), strict=False):
                axes.plot(
                    *(scale * _some(values[:, column]) for values in (true, predicted)),
                    ".", ms=3, alpha=0.6, color=SERIES[column], mew=0, label=label,
                )  # fmt: skip
            ends = scale * np.array([true.min(), true.max()])
            axes.plot(ends, ends, color=MUTED, lw=0.8)
            if true.shape[1] > 1:
                axes.legend(markerscale=3, handletextpad=0.1)
            axes.set_title(name[:1].upper() + name[1:])
            axes.set_xlabel(f"true, {'degrees' if angle else 'cm'}")
            axes.set_ylabel("read from the latent")

    return _plot(
        "scatter", draw, 3.1 * rows, "True quantities against those that the MLP probe reads from latents"
    )


def open_loop(steps, error, copy, period: float) -> Plot:
    """Draw the open-loop error and that of copying over ``steps`` model steps of ``period`` s."""

    ratio = np.asarray(error, float) / np.maximum(copy, 1e-12)

    def draw(figure):
        errors, ratios = figure.subplots(1, 2)
        errors.plot(steps, copy, "o-", ms=3, color=SERIES[5], label="copying the last frame")
        errors.plot(steps, error, "o-", ms=3, color=SERIES[0], label="the model, open-loop")
        errors.set_title("Squared error of the latent")
        errors.set_ylim(bottom=0)
        errors.legend()
        ratios.plot(steps, ratio, "o-", ms=3, color=SERIES[0])
        for place in zip(steps, ratio, strict=True):
            ratios.annotate(
                f"{place[1]:.2g}", place, xytext=(0, 5), textcoords="offset points", ha="center", fontsize=8
            )
        ratios.axhline(1, color=MUTED, lw=0.8)
        ratios.annotate(
            "copying", (steps[0], 1), xytext=(0, 3), textcoords="offset points", color=MUTED, fontsize=8
        )
        ratios.set_title("Ratio: error of the model over copying")
        ratios.set_ylim(0, max(1.2, 1.2 * float(ratio.max())))
        for axes in (errors, ratios):
            axes.set_xlabel(f"model steps ahead, {period:g} s each")
            axes.set_xticks(steps)

    return _plot("open-loop", draw, 2.6, "Open-loop error against copying, by steps ahead")


def surprise_scores(scores: dict, threshold: float | None) -> Plot:
    """Draw the surprise of every kind of step: one dot a step, the median, the threshold."""
    kinds = list(scores)
    everything = np.concatenate([np.asarray(scores[k], float) for k in kinds])
    lowest = max(1e-6, float(everything[everything > 0].min())) if np.any(everything > 0) else 1e-6

    def draw(figure):
        axes = figure.subplots()
        rng = np.random.default_rng(0)
        for row, kind in enumerate(kinds):
            values = np.maximum(_some(np.asarray(scores[kind], float)), lowest)
            colour = SERIES[5] if kind == "normal" else SERIES[0]
            heights = row + rng.uniform(-0.24, 0.24, len(values))
            axes.plot(values, heights, ".", ms=4.5, mew=0, alpha=0.5, color=colour)
            if len(values):
                median = max(lowest, float(np.median(scores[kind])))
                axes.plot([median, median], [row - 0.34, row + 0.34], color=INK, lw=1.6)
        if threshold is not None:
            axes.axvline(threshold, color=BAD, lw=1)
            axes.annotate(
                "threshold",
                (threshold, -0.75),
                xytext=(4, 0),
                textcoords="offset points",
                color=BAD,
                fontsize=8,
            )
        _logarithmic(axes, "x")
        axes.set_ylim(len(kinds) - 0.5, -0.95)
        axes.set_yticks(range(len(kinds)), [k.replace("_", " ") for k in kinds])
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("surprise: squared error of the predicted latent")

    return _plot(
        "scores", draw, 0.7 + 0.36 * len(kinds), "Surprise of single steps, by what happened in them"
    )


def surprise_over_time(first: int, scores, seen: int, threshold: float | None, period: float) -> Plot:
    """Draw the surprise of the frames from ``first`` on; the violation is first seen in frame ``seen``."""
    times = period * (first + np.arange(len(scores)))

    def draw(figure):
        axes = figure.subplots()
        axes.axvspan(period * (seen - 1), period * seen, color=BAD, alpha=0.14, lw=0, label="the violation")
        axes.plot(times, scores, "o-", ms=3.5, color=SERIES[0], label="surprise")
        if threshold is not None:
            axes.axhline(threshold, color=BAD, lw=1, label="threshold")
        _logarithmic(axes, "y")
        axes.set_xlabel("s")
        axes.set_xlim(0, times[-1] + period / 2)
        axes.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1))

    return _plot("over-time", draw, 2.2, "Surprise over one episode with a violation in it")


def _plot(name: str, draw, height: float, label: str) -> Plot:
    """Let ``draw`` fill a figure of ``height`` inches; its ids are the plot's own."""
    import matplotlib
    from matplotlib.figure import Figure

    name = f"plot-{name}"
    with matplotlib.rc_context({**_STYLE, "svg.id": name, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        figure.patch.set_visible(False)
        draw(figure)
        figure.draw_without_rendering()  # now it has all its ticks
        for number, artist in enumerate(figure.findobj()):
            artist.set_gid(f"{name}-{number}")
        file = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(file, format="svg", metadata=no_metadata)
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]  # HTML has no place for the XML declaration and the DOCTYPE before it
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, variable)
    return Plot(svg, label)


def _logarithmic(axes, name: str, minor: tuple[int, ...] = ()) -> None:
    """Make an axis logarithmic with plain numbers, at powers of ten and ``minor`` multiples of them."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis = getattr(axes, f"{name}axis")
    axes.set(**{f"{name}scale": "log"})
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(LogLocator(subs=minor) if minor else NullLocator())
    axis.set_minor_formatter("{x:g}")


def _column(rows: list[dict], name: str) -> list[float]:
    return [float(row.get(name, float("nan"))) for row in rows]


def _some(values: np.ndarray) -> np.ndarray:
    """Return at most a few hundred of ``values`` (N, ...), evenly chosen."""
    if len(values) <= _MOST_POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, _MOST_POINTS).round().astype(int)]


def _thin(x, y) -> tuple[np.ndarray, np.ndarray]:
    return _some(np.asarray(x, float)), _some(np.asarray(y, float))
