"""CSV and TSV as tables: delimiters, rows with the numbers people see, and everything that files get wrong."""

from __future__ import annotations

import csv
import io
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse import Parsed
from ingest.parse import delimited as module
from ingest.parse.delimited import parse
from retrieval.errors import ParseError


def read(text: str, suffix: str = ".csv") -> Parsed:
    return parse(text.encode(), suffix)


def rows(parsed: Parsed) -> list[tuple[int, str]]:
    return [(span.number, parsed.text[span.start : span.end]) for span in parsed.spans if span.kind == "row"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_every_delimiter(delimiter):
    parsed = read(delimiter.join(["name", "price, net"]) + "\n" + delimiter.join(["tea", "3"]))
    if delimiter == ",":
        parsed = read('name,"price, net"\ntea,3')
    assert rows(parsed) == [(1, "| name | price, net |"), (2, "| tea | 3 |")]
    assert parsed.media_type == ("text/tab-separated-values" if delimiter == "\t" else "text/csv")


def test_decimal_commas_do_not_win_over_semicolons():
    assert rows(read("Preis;Menge\n1,5;2,5\n3,5;4,5"))[1] == (2, "| 1,5 | 2,5 |")


def test_a_first_line_may_say_the_delimiter():
    assert rows(read("sep=^\na^b\n1^2\n")) == [(2, "| a | b |"), (3, "| 1 | 2 |")]


def test_rows_count_as_in_a_spreadsheet():
    text = 'a,b\r\n"two\r\nlines",1\r\n\r\nc,d\r\n'
    assert rows(read(text)) == [(1, "| a | b |"), (2, "| two lines | 1 |"), (4, "| c | d |")]


def test_the_header_is_repeated_for_every_group():
    text = "name,price\n" + "".join(f"item {n},{n}\n" for n in range(100))
    parsed = read(text)
    groups = [parsed.text[span.start : span.end] for span in parsed.spans if span.kind == "table"]
    assert len(groups) >= 5
    assert all(group.startswith("| name | price |\n") for group in groups)
    assert [number for number, _ in rows(parsed)] == list(range(1, 102))


def test_formulas_are_text():
    text = 'name,note\n"=HYPERLINK(""http://x.example"",""y"")","=cmd|\' /C calc\'!A0"\n'
    assert rows(read(text))[1][1] == '| =HYPERLINK("http://x.example","y") | =cmd|\' /C calc\'!A0 |'


def test_ragged_rows_and_a_quote_that_never_closes():
    parsed = read('a,b,c\n1,2\n"unterminated,3,4\n5,6,7,8\n')
    assert rows(parsed) == [
        (1, "| a | b | c |"),
        (2, "| 1 | 2 |"),
        (3, '| "unterminated | 3 | 4 |'),
        (4, "| 5 | 6 | 7 | 8 |"),
    ]
    assert parsed.metadata == {"open_quote_row": 3}


def test_a_field_longer_than_the_module_allows():
    limit = csv.field_size_limit()
    assert len(read(f"a,b\n{'x' * 300_000},2\n").text) > 300_000
    assert csv.field_size_limit() == limit


def test_too_many_rows_or_columns_are_refused(monkeypatch):
    with pytest.raises(ParseError, match="20,000 columns in row 1"):
        read("a," * 19_999 + "a")
    monkeypatch.setattr(module, "MAX_ROWS", 5)
    with pytest.raises(ParseError, match="row 6") as caught:
        read("a,b\n" * 10)
    assert "split" in caught.value.advice


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.text(alphabet='ab1 ,;"\n|\t文', max_size=8), min_size=2, max_size=4), min_size=1, max_size=30),
    st.sampled_from([",", ";", "\t"]),
)
def test_no_cell_of_a_written_table_is_lost(table, delimiter):
    """Slow oracle: the csv module's own writer; each cell is in the text of its row, blanks collapsed."""
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(table)
    found = dict(rows(read(f"sep={delimiter}\n{buffer.getvalue()}")))
    for number, row in enumerate(table, start=2):
        assert all(word in found[number] for word in " ".join(row).split())


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ab,;"\n\r\t| =文', max_size=300))
def test_any_text_is_read_with_exact_rows(text):
    parsed = read(text)
    letters = sorted(c for c in text if c in "ab文")
    if "sep=" not in text and "=" not in text:
        assert [c for c in letters if c not in parsed.text] == []
    last = 0
    for span in parsed.spans:
        assert 0 <= last <= span.start <= span.end <= len(parsed.text)
        last = span.start


@pytest.mark.parametrize(
    "text",
    ['"' * 200_000, '"a\n' * 100_000, "," * 16_000 + "\n", "a,b\n" * 200_000, "a" * 2_000_000, '"a""' * 100_000],
)
def test_hostile_tables_take_linear_time(text):
    started = time.perf_counter()
    read(text)
    assert time.perf_counter() - started < 10  # measured 0.1 to 1.6 s
