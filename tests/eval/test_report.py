"""The report of a run: what it says is what was measured, and no text of others is anything but text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvalError
from eval.records import Candidate, Choice, Example, Judged, Lost, Prediction
from eval.report import figures, plots
from eval.report.corpus_map import corpus_map
from eval.report.page import write_report
from eval.report.questions import CITED, GOLD, HOLDS, MOST_PASSAGE_CHARS, RELEVANT, UNSUPPORTED, questions_data
from eval.report.text import script_json, shown
from reader.records import Citation, Sentence
from retrieval.errors import MissingPackageError
from retrieval.records import Hit, Place

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "</style><style>*{display:none}</style>",
    '"><a href="javascript:alert(1)">click</a>',
    "{{ 7 * 7 }}{% raw %}${7*7}",
    "]]><!-- -->\u2028\u2029",
    "invoice\u202efdp.exe",
    "\ud800 \x00 \x1b[2J",
)


def hit(text, *, rank=1, start=0, chunk_id=None, source="a.md", **fields):
    identity = chunk_id or f"c{rank}"
    return Hit(rank, 1.0, identity, f"d-{source}", source, start, start + len(text), text, **fields)


def cites(one, start, end, *, marker=1, quote=None):
    said = one.text[start:end] if quote is None else quote
    return Citation(marker, one.chunk_id, one.doc_id, one.source, one.start + start, one.start + end, said, 1, None)


def data_of(prediction, *, example=None, **judged):
    judged.setdefault("values", {"answer.f1": 0.5})
    one = Judged(example or Example("q1", "Why?"), **judged)
    return questions_data([one], {prediction.example_id: prediction}, points={"c1": 7})


def pieces_of(prediction, **judged):
    return [one["text"] for one in data_of(prediction, **judged)["questions"][0]["hits"]]


def score(value, low=None, high=None, n=10):
    return {"value": value, "low": low, "high": high, "n": n}


# ---- texts -----------------------------------------------------------------------------------------------------------


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_json_in_a_script_element_is_the_same_json_and_cannot_end_it(value):
    def visible(one):
        if isinstance(one, str):
            return shown(one)
        if isinstance(one, list):
            return [visible(each) for each in one]
        return {shown(name): visible(each) for name, each in one.items()}

    written = script_json(visible(value))
    assert json.loads(written) == visible(value)
    assert not set("<>&\u2028\u2029") & set(written)
    written.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain\ttext\r\n中文 🙂 e\u0301 עברית", "plain\ttext\r\n中文 🙂 e\u0301 עברית"),
        ("invoice\u202efdp.exe", "invoice[U+202E]fdp.exe"),
        ("\x00\x1b[2J\x85", "[U+0000][U+001B][2J[U+0085]"),
        ("\ud83d alone", "[U+D83D] alone"),
        ("ignore\U000e0041", "ignore[U+E0041]"),
    ],
)
def test_what_nobody_would_see_is_shown(text, expected):
    assert shown(text) == expected


# ---- questions -------------------------------------------------------------------------------------------------------


@given(st.data())
def test_the_pieces_of_a_passage_are_the_passage_with_its_marks(data):
    text = data.draw(st.text("ab 中\n🙂\u0301", min_size=1, max_size=60)) * data.draw(st.integers(1, 60))
    found = hit(text, start=1_000)
    cuts = [sorted(data.draw(st.tuples(*[st.integers(0, len(text))] * 2))) for _ in range(data.draw(st.integers(0, 3)))]
    citations = tuple(cites(found, *cut, marker=n) for n, cut in enumerate(cuts, start=1))
    (pieces,) = pieces_of(Prediction("q1", "Why?", "a", hits=(found,), citations=citations))
    at, marked = 0, set()
    for piece in pieces:
        if isinstance(piece, int):
            assert piece > 0
            at += piece
            continue
        said, kind, _ = piece if isinstance(piece, tuple) else (piece, 0, ())
        assert text[at : at + len(said)] == said
        marked.update(range(at, at + len(said)) if kind == CITED else ())
        at += len(said)
    assert at == len(text)
    short = [cut for cut in cuts if cut[1] - cut[0] <= 1_200]
    assert {place for cut in short for place in range(*cut)} <= marked
    assert marked <= {place for cut in cuts for place in range(*cut)}


def test_a_citation_is_marked_where_it_stands_also_after_characters_that_browsers_count_twice():
    found = hit("🙂🙂 Paris is the capital.", start=50)
    (pieces,) = pieces_of(
        Prediction("q1", "Why?", "Paris [2]", hits=(found,), citations=(cites(found, 3, 8, marker=2),))
    )
    assert pieces == ["🙂🙂 ", ("Paris", CITED, (2,)), " is the capital."]


def test_gold_within_a_citation_is_marked_as_both_and_the_marker_stands_once_at_its_end():
    found = hit("It is Paris, of course. Not Rome.")
    prediction = Prediction("q1", "Why?", "Paris", hits=(found,), citations=(cites(found, 0, 23),))
    (pieces,) = pieces_of(prediction, example=Example("q1", "Why?", ("Paris",)), gold_passages=("c1",))
    both = CITED | GOLD
    assert pieces == [("It is ", CITED, ()), ("Paris", both, ()), (", of course.", CITED, (1,)), " Not Rome."]


def test_a_long_passage_is_cut_between_words_and_says_how_much_is_left_out():
    found = hit("word " * 400)  # 2,000 characters; the first 180 and on to the end of the word, 184
    (pieces,) = pieces_of(Prediction("q1", "Why?", "a", hits=(found,)))
    assert pieces == ["word " * 36 + "word", 1_816]


def test_a_cut_leaves_a_character_whole_as_people_see_it():
    family = "👨\u200d👩\u200d👧"
    (pieces,) = pieces_of(Prediction("q1", "Why?", "a", hits=(hit(family * 200),)))
    assert pieces[0] == family * (len(pieces[0]) // len(family))


def test_a_quote_that_is_not_where_its_citation_says_is_not_marked_but_listed():
    found = hit("Paris is the capital.")
    astray = cites(found, 0, 5, quote="Rome!")
    elsewhere = Citation(3, "c9", "d9", "b.md", 5, 9, "Oslo", 12, 4)
    row = data_of(Prediction("q1", "Why?", "a", hits=(found,), citations=(astray, elsewhere)))["questions"][0]
    assert row["hits"][0]["text"] == ["Paris is the capital."]
    assert row["quotes"] == [[1, 0, 1, None, "Rome!"], [3, 1, 12, 4, "Oslo"]]


def test_sentences_that_nothing_bears_out_are_marked():
    answer = "Oslo is big [1]. It is old [2]."
    sentences = (Sentence(0, 16, (1,), "supported", 0.9), Sentence(17, 31, (2,), "contradicted-number", 0.1))
    row = data_of(Prediction("q1", "Why?", answer, sentences=sentences))["questions"][0]
    assert row["a"] == ["Oslo is big [1]. ", ("It is old [2].", UNSUPPORTED, ())]


def test_the_trace_shows_the_rank_of_gold_at_each_stage():
    candidates = (
        Candidate("c1", ("a.md",), 1, 2, 1),
        Candidate("c2", ("b.md",), None, 7, 5),
        Candidate("c3", ("c.md", "b.md"), 4, None, 2, ("c2",)),  # the same text stands in b.md
    )
    prediction = Prediction("q1", "Why?", "a", candidates=candidates, read=("c3",))
    data = data_of(prediction, gold_passages=("c2",))
    named = [[data["sources"][source], *ranks] for source, *ranks in data["questions"][0]["trace"]]
    # source, by meaning, by words, fused, last, read
    assert named == [["b.md", None, 7, 5, 2, False], ["c.md", 4, None, 2, 3, True]]


def test_gold_is_by_passage_or_by_document_where_no_passage_is_known():
    hits = (hit("one", rank=1, source="a.md"), hit("two", rank=2, source="b.md"))
    twin = hit("three", rank=3, source="c.md", also_in=(Place("c8", "d8", "b.md", 0, 5),))
    prediction = Prediction("q1", "Why?", "a", hits=(*hits, twin), read=("c1", "c2"))
    example = Example("q1", "Why?", relevant={"b.md": 1})
    rows = data_of(prediction, example=example)["questions"][0]["hits"]
    assert [row.get("gold") for row in rows] == [None, RELEVANT, RELEVANT]
    assert [row.get("unread") for row in rows] == [None, None, True]
    assert [row.get("point") for row in rows] == [7, None, None]
    rows = data_of(prediction, example=example, gold_passages=("c1",))["questions"][0]["hits"]
    assert [row.get("gold") for row in rows] == [HOLDS, None, None]


def test_every_question_is_there_also_without_prediction():
    judged = [Judged(Example("q1", "One?"), {}), Judged(Example("q2", "Two?"), {}, Lost("failed", "boom"))]
    data = questions_data(judged, {"q2": Prediction("q2", "Two?", error="boom")}, points={})
    first, second = data["questions"]
    assert first["error"] == "there is no prediction for this question"
    assert (first.get("outcome"), second["outcome"]) == (None, "lost")
    assert (data["stages"][second["stage"]], second["why"], second["error"]) == ("failed", "boom", "boom")


def test_a_page_that_would_grow_too_large_leaves_passages_out_and_says_so():
    found = [hit("x" * 1_200, rank=rank) for rank in range(1, 21)]
    citations = tuple(cites(one, 0, 1_200) for one in found)
    fits = MOST_PASSAGE_CHARS // (20 * 1_200)
    judged = [Judged(Example(f"q{n}", "Why?"), {"answer.f1": 1.0}) for n in range(fits + 2)]
    same = Prediction("q", "Why?", "a", hits=tuple(found), citations=citations)
    rows = questions_data(judged, {one.example.example_id: same for one in judged}, points={})["questions"]
    assert ["hits" in row for row in rows] == [True] * fits + [False] * 2
    assert [row.get("cut", False) for row in rows] == [False] * fits + [True] * 2


# ---- numbers ---------------------------------------------------------------------------------------------------------


def lost(stage, count):
    return [Judged(Example(f"{stage}-{n}", "?"), {"answer.f1": 0.0}, Lost(stage, "why")) for n in range(count)]


def test_the_flow_counts_every_question_once_in_the_order_of_the_product():
    right = [Judged(Example(f"r{n}", "?"), {"answer.correct": 1.0}) for n in range(5)]
    unknown = [Judged(Example("u", "?"), {})]
    made = figures.flow([*lost("reader missed it", 2), *right, *lost("not retrieved", 3), *unknown])
    # 10 can be judged: 3 of 10 leave first, then 2 of 10
    assert [(loss.stage, loss.count, loss.share, loss.before, loss.after) for loss in made.losses] == [
        ("not retrieved", 3, "30.0%", 100, 70),
        ("reader missed it", 2, "20.0%", 70, 50),
    ]
    assert (made.total, made.kept, made.kept_share, made.unjudged) == (10, 5, "50.0%", 1)
    assert figures.flow([]) is None
    assert figures.flow(unknown).kept == 0


def test_tables_show_each_measure_with_its_interval_on_its_scale():
    scores = {
        "judge": {"correctness": score(3.0, 2.0, 4.0, 8), "verdicts": score(None, n=0)},
        "retrieval": {
            "success@1": score(0.5, 0.25, 0.75, 1200),
            "success@5": score(0.8),
            "passage_recall@10": score(1.0),
        },
        "abstention": {"accuracy": score(0.9)},
        "confusion": {"answerable": {"answered": 1000, "abstained": 2}, "unanswerable": {"failed": 1}},
    }
    retrieval, abstention, judge = figures.tables(scores)
    first, deeper, second = retrieval.rows
    assert deeper.meaning == ""  # it was explained above
    assert (first.value, first.interval, first.n, first.at, first.low_at, first.high_at) == (
        "50.0", "25.0 – 75.0", "1,200", 50, 25, 75,
    )  # fmt: skip
    assert first.meaning == "a relevant document is first"
    assert second.meaning == "of the relevant passages, those among the first 10"
    assert (second.value, second.interval, second.low_at) == ("100.0", "", None)
    marks, none = judge.rows  # from 1 to 5: 3 is in the middle
    assert (marks.value, marks.at, marks.low_at, marks.high_at) == ("3.00", 50, 25, 75)
    assert (none.value, none.at, none.n) == ("–", None, "0")
    assert plain(abstention.more) == [
        ["questions", "answered", "abstained", "failed"],
        ["answerable", "1,000", "2", "0"],
        ["unanswerable", "0", "0", "1"],
    ]


def plain(tables):
    (table,) = tables
    return [[f"{text} {note}".strip() for text, note in row] for row in table]


def test_tables_set_simpler_rankings_and_kinds_beside():
    def beside(value, difference, low, high):
        return {**score(value), "above": {"difference": difference, "low": low, "high": high, "p": 0.5, "n": 10}}

    scores = {
        "retrieval": {"success@1": score(0.7)},
        "answer": {"correct": score(0.5)},
        "baselines": {
            "dense": {"success@1": beside(0.5, 0.2, 0.1, 0.3)},
            "bm25": {"success@1": beside(0.8, -0.1, -0.2, -0.05), "mrr@10": beside(0.6, 0.1, -0.1, 0.3)},
        },
        "kinds": {
            "中文": {"questions": 1200, "lost": 3, "correct": 0.25},
            "": {"questions": 2, "lost": 0, "correct": None},
        },
    }
    retrieval, answers = figures.tables(scores)
    assert plain(retrieval.more) == [
        ["beside simpler rankings", "this run", "dense", "bm25"],
        ["success@1", "70.0", "50.0 20.0 lower", "80.0 10.0 higher"],
        ["mrr@10", "–", "–", "60.0 about even"],
    ]
    assert plain(answers.more) == [
        ["kind", "questions", "lost", "correct"],
        ["中文", "1,200", "3", "25.0"],
        ["", "2", "0", "–"],
    ]
    del scores["kinds"][""]
    assert figures.tables(scores)[1].more == ()  # of one kind there is nothing to compare


def test_five_key_figures_the_best_known_first_in_the_order_of_the_product():
    scores = {
        "answer": {"similarity": score(0.1), "correct": score(0.2), "f1": score(None)},
        "retrieval": {name: score(0.5) for name in ("map@100", "ndcg@10", "success@1", "recall@5")},
    }
    names = [(row.section, row.name) for row in figures.key_figures(scores)]
    assert names == [
        ("Retrieval", "success@1"),
        ("Retrieval", "recall@5"),
        ("Retrieval", "ndcg@10"),
        ("Retrieval", "map@100"),
        ("Answers", "correct"),
    ]
    assert ("Answers", "f1") not in names  # it has no value
    assert figures.key_figures({}) == ()


def test_the_manifest_is_shown_whole():
    manifest = {"seed": 0, "commit": None, "models": {"reader": {"name": "x", "files": ["a", "b"]}}, "prompts": {}}
    assert figures.settings(manifest) == (
        ("run", (("seed", "0"), ("commit", "none"))),
        ("models", (("reader.name", "x"), ("reader.files", "a, b"))),
    )


# ---- plots -----------------------------------------------------------------------------------------------------------


def every_plot():
    return [
        plots.recall_by_k([[1, 0.6], [5, 0.8], [20, 0.9]]),
        plots.risk_coverage([[0.5, 0.1], [1.0, 0.3]]),
        plots.latency([{"search": 10.0, HOSTILE[1]: 20.0, "$x^": 1.0, "检索": 2.0, "total": 40.0}] * 3),
        plots.evidence([0.9, 0.8], [0.1], [0.5]),
        plots.reliability([[0.1, 0.2, 30], [0.9, 0.8, 10]]),
    ]


def test_plots_have_no_styles_no_colours_and_no_name_twice():
    drawn = every_plot()
    whole = "".join(plot.svg for plot in drawn)
    assert "style=" not in whole
    assert "<style" not in whole
    assert not re.search(r'(?:fill|stroke)="#', whole)
    names = re.findall(r'\bid="([^"]*)"', whole)
    assert len(names) == len(set(names))
    assert set(re.findall(r"#([\w-]+)", whole)) <= set(names)
    for plot in drawn:
        assert f'role="img" aria-label="{plot.title}. ' in plot.svg
    assert whole == "".join(plot.svg for plot in every_plot())  # the same again, to the byte


def test_a_stage_by_any_name_is_only_a_name():
    svg = every_plot()[2].svg
    assert "<img" not in svg
    assert "</script>" not in svg
    assert "$x^" in svg
    assert r"\u68c0\u7d22" in svg


def test_what_plots_say():
    recall, risk, latency, evidence, reliability = (plot.reading for plot in every_plot())
    assert recall == "60.0% of what is relevant is found by the first hit, 90.0% by the first 20 hits."
    assert risk == "Of the 50% of questions it is surest of, 10.0% are answered wrong; of 100%, 30.0%."
    assert latency.startswith("Half of the time a question takes less than 40 ms, 95% of the time less than 40 ms")
    assert evidence == "A question with an answer has more evidence than one without in 100.0% of all pairs."
    # |.1 - .2| for 30 and |.9 - .8| for 10: .1 on average
    assert reliability == "On average the evidence is 10.0 points off the share of questions that have an answer."


@given(*[st.lists(st.integers(0, 5).map(float), min_size=1, max_size=9)] * 2)
def test_share_of_pairs_is_that_of_counting_all_of_them(first, second):
    pairs = [(a > b) + (a == b) / 2 for a in first for b in second]
    assert plots._share_above(first, second) == pytest.approx(sum(pairs) / len(pairs))


def test_nothing_timed_and_no_evidence_is_no_plot():
    assert plots.latency([{}, {}]) is None
    assert plots.evidence([], [], []) is None
    assert "axes" not in plots.latency([{"search": 0.0}]).svg  # nothing to take a logarithm of


# ---- the page --------------------------------------------------------------------------------------------------------


class _Page(HTMLParser):
    """Elements with their attributes, and what scripts and styles hold."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.raw, self.text = [], {}, []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        tag, attributes = self.elements[-1] if self.elements else ("", {})
        if tag in ("script", "style") and data.strip():
            self.raw.setdefault(attributes.get("id", tag), data)
        self.text.append(data)


