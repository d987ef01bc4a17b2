"""The program as a user has it: real files, the real encoder, a real process for every kind of command.

What is said a second time, or goes wrong, is asked of the same program within this process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

REPOSITORY = Path(__file__).resolve().parents[2]
Json = dict[str, object]

UTF8 = "Notes\n\nThe harbour master keeps the brass key to the lighthouse.\nNobody else has a copy of it.\n"
CRLF = "# Ovens\r\n\r\nTurn it on.\r\n\r\n## Cleaning\r\n\r\nThe oven is cleaned with vinegar every Thursday.\r\n"
BOM = "The archive of the botanical society opens at nine in the morning.\n"
CHINESE = "# 图书馆\n\n欢迎光临。\n\n## 开放时间\n\n图书馆每周三下午关门。借书期限是三十天。\n"
EMOJI = "# Bees 🐝🐝\n\n👩🏽‍🌾🇨🇭 Welcome 🎉!\n\nThe beekeeper wears a purple hat when she collects the honey.\n"
CODE = 'def frobnicate(gauge):\n    """Return the pressure of the boiler in pascals."""\n    return gauge * 6894.757\n'
PAGES = (
    "Breakfast is served in the east wing.",
    "The mirror of the telescope is coated with aluminium. This coating of the mirror is renewed every May.",
)


def make_pdf(*pages: str) -> bytes:
    """A PDF with one line of Helvetica a page, object by object."""
    kids = b" ".join(b"%d 0 R" % (4 + 2 * number) for number in range(len(pages)))
    objects = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(pages), kids),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        stream = b"BT /F1 12 Tf 20 700 Td (%s) Tj ET" % text.encode("ascii")
        where = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>/Contents %d 0 R>>"
        objects += [where % (5 + 2 * number), b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream)]
    data, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        offsets.append(len(data))
        data += b"%d 0 obj%s endobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    tail = b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (size, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s%s" % (size, table, tail)


Done = subprocess.CompletedProcess[str] | Result


@dataclass(frozen=True)
class Rag:
    """Runs the program in a folder and a home of its own."""

    cwd: Path

    def _run(self, *arguments: str, stdin: str) -> tuple[int, Done]:
        raise NotImplementedError

    def __call__(self, *arguments: str, stdin: str = "", code: int = 0) -> Done:
        found, done = self._run(*arguments, stdin=stdin)
        assert found == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, stdin: str = "", code: int = 0) -> list[Json]:
        """One object a line."""
        return [json.loads(line) for line in self(*arguments, stdin=stdin, code=code).stdout.split("\n") if line]


@dataclass(frozen=True)
class Within(Rag):
    """In this process."""

    run: Callable[..., Result]

    def _run(self, *arguments: str, stdin: str) -> tuple[int, Done]:
        done = self.run(self.cwd, *arguments, stdin=stdin)
        return done.exit_code, done


@dataclass(frozen=True)
class Started(Rag):
    """In a process of its own."""

    cache: Path

    @property
    def environ(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.cwd),
            "PYTHONPATH": str(REPOSITORY),
            "RAG_CACHE": str(self.cache),
            "LC_ALL": "C.UTF-8",
            "COLUMNS": "100",
        }

    def _run(self, *arguments: str, stdin: str) -> tuple[int, Done]:
        done = subprocess.run(
            [sys.executable, "-m", "app", *arguments], cwd=self.cwd, env=self.environ, input=stdin, encoding="utf-8",
            capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        return done.returncode, done


@pytest.fixture
def within(rag_within, tmp_path) -> Within:
    """In a new folder."""
    return Within(tmp_path, rag_within)


@pytest.fixture(scope="session")
def small(tmp_path_factory, model_cache) -> Started:
    """An index `ix` of a handful of files in `docs`; the tests leave it as it is."""
    folder = tmp_path_factory.mktemp("small")
    docs = folder / "docs"
    (docs / "deep" / "er").mkdir(parents=True)
    for name, data in {
        "notes.txt": UTF8.encode(),
        "oven.md": CRLF.encode(),
        "deep/archive.txt": b"\xef\xbb\xbf" + BOM.encode(),
        "deep/er/图书馆.md": CHINESE.encode(),
        "bees.md": EMOJI.encode(),
        "boiler.py": CODE.encode(),
        "telescope.pdf": make_pdf(*PAGES),
        "copy of notes.txt": UTF8.encode(),
        "broken.bin": b"\x00\x01\x02\xff" * 50,
    }.items():
        (docs / name).write_bytes(data)
    rag = Started(folder, model_cache)
    (report,) = rag.json("ingest", "docs", "--index", "ix", "--json")
    assert len(report["added"]) == 8
    assert [failure["source"] for failure in report["failures"]] == ["broken.bin"]
    return rag


@pytest.fixture
def small_within(small, rag_within) -> Within:
    """The same index."""
    return Within(small.cwd, rag_within)


def check_hit(hit: Json, *, text: bool) -> None:
    types = {
        "rank": int, "score": float, "chunk_id": str, "doc_id": str, "source": str, "start": int, "end": int,
        "heading": list, "page": (int, type(None)),
    }  # fmt: skip
    for key, kind in types.items():
        assert isinstance(hit[key], kind), key
    assert ("text" in hit) == text
    assert all(isinstance(title, str) for title in hit["heading"])
    assert 0 <= hit["start"] < hit["end"]
    assert not hit["source"].startswith("/")


def check_contract(answer: Json) -> None:
    assert isinstance(answer["question"], str)
    assert isinstance(answer["answer"], str)
    assert answer["answer"]
    assert isinstance(answer["abstained"], bool)
    assert answer["abstained"] == (not answer["citations"])
    assert {"name", "model"} <= set(answer["reader"])
    assert answer["prompt"] is None or {"name", "sha256", "tokens", "dropped"} <= set(answer["prompt"])
    assert answer["timings_ms"]["total"] > 0
    assert all(isinstance(value, int | float) for value in answer["timings_ms"].values())
    assert [hit["rank"] for hit in answer["hits"]] == list(range(1, len(answer["hits"]) + 1))
    hits = {}
    for hit in answer["hits"]:
        check_hit(hit, text=False)
        hits[hit["chunk_id"]] = hit
    for number, citation in enumerate(answer["citations"], start=1):
        types = {
            "chunk_id": str, "doc_id": str, "source": str, "start": int, "end": int, "quote": str, "line": int,
            "page": (int, type(None)), "heading": list,
        }  # fmt: skip
        for key, kind in types.items():
            assert isinstance(citation[key], kind), key
        assert citation["marker"] == number
        assert f"{citation['quote']} [{number}]" in answer["answer"]
        assert len(citation["quote"]) == citation["end"] - citation["start"]
        hit = hits[citation["chunk_id"]]
        assert (hit["doc_id"], hit["source"]) == (citation["doc_id"], citation["source"])
        assert hit["start"] <= citation["start"] < citation["end"] <= hit["end"]
        assert citation["line"] >= 1


def text_of(rag: Rag, source: str) -> str:
    """What a text file holds, decoded and otherwise unchanged."""
    return (rag.cwd / "docs" / source).read_bytes().decode("utf-8")


PLACES = {
    question: place
    for question, *place in [
        ("Who keeps the brass key to the lighthouse?", "notes.txt", "The harbour master keeps the brass key", 3, None),
        ("How is the oven cleaned?", "oven.md", "cleaned with vinegar every Thursday", 7, ["Ovens", "Cleaning"]),
        ("When does the archive of the botanical society open?", "deep/archive.txt", "opens at nine", 1, None),
        ("图书馆什么时候关门？", "deep/er/图书馆.md", "图书馆每周三下午关门。", 7, ["图书馆", "开放时间"]),
        ("What does the beekeeper wear?", "bees.md", "wears a purple hat", 5, ["Bees 🐝🐝"]),
        ("Which function returns the pressure of the boiler?", "boiler.py", "pressure of the boiler", None, None),
    ]
}
FRANCE = "What is the capital of France?"


@pytest.fixture(scope="session")
def answers(small) -> dict[str, Json]:
    """Of one process, to questions that come a line each, one of them blank."""
    asked = [*PLACES, FRANCE]
    lines = "\n".join([asked[0], "", *asked[1:]])
    given = small.json("ask", "--questions", "-", "--index", "ix", "--json", stdin=lines)
    assert [answer["question"] for answer in given] == asked
    return dict(zip(asked, given, strict=True))


@pytest.mark.parametrize("question", PLACES)
def test_an_answer_quotes_the_very_characters_of_the_file(small, answers, question):
    source, quoted, line, heading = PLACES[question]
    answer = answers[question]
    check_contract(answer)
    assert not answer["abstained"]
    best = answer["citations"][0]
    assert best["source"] in {source, f"copy of {source}"}
    assert quoted in best["quote"]
    for citation in answer["citations"]:
        if not citation["source"].endswith(".pdf"):
            text = text_of(small, citation["source"])
            assert citation["quote"] == text[citation["start"] : citation["end"]]
            before = text[: citation["start"]].replace("\r\n", "\n")
            assert citation["line"] == 1 + before.count("\n")
    if line is not None:
        assert line == best["line"] + best["quote"][: best["quote"].index(quoted)].count("\n")
    if heading is not None:
        assert best["heading"] == heading
    assert best["page"] is None


def test_a_citation_into_a_pdf_names_the_page(small):
    (answer,) = small.json("ask", "What is the mirror of the telescope coated with?", "--index", "ix", "--json")
    check_contract(answer)
    best = answer["citations"][0]
    assert (best["source"], best["page"]) == ("telescope.pdf", 2)
    assert "coated with aluminium" in best["quote"]


def test_search_gives_the_hits_with_their_texts(small):
    (found,) = small.json("search", "the brass key", "--index", "ix", "--json", "--top-k", "3")
    assert found["question"] == "the brass key"
    assert len(found["hits"]) == 3
    for hit in found["hits"]:
        check_hit(hit, text=True)
        if not hit["source"].endswith(".pdf"):
            assert hit["text"] == text_of(small, hit["source"])[hit["start"] : hit["end"]]
    best = found["hits"][0]
    assert {best["source"], *(place["source"] for place in best["also_in"])} == {"notes.txt", "copy of notes.txt"}
    scores = [hit["score"] for hit in found["hits"]]
    assert scores == sorted(scores, reverse=True)


def test_what_the_documents_do_not_say_is_not_answered(answers):
    check_contract(answers[FRANCE])
    assert answers[FRANCE]["abstained"]


def test_for_people(small, small_within):
    shown = small("ask", "How is the oven cleaned?", "--index", "ix", "--explain")
    assert "The oven is cleaned with vinegar every Thursday." in shown.stdout
    assert re.search(r"^\[1\] oven\.md:[57]  Ovens > Cleaning$", shown.stdout, re.MULTILINE)
    assert "evidence" in shown.stdout
    assert re.search(r"^\[1\]  cleaned +cleaned +0\.\d\d +0\.\d\d", shown.stdout, re.MULTILINE)
    abstained = small_within("ask", FRANCE, "--index", "ix")
    assert "do not seem to hold an answer" in abstained.stdout


def test_what_is_in_the_index(small, small_within):
    (listed,) = small.json("index", "list", "--index", "ix", "--json")
    assert len(listed["documents"]) == 8
    assert {row["root"] for row in listed["documents"]} == {str((small.cwd / "docs").resolve())}
    (facts,) = small_within.json("index", "info", "--index", "ix", "--json")
    assert (facts["documents"], facts["generation"]) == (8, 1)
    assert facts["manifest"]["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert facts["token_bytes_per_chunk"] > 0
    assert [failure["source"] for failure in facts["failures"]] == ["broken.bin"]
    assert small_within.json("index", "verify", "--index", "ix", "--json") == [{"ok": True, "problems": []}]
    assert "the index is sound" in small_within("index", "verify", "--index", "ix").stdout
    assert "broken.bin" in small_within("index", "info", "--index", "ix").stdout
    assert "notes.txt" in small_within("index", "list", "--index", "ix").stdout


def test_errors_name_the_way_out(small, within, tmp_path):
    missing = Started(tmp_path, small.cache)("ask", "q", "--index", "nowhere", code=1)
    assert missing.stderr.splitlines()[-1].startswith("error: there is no index in ")
    assert "rag ingest PATH --index" in missing.stderr
    assert not (tmp_path / "nowhere").exists()
    assert "usage" in within("ask", code=2).stderr.lower()
    assert within("ask", " ", code=2).stdout == ""
    within("frobnicate", code=2)
    nothing = within("ingest", "no-such-folder", "--index", "ix", code=1)
    assert "cannot be found" in nothing.stdout
    assert "nothing could be ingested" in nothing.stderr
    (tmp_path / "empty").mkdir()
    assert "no files in this folder" in within("ingest", "empty", "--index", "ix", code=1).stdout
    assert not (tmp_path / "ix").exists()
    (tmp_path / "rag.toml").write_text("chunk_token = 3\n")
    assert "did you mean chunk_tokens?" in within("doctor", code=2).stderr


def test_other_settings_than_the_index_has(small, small_within):
    done = small("search", "x", "--index", "ix", "--encoder", "./no-model", code=1)
    assert "error: " in done.stderr
    (small.cwd / "other.toml").write_text("chunk_tokens = 100\n")
    refused = small_within("ingest", "docs", "--index", "ix", "--config", "other.toml", code=1)
    assert "max_tokens 512 (now 100)" in refused.stderr
    assert "--rebuild" in refused.stderr


@pytest.mark.usefixtures("little_common_text")
def test_delete_and_ingest_again(within, tmp_path):
    rag, docs = within, tmp_path / "docs"
    docs.mkdir()
    (docs / "a.txt").write_text("The ferry leaves from pier seven at dusk.\n")
    (docs / "b.txt").write_text("The museum of clocks has no windows at all.\n")
    rag("ingest", "docs", "--index", "ix")
    assert "nothing to embed" in rag("ingest", "docs", "--index", "ix").stdout
    assert rag("ingest", "docs", "--index", "ix", "--quiet").stderr == ""
    assert "deleted a.txt" in rag("delete", "a.txt", "--index", "ix").stdout
    assert "there is no document 'a.txt'" in rag("delete", "a.txt", "--index", "ix", code=1).stderr
    (answer,) = rag.json("ask", "Where does the ferry leave from?", "--index", "ix", "--json")
    assert all(hit["source"] == "b.txt" for hit in answer["hits"])
    (report,) = rag.json("ingest", "docs", "--index", "ix", "--json")
    assert report["added"] == ["a.txt"]
    (answer,) = rag.json("ask", "Where does the ferry leave from?", "--index", "ix", "--json")
    assert "pier seven" in answer["answer"]
    assert rag.json("index", "verify", "--index", "ix", "--json")[0]["ok"]


@pytest.mark.usefixtures("little_common_text")
def test_an_index_that_was_emptied_abstains(within, tmp_path):
    rag = within
    (tmp_path / "a.txt").write_text("The ferry leaves from pier seven at dusk.\n")
    rag("ingest", "a.txt", "--index", "ix")
    rag("delete", "a.txt", "--index", "ix")
    (answer,) = rag.json("ask", "Where does the ferry leave from?", "--index", "ix", "--json")
    assert (answer["abstained"], answer["hits"]) == (True, [])
    assert "nothing found" in rag("search", "ferry", "--index", "ix").stderr


def test_embed_does_not_depend_on_what_shares_the_batch(small, within, tmp_path):
    rag = within
    (alone,) = Started(tmp_path, small.cache).json("embed", "the ferry leaves at dusk")
    together = rag.json("embed", "x", "the ferry leaves at dusk", "a much longer text " * 40)
    assert together[1] == alone
    vector = np.array(alone["vector"])
    assert vector.shape == (384,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    (tmp_path / "in.txt").write_text("the ferry leaves at dusk\nthe museum has no windows\n")
    rag("embed", "--input", "in.txt", "--output", "out.npy")
    saved = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert (saved.shape, saved.dtype) == ((2, 384), np.float32)
    assert np.array_equal(saved[0], vector.astype(np.float32))
    rag("embed", "--input", "in.txt", "--output", "out.jsonl", "--tokens")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["the ferry leaves at dusk", "the museum has no windows"]
    assert np.array(rows[0]["vectors"]).shape == (5, 384)
    (cls,) = rag.json("embed", "the ferry leaves at dusk", "--pooling", "cls")
    assert not np.allclose(cls["vector"], vector)


def test_doctor_and_version(small):
    (record,) = small.json("doctor", "--index", "ix", "--device", "cpu", "--json")
    assert record["ready"] is True
    checks = {check["name"]: check for check in record["checks"]}
    assert {"profile", "Python", "torch", "CUDA", "FAISS", "OpenVINO", "bitsandbytes", "index"} <= set(checks)
    assert "8 documents" in checks["index"]["found"]
    assert all(set(check) == {"name", "state", "found", "fix"} for check in record["checks"])
    assert re.fullmatch(r"rag \d+\.\d+\.\d+\n", small("--version").stdout)


# ---- the sample corpus -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def sample(tmp_path_factory, model_cache) -> Started:
    """The Python language reference, in an index `ix`."""
    folder = tmp_path_factory.mktemp("sample")
    rag = Started(folder, model_cache)
    subprocess.run([sys.executable, "-m", "app.sample", "docs"], cwd=folder, env=rag.environ, check=True)
    (report,) = rag.json("ingest", "docs", "--index", "ix", "--json")
    assert report["failures"] == []
    return rag


ANSWERS = {
    "When is the else clause of a try statement executed?": 'The optional "else" clause is executed if',
    "Which numeric literals are there?": "There are three types of numeric literals",
    "What does break do inside a finally clause?": "clause is executed before really leaving the loop",
    "Which operator has the highest precedence?": "summarizes the operator precedence in Python",
    "What is a context manager?": "defines the runtime context to be established when executing a",
    "What type does true division of integers yield?": "Division of integers yields a float",
    "What does the yield expression do inside a function?": "definition to create a generator function",
}
UNANSWERABLE = (
    "What is the capital of France?",
    "Who won the football world cup in 2010?",
    "How do I bake sourdough bread?",
    "Who wrote Hamlet?",
)


def test_questions_about_python(sample):
    asked = "\n".join([*ANSWERS, *UNANSWERABLE])
    answers = sample.json("ask", "--questions", "-", "--index", "ix", "--json", stdin=asked)
    for answer in answers:
        check_contract(answer)
        for citation in answer["citations"]:
            text = text_of(sample, citation["source"])
            assert citation["quote"] == text[citation["start"] : citation["end"]]
    found = {answer["question"]: " ".join(answer["answer"].split()) for answer in answers}
    wrong = {question: found[question] for question, expected in ANSWERS.items() if expected not in found[question]}
    assert wrong == {}
    assert [answer["question"] for answer in answers if answer["abstained"]] == list(UNANSWERABLE)


def test_an_unchanged_sample_is_read_and_not_encoded(sample):
    (report,) = sample.json("ingest", "docs", "--index", "ix", "--json")
    assert (report["embedded"], report["unchanged"]) == (0, len(list((sample.cwd / "docs").glob("*.txt"))))


# A shell starts background jobs with Ctrl-C ignored, and a test run may be one.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from app.__main__ import main
main()
"""


