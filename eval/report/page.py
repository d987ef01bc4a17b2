"""The report of a run as one HTML file. Knows what goes where; numbers, plots, questions and map are made by others.

Every text in it was written by strangers. The page is filled by a template that escapes all of them; the questions
travel as JSON in an element that is not run, and the script puts them in as text. A policy in the page itself lets
nothing else run and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.folder import write_text
from eval.lost import came_out
from eval.records import Judged, Prediction
from eval.report import figures, plots
from eval.report.questions import questions_data
from eval.report.text import script_json, shown
from retrieval.errors import MissingPackageError

if TYPE_CHECKING:
    from eval.report.corpus_map import CorpusMap

_TITLE_CHARS = 80
"""Of a point on the map."""


def write_report(
    path: Path,
    *,
    manifest: Mapping[str, Any],
    scores: Mapping[str, Any],
    judged: Sequence[Judged],
    predictions: Mapping[str, Prediction],
    map: CorpusMap | None = None,  # noqa: A002 - what it is called in the product
) -> None:
    """Write the page in one step. predictions: by example_id. Any key of `manifest` and `scores` may be missing.

    Raises MissingPackageError without jinja2 or matplotlib.
    """
    points = {chunk_id: index for index, chunk_id in enumerate(map.chunk_ids)} if map else {}
    data = questions_data(judged, predictions, points=points)
    style, script = _asset("report.css"), _asset("report.js")
    page = _template().render(
        policy=f"default-src 'none'; style-src {_allowed(style)}; script-src {_allowed(script)}; "
        "base-uri 'none'; form-action 'none'",
        style=style,
        script=script,
        title=_title(manifest),
        lead=_lead(manifest, judged),
        facts=_facts(manifest, judged),
        key_figures=figures.key_figures(scores),
        flow=figures.flow(judged),
        kept="right" if any(came_out(one) == "right" for one in judged) else "found",
        tables=figures.tables(scores),
        plots=_plots(scores.get("curves") or {}, judged, predictions),
        map=map,
        settings=figures.settings(manifest),
        data=script_json(data) if judged else "",
        map_data=script_json(_map_data(map)) if map else "",
    )
    write_text(path, page)


def _title(manifest: Mapping[str, Any]) -> str:
    return str(manifest.get("name") or _part(manifest, "dataset").get("name") or "Evaluation")


def _lead(manifest: Mapping[str, Any], judged: Sequence[Judged]) -> str:
    """What was asked of what, in a sentence."""
    dataset, index = _part(manifest, "dataset").get("name"), _part(manifest, "index")
    sentence = f"{len(judged):,} question{'s' * (len(judged) != 1)}" if judged else "Statements"
    sentence += f" of {dataset}" if dataset and dataset != manifest.get("name") else ""
    sizes = [f"{index[what]:,} {what}" for what in ("chunks", "documents") if isinstance(index.get(what), int)]
    if sizes:
        sentence += f", asked of {' in '.join(sizes)}"
    return f"{sentence}."


def _facts(manifest: Mapping[str, Any], judged: Sequence[Judged]) -> list[tuple[str, str]]:
    """The few facts of a run that a person looks for first."""
    seconds, pace = manifest.get("seconds"), manifest.get("questions_per_second")
    models = {str(role): _model(model) for role, model in _part(manifest, "models").items()}
    facts = [
        ("date", str(manifest.get("created_at") or "")[:16].replace("T", " ")),
        *models.items(),
        ("device", str(manifest.get("device") or _part(manifest, "profile").get("device") or "")),
        ("took", _duration(seconds) if isinstance(seconds, int | float) else ""),
        ("pace", f"{pace:.3g} questions a second" if isinstance(pace, int | float) and judged else ""),
    ]
    return [(name, value) for name, value in facts if value]


def _model(model: object) -> str:
    name = model.get("name") if isinstance(model, Mapping) else model
    return "" if name is None else str(name)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


def _part(manifest: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = manifest.get(name)
    return part if isinstance(part, Mapping) else {}


def _plots(
    curves: Mapping[str, Any], judged: Sequence[Judged], predictions: Mapping[str, Prediction]
) -> list[plots.Plot]:
    by_curve = {
        "recall_by_k": plots.recall_by_k,
        "risk_coverage": plots.risk_coverage,
        "reliability": plots.reliability,
    }
    asked = [(one.example.answerable, predictions.get(one.example.example_id)) for one in judged]
    scored = [(known, one.evidence) for known, one in asked if one is not None and one.evidence is not None]
    answerable, unanswerable, unknown = (
        [score for known, score in scored if known is wanted] for wanted in (True, False, None)
    )
    drawn = {name: draw(curves[name]) for name, draw in by_curve.items() if curves.get(name)}
    ordered = [
        drawn.get("recall_by_k"),
        plots.latency(one.timings_ms for _, one in asked if one is not None),
        plots.evidence(answerable, unanswerable, unknown),
        drawn.get("reliability"),
        drawn.get("risk_coverage"),
    ]
    return [plot for plot in ordered if plot]


def _map_data(map: CorpusMap) -> dict[str, Any]:  # noqa: A002 - as above
    names: dict[str, int] = {}
    return {
        "x": map.x,
        "y": map.y,
        "group": map.group,
        "groups": [shown(name) for name in map.groups],
        "others": map.others,
        "source": [names.setdefault(source, len(names)) for source in map.sources],
        "titles": [shown(title[:_TITLE_CHARS]) for title in map.titles],
        "sources": [shown(name) for name in names],
    }


# ---- the template ----------------------------------------------------------------------------------------------------


def _asset(name: str) -> str:
    return files("eval.report").joinpath(name).read_text(encoding="utf-8")


def _allowed(content: str) -> str:
    """What a content security policy calls this very text."""
    digest = hashlib.sha256(content.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
    except ImportError as error:
        raise MissingPackageError("a report needs jinja2; run: pip install 'cited-rag[eval]'") from error

    def visible(value: object) -> object:
        return value if isinstance(value, Markup) else shown(str(value))

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=visible, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_asset("report.html"))