def hostile_run():
    texts = " ".join(HOSTILE)
    found = hit(texts, source=HOSTILE[1], heading=HOSTILE[:2])
    example = Example(
        HOSTILE[0], texts, HOSTILE, (HOSTILE,), HOSTILE, {HOSTILE[1]: 1, "x": 1}, kind=HOSTILE[4],
        choices=(Choice(HOSTILE[0], correct=True),), answerable=True,
    )  # fmt: skip
    prediction = Prediction(
        HOSTILE[0], texts, texts, False, None, 0.5, citations=(cites(found, 0, 20),), hits=(found,),
        candidates=(Candidate("c1", (HOSTILE[1],), 1, 1, 1),), read=("c1",), timings_ms={HOSTILE[1]: 1.0},
    )  # fmt: skip
    judged = Judged(example, {f"answer.{HOSTILE[1]}": 1.0}, Lost("citation wrong", texts), ("c1",), (HOSTILE[1],))
    manifest = {"name": texts, HOSTILE[1]: {HOSTILE[0]: HOSTILE[3]}, "models": {HOSTILE[1]: HOSTILE[1]}}
    scores = {"answer": {HOSTILE[1]: score(0.5, 0.4, 0.6)}, "confusion": {HOSTILE[1]: {HOSTILE[1]: 1}}}
    return {
        "manifest": manifest,
        "scores": scores,
        "judged": [judged],
        "predictions": {HOSTILE[0]: prediction},
        "map": corpus_map(
            np.eye(3, dtype=np.float32), ["c1", "c2", "c3"], sources=[HOSTILE[1]] * 3, titles=HOSTILE[:3], seed=0
        ),
    }


