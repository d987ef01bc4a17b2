"""What holds for every text and for every real file."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packages import check_reason, check_spans

from ingest.chunk import Chunker
from ingest.isolate import Limits, ParsingPool
from ingest.parse import FORMATS, Parsed, parse
from retrieval.encoder import BUNDLED_NAME, load_tokenizer, model_folder
from retrieval.errors import ParseError
from retrieval.records import ChunkingSpec, Document

DATA = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data")

MARKS = "# ,## T,===,---,```,~~~,|,a|b,-|-,    ,::,:,.. code::,+--+,=== ===,def f():,class A:,@x,<!--,-->,word,文字"
MORE_MARKS = [
    "\ufeff",
    "\0",
    "\u2028",
    "e\u0301",
    "\U0001f600",
    "[[x]]",
    "{#y}",
    "#",
    "- ",
    "1. ",
    "> ",
    "key: value",
    "---\n",
]
PIECES = st.sampled_from([*MARKS.split(","), *MORE_MARKS, "\n", "\r", "\r\n", "\n\n", " ", "\t"])
TEXTS = st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=200))


def parsed_or_refused(path: Path, data: bytes) -> Parsed | None:
    """What parse() gives; None where it says that it cannot, and what to do. Any other exception fails the test."""
    try:
        return parse(path, data)
    except ParseError as error:
        check_reason(error)
    return None


@settings(max_examples=400, deadline=None)
@given(text=TEXTS, name=st.sampled_from(["a.md", "a.rst", "a.txt", "a.py", "a.js", "a"]))
@example(text="\r# A\r\r\n", name="a.md")
def test_text_formats_keep_the_file_and_mark_it_exactly(text, name):
    try:
        parsed = parse(Path(name), text.encode())
    except ParseError:
        assert "\0" in text or not text.removeprefix("\ufeff").strip()
        return
    assert parsed.text == text
    check_spans(parsed)


TAGS = (
    "<p> </p> <h1> </h1> <table> </table> <tr> <td> <pre> </pre> <ul> <li> </ul> <br> x </div> <b> </b> &lt; <h2> </h2>"
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*TAGS.split(), "<caption>", "<svg>", "<div hidden>", " ", "\n"]), max_size=30))
def test_any_markup_gives_exact_spans(pieces):
    if (parsed := parsed_or_refused(Path("a.html"), "".join(pieces).encode())) is not None:
        check_spans(parsed)


@settings(max_examples=100, deadline=None)
@given(data=st.binary(max_size=300), suffix=st.sampled_from([*sorted(FORMATS), ".bin", ""]))
def test_any_bytes_give_a_document_or_a_parse_error(data, suffix):
    if (parsed := parsed_or_refused(Path(f"a{suffix}"), data)) is not None:
        check_spans(parsed)


# ---- real files, through the workers, with the usual limits ----------------------------------------------------------


def read_folder(folder: str) -> dict[str, dict[str, Parsed | ParseError]]:
    """What becomes of each file of a folder and of what is in it, by relative path and by name."""
    root = DATA / "files" / folder
    if not root.is_dir():
        pytest.skip(f"no files/{folder} below {DATA} (set RAG_TEST_DATA)")
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    with ParsingPool(workers=2, limits=Limits()) as pool:
        files = ((path.relative_to(root).as_posix(), path.name, path.read_bytes()) for path in paths)
        return {name: dict(results) for name, results in pool.parse_files(files)}


def test_messy_files_are_read_or_say_why_not():
    outcomes = read_folder("messy")
    for results in outcomes.values():
        for result in results.values():
            (check_spans if isinstance(result, Parsed) else check_reason)(result)
    refused = [name for name, results in outcomes.items() if not any(isinstance(r, Parsed) for r in results.values())]
    assert len(refused) < len(outcomes) / 5  # what has no text, is encrypted, or is in a format of before 2007


TEXTS_OF_HOSTILE = {
    "nul_bytes.txt": "launch code is 4417",
    "utf16le_bom.txt": "answer is heliotrope",
    "utf16be_nobom.txt": "answer is marigold",
    "gb18030.txt": "青花瓷",
    "big5.txt": "烏龍茶",
    "no_spaces_200k.txt": "x" * 1000,
    "deep_nesting.html": "the nested answer is 77",
    "hidden_text.html": "the fee is 20 EUR",
    "huge_table.csv": "id: ",
    "csv_formula.csv": '| =HYPERLINK("http://attacker.example","x") |',
    "ragged.csv": "| 5 | 6 | 7 | 8 |",
    "zero_width.md": "qu\u200bartz",
    "homoglyph.md": "limit is 500",
    "fullwidth.txt": "４２",
    "hyphenated_lines.txt": "per-\ncent",
    "markdown_bomb.md": "[" * 1000,
    "backticks.md": "`" * 1000,
    "headings_only.md": "# H0",
    "frontmatter_bad.md": "answer is basalt",
    "name with spaces & 'quotes' ünïcode 文件.md": "answer is cobalt",
    "wrong_ext.pdf": "this is plain text called pdf",
    "really_html.txt": "answer slate",
    "ok_minimal.pdf": "answer is tungsten",
    "ok_minimal.docx": "answer is vermilion",
    "xxe.xml": "x: &e;",
    "script_injection.html": "The safe answer is 12.",
}
REASONS_OF_HOSTILE = {
    "empty.md": "the file is empty",
    "empty.pdf": "the file is empty",
    "pdf_flate_bomb.pdf": "no text layer",
    "pdf_loop.pdf": "pages can be read",
}
FACTS_OF_HOSTILE = {
    "hidden_text.html": {"hidden_elements": 2},
    "ragged.csv": {"open_quote_row": 3},
    "wrong_ext.pdf": {"said_to_be": ".pdf"},
    "really_html.txt": {"said_to_be": ".txt"},
    "xxe.xml": {"entities": 1},
    "gb18030.txt": {"encoding": "gb18030"},
}


def test_hostile_files_get_what_they_should():
    outcomes = read_folder("hostile")
    for results in outcomes.values():
        for result in results.values():
            (check_spans if isinstance(result, Parsed) else check_reason)(result)
    for name in outcomes.keys() & TEXTS_OF_HOSTILE.keys():
        assert TEXTS_OF_HOSTILE[name] in outcomes[name][""].text, name
    for name in outcomes.keys() & REASONS_OF_HOSTILE.keys():
        assert REASONS_OF_HOSTILE[name] in outcomes[name][""].reason, name
    for name in outcomes.keys() & FACTS_OF_HOSTILE.keys():
        facts = {key: value for key, value in outcomes[name][""].metadata.items() if key != "bytes"}
        assert facts == FACTS_OF_HOSTILE[name], name
    assert "0 EUR for" not in outcomes["hidden_text.html"][""].text
    assert "pwn" not in outcomes["script_injection.html"][""].text
    unpacked = outcomes["zip_slip.zip"]
    assert "ochre" in unpacked["ok.md"].text
    assert "leads out of the archive" in unpacked["evil.md"].reason


@pytest.mark.parametrize(
    "name", ["no_spaces_200k.txt", "huge_table.csv", "headings_only.md", "backticks.md", "markdown_bomb.md"]
)
def test_hostile_files_are_cut_into_bounded_chunks(name):
    path = DATA / "files/hostile" / name
    if not path.is_file():
        pytest.skip(f"no {path} (set RAG_TEST_DATA)")
    parsed = parse(path, path.read_bytes())
    document = Document("id", "/root", name, parsed.media_type, parsed.title, parsed.text, parsed.spans)
    spec = ChunkingSpec(overlap=0)
    chunks = Chunker(load_tokenizer(model_folder(BUNDLED_NAME)), spec).split(document)
    assert "".join(chunk.text for chunk in chunks) == parsed.text
    assert all(chunk.text.strip() and chunk.tokens <= spec.max_tokens for chunk in chunks)
    if name == "huge_table.csv":  # below its 301 headers, each value stands behind its own
        values = [line for chunk in chunks for line in chunk.text.split("\n") if line][301:]
        assert all(re.fullmatch(r"(?:id|c\d+): \d+", line) for line in values)