def interrupted(rag: Started, *arguments: str, when: Callable[[str], bool]) -> tuple[int, str]:
    """Start the program, send it Ctrl-C when a line of its standard error says so; its exit code and that text."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *arguments], cwd=rag.cwd, env=rag.environ, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if when(line):
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=60)[1]
    return process.returncode, "".join(lines) + rest


def test_ctrl_c_keeps_what_is_complete(small, rag_within, tmp_path):
    """A second folder, added to an index: more than is encoded before the first line on progress comes."""
    shutil.copytree(small.cwd / "ix", tmp_path / "ix")
    (tmp_path / "more").mkdir()
    for number in range(400):
        text = "".join(f"Note {number}.{line}: the ferry carries {line} bicycles for free.\n" for line in range(40))
        (tmp_path / "more" / f"{number:03}.txt").write_text(text)
    code, errors = interrupted(
        Started(tmp_path, small.cache), "ingest", "more", "--index", "ix",
        when=lambda line: bool(re.match(r"reading and encoding: [1-9][0-9]", line)),
    )  # fmt: skip
    assert code == 130, errors
    assert "Traceback" not in errors
    (stored,) = map(int, re.findall(r"interrupted: (\d+) documents of this run are stored", errors))
    assert 0 < stored < 400
    rag = Within(tmp_path, rag_within)
    (listed,) = rag.json("index", "list", "--index", "ix", "--json")
    assert len(listed["documents"]) == 8 + stored
    assert rag.json("index", "verify", "--index", "ix", "--json")[0]["ok"]
    (found,) = rag.json("search", "Note 0", "--index", "ix", "--json")
    assert found["hits"][0]["source"] == "000.txt"


def test_ctrl_c_before_anything_is_encoded(small):
    code, errors = interrupted(small, "ingest", "docs", "--index", "early", when=lambda line: "profile" in line)
    assert code == 130, errors
    assert "Traceback" not in errors