def test_texts_of_others_add_no_element_and_nothing_may_run_but_the_script_of_the_page(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, **hostile_run())
    html = path.read_text(encoding="utf-8")
    page = _Page(html)
    scripts = [attributes for tag, attributes in page.elements if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "data"}, {"type": "application/json", "id": "map-data"}, {}]
    assert [tag for tag, _ in page.elements if tag in ("style", "img", "iframe", "link", "object", "base")] == ["style"]
    (policy,) = [one["content"] for tag, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    for kind in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(page.raw[kind].encode("utf-8")).digest()).decode("ascii")
        assert f"{kind}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for tag, attributes in page.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("style", "src", "srcset", "action")
        ]
        assert attributes.get("href", "#").startswith("#"), tag
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", html)
    assert "{{ 7 * 7 }}" in "".join(page.text)
    data = json.loads(page.raw["data"])
    assert data["questions"][0]["id"] == HOSTILE[0]
    assert data["sources"][0] == HOSTILE[1]


def test_a_page_has_the_sections_that_there_is_data_for_and_is_the_same_again(tmp_path):
    path = tmp_path / "报告.html"

    def sections(**run):
        write_report(path, **{"manifest": {}, "scores": {}, "judged": [], "predictions": {}, "map": None, **run})
        return [one["id"] for tag, one in _Page(path.read_text(encoding="utf-8")).elements if tag == "section"]

    assert sections() == []
    assert sections(manifest={"seed": 1}, scores={"citations": {"precision": score(0.5)}}) == ["scores", "settings"]
    retrieval_only = {
        "judged": [Judged(Example("q1", "为什么？"), {"retrieval.success@1": 1.0})],
        "predictions": {"q1": Prediction("q1", "为什么？", timings_ms={"search": 1.5})},
    }
    assert sections(**retrieval_only) == ["lost", "plots", "questions"]
    assert "为什么？" in path.read_text(encoding="utf-8")
    assert sections(**hostile_run()) == ["lost", "scores", "plots", "questions", "map", "settings"]
    before = path.read_bytes()
    sections(**hostile_run())
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_head_says_what_was_asked_of_what(tmp_path):
    manifest = {
        "name": "nightly", "dataset": {"name": "手册"}, "index": {"documents": 1200, "chunks": 3400}, "seconds": 125.2,
        "created_at": "2026-01-02T03:04:05+00:00", "models": {"reader": {"name": "zephyr", "revision": "1"}},
        "questions_per_second": 6.1234, "device": "cpu",
    }  # fmt: skip
    judged = [Judged(Example(f"q{n}", "?"), {}) for n in range(2)]
    write_report(tmp_path / "r.html", manifest=manifest, scores={}, judged=judged, predictions={})
    said = " ".join(" ".join(_Page((tmp_path / "r.html").read_text(encoding="utf-8")).text).split())
    assert "2 questions of 手册, asked of 3,400 chunks in 1,200 documents." in said
    for fact in ("2026-01-02 03:04", "zephyr", "cpu", "2 min 5 s", "6.12 questions a second"):
        assert fact in said


