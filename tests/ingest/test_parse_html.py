"""HTML as a browser would show it, and pages made to hang a parser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ingest.isolate import Limits, ParsingPool
from ingest.parse import parse as door
from ingest.parse.html import parse

if TYPE_CHECKING:
    from ingest.parse import Parsed


def read(markup: str) -> Parsed:
    return parse(markup.encode(), ".html")


def marked(markup: str) -> list[tuple[str, str]]:
    parsed = read(markup)
    return [(span.kind, parsed.text[span.start : span.end]) for span in parsed.spans]


def test_blocks_and_white_space():
    assert read("<p> a\n <b>b</b>c </p>\n<div>d<br>e<p>f &amp; g</div>").text == "a bc\n\nd\ne\n\nf & g"


def test_hidden_and_scripted_content_is_left_out_and_counted():
    parsed = read(
        "<head><title> The\n title </title><style>x</style></head><body><script>no</script><noscript>no</noscript>"
        "<template>no</template><p hidden>no</p><p style='color:red; DISPLAY : none'>no</p><!-- no --><p>yes</p>"
        "<span style='font-size:0'>no</span><svg><title>no</title></svg>"
    )
    assert parsed.text == "yes"
    assert parsed.title == "The title"
    assert parsed.metadata == {"hidden_elements": 3}


def test_headings():
    parsed = read("<h2>Second <i>level</i></h2>x<h1> First<br>line </h1><h3></h3><h4>" + "y" * 400 + "</h4>")
    headings = [(span.number, span.label) for span in parsed.spans]
    assert headings == [(2, "Second level"), (1, "First")]
    assert parsed.title == "First"


def test_lists_nest():
    assert read("x<ul><li>a<ul><li>b</ul><li><p>c</p></ul>y").text == "x\n\n- a\n  - b\n\n- c\n\ny"


def test_pre_is_kept_verbatim():
    assert marked("a<pre>\n  x  <b>y</b><br>\n\tz\n</pre>b") == [("code", "  x  y\n\n\tz")]


def test_data_table_is_one_row_a_line():
    markup = "a<table><caption>C</caption><tr><th>x<th>y<tr><td>1\n 2<td><p>3</p><ul><li>4</ul><tr><td></table>b"
    assert marked(markup) == [("table", "C\n| x | y |\n| 1 2 | 3 4 |")]
    assert read(markup).text == "a\n\nC\n| x | y |\n| 1 2 | 3 4 |\n\nb"


def test_a_long_table_repeats_its_caption_and_header():
    rows = "".join(f"<tr><td>name {n}<td>{n}" for n in range(45))
    page = f"<ul><li><table><caption>People</caption><tr><th>Name<th>Age{rows}</table></ul>"
    tables = [text for _, text in marked(page)]
    assert len(tables) == 3
    assert all(text.startswith("People\n| Name | Age |\n| name ") for text in tables)
    assert sum(text.count("| name ") for text in tables) == 45


def test_cells_that_reach_over_others_keep_the_columns_apart():
    markup = (
        "<table><tr><th rowspan=2>Who<th colspan=2>2023<tr><th>Q1<th>Q2<tr><td rowspan=2>Ann<td>1<td>2"
        "<tr><td>3<td>4<tr><td>Bob<td>5<td rowspan=2>6<tr><td>Cleo<td>7</table>"
    )
    rows = ["Who | 2023", "Who | Q1 | Q2", "Ann | 1 | 2", "Ann | 3 | 4", "Bob | 5 | 6", "Cleo | 7 | 6"]
    assert read(markup).text == "\n".join(f"| {row} |" for row in rows)


@pytest.mark.parametrize("claim", ["0", "-1", "x", "9" * 30, "65534", ""])
def test_what_cells_claim_to_cover_is_bounded(claim):
    markup = f"<table><tr><td colspan={claim} rowspan={claim}>a<td>b<tr><td>c<td>d</table>"
    assert "| b |" in read(markup).text


def test_text_between_cells_stands_before_the_table():
    page = "a<table>x<tr> <td>1<td>2</tr> y<tr><td>3</table>b"
    assert read(page).text == "a\n\nx\n\ny\n\n| 1 | 2 |\n| 3 |\n\nb"


def test_layout_table_keeps_its_structure():
    markup = "<table><tr><td><h1>T</h1>text<td><table><tr><td>1<td>2</table></table>"
    assert marked(markup) == [("heading", "T"), ("table", "| 1 | 2 |")]


def test_a_declared_encoding_is_followed_where_the_bytes_are_not_utf8():
    assert parse(b"<meta charset=latin-1>caf\xc3\xa9", ".html").text == "café"
    page = b"<html><head><meta charset=windows-1252></head><body>caf\xe9</body></html>"
    assert door(Path("page.html"), page).text == "café"


@pytest.mark.parametrize(
    "markup",
    [
        "<div>" * 100_000 + "x",
        "<ul><li>" * 50_000 + "x",
        "<table><tr><td>" * 50_000 + "x",
        "<div></x>" * 50_000 + "x",
        "<div " + " ".join(f"a{n}=1" for n in range(50_000)) + ">x",
        "<p>" + "".join(f"<font color=c{n}>" for n in range(1_900)) + "</p>" + "<p>x" * 20_000,
        "<b><i></b></i>x" * 50_000,
        "<a " * 200_000 + ">x",
        "<" * 500_000,
        "&amp" * 200_000,
        "<table>" + "&nbsp;<tr><td>x</td></tr>" * 40_000,
        "<table><tr>" + "<td colspan=64 rowspan=1000>x" * 250 + "<tr><td>y" * 1_000,
    ],
)
def test_hostile_pages_neither_hang_nor_recurse(markup):
    started = time.perf_counter()
    assert read(markup).text is not None
    assert time.perf_counter() - started < 10  # measured 0.05 to 0.6 s


def test_a_page_that_takes_too_much_memory_is_said_to():
    page = "<table>" + "<!-- -->some text<tr>" * 40_000  # the parser copies the text before the table for each row
    with ParsingPool(workers=1, limits=Limits(memory_bytes=256 << 20)) as pool:
        ((_, ((_, refusal),)),) = pool.parse_files([(0, "page.html", page.encode())])
    assert refusal.reason == "needed more than 256 MiB of memory"
