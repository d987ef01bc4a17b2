"""Plots of an evaluation as SVG whose colours the page decides. Knows numbers; never a question, a text or a file.

The one door to matplotlib. The page forbids style attributes and has two colour schemes, so what matplotlib writes is
rewritten: each colour it was told to draw in becomes a class, and each other style an attribute.
"""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retrieval.errors import MissingPackageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Points = Sequence[Sequence[float]]

_INK, _MUTED, _GRID, _ONE, _TWO = "#010101", "#020202", "#030303", "#040404", "#050505"
_CLASSES = {_INK: "ink", _MUTED: "muted", _GRID: "grid", _ONE: "one", _TWO: "two"}
_DROPPED_STYLES = {"font-family", "image-rendering"}
_INCHES = (4.8, 3.1)
_BINS = 20
_MOST_STAGES = 12
_SETTINGS: Mapping[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.color": _GRID,
    "ytick.labelcolor": _MUTED,
    "ytick.left": False,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot: `svg` is an element for the page; `reading` is what a person should take from it, in one sentence."""

    name: str
    title: str
    reading: str
    svg: str


def recall_by_k(points: Points) -> Plot:
    """Recall among the first k hits, [k, recall] each."""
    k, recall = _columns(points, 2)

    def draw(axes: Axes) -> None:
        axes.plot(k, recall, color=_ONE, marker="o", markersize=4)
        if len(k) > 1 and k[-1] / k[0] >= 10:
            axes.set_xscale("log")
        axes.set_xticks(k, [f"{one:g}" for one in k])
        axes.minorticks_off()
        _share_axis(axes.yaxis, min([*recall, 0.9]))
        axes.set(xlabel="first hits, k", ylabel="recall")

    reading = f"{_percent(recall[0])} of what is relevant is found by {_hits(k[0])}"
    if len(k) > 1:
        reading += f", {_percent(recall[-1])} by {_hits(k[-1])}"
    return _plot("recall", "Recall by number of hits", f"{reading}.", draw)


def risk_coverage(points: Points) -> Plot:
    """Share of wrong answers among the questions it is surest of, [coverage, risk] each."""
    coverage, risk = _columns(sorted(points, key=lambda point: point[0]), 2)

    def draw(axes: Axes) -> None:
        axes.plot(coverage, risk, color=_ONE)
        axes.fill_between(coverage, risk, color=_ONE, alpha=0.12, linewidth=0)
        _share_axis(axes.xaxis, 0)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, max([*risk, 0.05]) * 1.08)
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        axes.set(xlabel="share of questions answered, surest first", ylabel="wrong among them")

    half = min(zip(coverage, risk, strict=True), key=lambda point: abs(point[0] - 0.5))
    reading = (
        f"Of the {_percent(half[0], digits=0)} of questions it is surest of, {_percent(half[1])} are answered wrong; "
        f"of {_percent(coverage[-1], digits=0)}, {_percent(risk[-1])}."
    )
    return _plot("risk", "Risk and coverage", reading, draw)


def latency(timings: Iterable[Mapping[str, float]]) -> Plot | None:
    """Milliseconds by stage, over all questions; None where nothing was timed."""
    import numpy as np

    times: dict[str, list[float]] = defaultdict(list)
    for one in timings:
        for stage, milliseconds in one.items():
            times[stage].append(milliseconds)
    stages = sorted(times, key=lambda stage: stage == "total")[-_MOST_STAGES:]  # stays in order, but for the total
    if not stages:
        return None
    shares = {stage: np.percentile(times[stage], (5, 25, 50, 75, 95)) for stage in stages}

    def draw(axes: Axes) -> None:
        rows = list(range(len(stages)))[::-1]
        for row, (low, first, middle, third, high) in zip(rows, shares.values(), strict=True):
            axes.plot([low, high], [row, row], color=_ONE, linewidth=1.2)
            axes.plot([first, third], [row, row], color=_ONE, linewidth=6, solid_capstyle="butt", alpha=0.45)
            axes.plot([middle], [row], color=_ONE, marker="o", markersize=5)
        axes.set_yticks(rows, [stage.encode("ascii", "backslashreplace").decode()[:20] for stage in stages])
        positive = min((share[0] for share in shares.values()), default=0) > 0
        axes.set_xscale("log" if positive else "linear")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.minorticks_off()
        axes.grid(visible=False, axis="y")
        axes.set(xlabel="milliseconds")

    slowest = max((stage for stage in stages if stage != "total"), key=lambda stage: shares[stage][2], default="total")
    whole = shares.get("total", shares[slowest])
    what = "a question" if "total" in shares else f"the stage {slowest!r}"
    reading = f"Half of the time {what} takes less than {_ms(whole[2])}, 95% of the time less than {_ms(whole[4])}"
    if "total" in shares and slowest != "total":
        reading += f"; the stage that takes longest is {slowest!r} ({_ms(shares[slowest][2])})"
    marks = "The dot is the median, the band holds half of the questions, the line 90% of them."
    return _plot("latency", "Time by stage", f"{reading}. {marks}", draw)


def evidence(answerable: Sequence[float], unanswerable: Sequence[float], unknown: Sequence[float]) -> Plot | None:
    """How the evidence score is spread over questions with and without an answer; None where there is none."""
    import numpy as np

    bins = np.linspace(0, 1, _BINS + 1)
    series = (("answerable", answerable, _ONE), ("unanswerable", unanswerable, _TWO), ("not known", unknown, _MUTED))
    present = [one for one in series if one[1]]
    if not present:
        return None

    def draw(axes: Axes) -> None:
        for name, scores, colour in present:
            shares, _ = np.histogram(np.clip(scores, 0, 1), bins=bins, weights=np.full(len(scores), 1 / len(scores)))
            axes.stairs(shares, bins, fill=True, color=colour, alpha=0.22)
            axes.stairs(shares, bins, color=colour, linewidth=1.8, label=f"{name} ({len(scores):,})")
        axes.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.14))
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
        _share_axis(axes.xaxis, 0)
        axes.set(xlabel="evidence", ylabel="share of questions")

    if answerable and unanswerable:
        share = _share_above(answerable, unanswerable)
        reading = f"A question with an answer has more evidence than one without in {_percent(share)} of all pairs."
    else:
        name, scores, _ = present[0]
        reading = f"Half of the questions ({name}) have evidence above {float(np.median(scores)):.2f}."
    return _plot("evidence", "Evidence", reading, draw)


def reliability(points: Points) -> Plot:
    """Whether the evidence means what it says: [mean evidence, share answerable, n] each."""
    means, shares, counts = _columns(sorted(points, key=lambda point: point[0]), 3)
    total = sum(counts) or 1

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(means, shares, color=_ONE, linewidth=1.2)
        axes.scatter(means, shares, s=[16 + 240 * count / total for count in counts], color=_ONE, linewidths=0)
        _share_axis(axes.xaxis, 0)
        _share_axis(axes.yaxis, 0)
        axes.set_xlim(-0.04, 1.04)
        axes.set_ylim(-0.04, 1.04)
        axes.set(xlabel="mean evidence", ylabel="share with an answer")

    off = sum(abs(mean - share) * count for mean, share, count in zip(means, shares, counts, strict=True)) / total
    reading = f"On average the evidence is {100 * off:.1f} points off the share of questions that have an answer."
    return _plot("reliability", "Reliability of the evidence", reading, draw)


# ---- what they share -------------------------------------------------------------------------------------------------


def _columns(points: Points, width: int) -> list[list[float]]:
    return [[float(point[column]) for point in points] for column in range(width)]


def _share_above(first: Sequence[float], second: Sequence[float]) -> float:
    """P(one of the first > one of the second), ties count half: the area under the ROC curve."""
    import numpy as np

    ordered = np.sort(np.asarray(second))
    below = np.searchsorted(ordered, first, side="left") + np.searchsorted(ordered, first, side="right")
    return float(below.mean() / 2 / len(ordered))


def _percent(share: float, *, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _ms(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.1f} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"


def _hits(k: float) -> str:
    return "the first hit" if k == 1 else f"the first {k:g} hits"


def _share_axis(axis: Any, least: float) -> None:
    """An axis of shares, from 0 or, where all is above it, from a lower half or so; 1 is always on it."""
    step = 0.25 if least < 0.5 else 0.1
    first = 0.0 if least < 0.5 else int(least / step) * step
    ticks = [first + step * index for index in range(round((1 - first) / step) + 1)]
    axis.set_ticks(ticks)
    axis.set_major_formatter(lambda value, _: _percent(value, digits=0))


def _plot(name: str, title: str, reading: str, draw: Callable[[Axes], None]) -> Plot:
    try:
        import matplotlib as mpl
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError(
            "the plots of a report need matplotlib; run: pip install 'cited-rag[eval]'"
        ) from error
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=_INCHES, layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_visible(False)
        axes = figure.add_subplot()
        axes.patch.set_visible(False)
        draw(axes)
        return Plot(name, title, reading, _restyled(_svg(figure), title=title, description=reading))


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return buffer.getvalue()


def _restyled(svg: bytes, *, title: str, description: str) -> str:
    """The drawing without style attributes, sizes and names, but with a title and a description for screen readers."""
    from lxml import etree

    parser = etree.XMLParser(remove_comments=True, resolve_entities=False, no_network=True)
    root = etree.fromstring(svg, parser)
    for node in [*root.iter("{*}metadata"), *root.iter("{*}style")]:
        node.getparent().remove(node)
    used = set(re.findall(rb"#([A-Za-z][\w-]*)", svg))
    for node in root.iter():
        for key, value in _styles(node.attrib.pop("style", "")):
            node.set(key, value)
        if node.get("id", "").encode() not in used:
            node.attrib.pop("id", None)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", f"{title}. {description}")
    etree.cleanup_namespaces(root)
    return str(etree.tostring(root, encoding="unicode"))


def _styles(style: str) -> Iterable[tuple[str, str]]:
    """Attributes for the declarations of a style attribute; colours become classes such as `fill-one stroke-grid`."""
    classes = []
    for declaration in filter(None, map(str.strip, style.split(";"))):
        name, _, value = (part.strip() for part in declaration.partition(":"))
        if value in _CLASSES:
            classes.append(f"{name}-{_CLASSES[value]}")
        elif name not in _DROPPED_STYLES:
            yield name, value
    if classes:
        yield "class", " ".join(classes)