@pytest.mark.parametrize(("package", "extra"), [("jinja2", "eval"), ("matplotlib", "eval"), ("openTSNE", "map")])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package, extra, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    run = {"manifest": {}, "scores": {"curves": {"recall_by_k": [[1, 0.5]]}}, "judged": [], "predictions": {}}
    makes = (lambda: mapped(np.eye(9, dtype=np.float32))) if extra == "map" else lambda: write_report(path, **run)
    path = tmp_path / "r.html"
    with pytest.raises(MissingPackageError, match=re.escape(f"pip install 'cited-rag[{extra}]'")):
        makes()
    assert not list(tmp_path.iterdir())


# ---- the map ---------------------------------------------------------------------------------------------------------


def mapped(vectors, *, sources=None, seed=0, **options):
    names = [f"c{n}" for n in range(len(vectors))]
    return corpus_map(vectors, names, sources=sources or names, titles=names, seed=seed, **options)


def test_what_is_alike_lies_together_and_the_same_seed_gives_the_same_map():
    random = np.random.default_rng(0)
    centres = np.eye(3, 16).repeat(15, axis=0)
    vectors = (centres + 0.1 * random.standard_normal((45, 16))).astype(np.float32)
    made = mapped(vectors)
    places = np.column_stack([made.x, made.y]).astype(float)
    middles = places.reshape(3, 15, 2).mean(axis=1)
    nearest = np.linalg.norm(places[:, None] - middles[None], axis=2).argmin(axis=1)
    assert nearest.tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert (min(made.x + made.y), max(made.x + made.y)) == (0, 10_000)
    assert mapped(vectors) == made


def test_of_too_many_passages_a_sample_is_drawn_that_holds_what_was_found():
    vectors = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    kept = [f"c{n}" for n in range(150, 170)]
    made = mapped(vectors, keep=kept, most=40)
    assert len(made.chunk_ids) == 40
    assert made.passages == 200
    assert set(kept) < set(made.chunk_ids)
    assert list(made.chunk_ids) == sorted(made.chunk_ids, key=lambda name: int(name[1:]))


@pytest.mark.parametrize(
    ("sources", "groups", "group"),
    [
        (["a/1.md", "b/2.md", "a/3.md"], ("a", "b"), (0, 1, 0)),
        (["r/a/1.md", "r/b/2.md", "r/b/3.md"], ("r/b", "r/a"), (1, 0, 0)),  # all lie below r: one level deeper
        (["x.md", "x.md", "w.md"], ("x.md", "w.md"), (0, 0, 1)),
        (["x.md"], ("x.md",), (0,)),
        ([*"iabcdefgh", "i"], (*"iabcdefg", "all others"), (0, 1, 2, 3, 4, 5, 6, 7, 8, 0)),
    ],
)
def test_colours_are_folders_or_documents_the_largest_first(sources, groups, group):
    made = mapped(np.eye(len(sources), dtype=np.float32), sources=sources)
    assert (made.groups, made.group) == (groups, group)
    assert made.others == ("all others" in groups)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 40])
@pytest.mark.parametrize("kind", ["same", "zero", "two"])
def test_passages_that_are_all_alike_are_drawn_all_the_same(count, kind):
    vectors = np.full((count, 4), 0.0 if kind == "zero" else 0.5, dtype=np.float32)
    if kind == "two":
        vectors[::2, 0] = -0.5
    made = mapped(vectors)
    assert len(made.x) == len(made.y) == count
    assert all(0 <= place <= 10_000 for place in made.x + made.y)


def test_a_map_of_nothing_or_of_lists_that_do_not_match_is_refused():
    with pytest.raises(EvalError, match="ingest documents first"):
        mapped(np.zeros((0, 4), dtype=np.float32))
    with pytest.raises(EvalError, match="3 vectors, 2 ids, 3 sources, 3 titles"):
        corpus_map(np.eye(3, dtype=np.float32), ["a", "b"], sources=["s"] * 3, titles=["t"] * 3, seed=0)
