"""Tables as text: what is shown, what is repeated, what is never lost."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.parse.tables import (
    GROUP_CHARS,
    GROUP_ROWS,
    MAX_COLUMNS,
    MAX_LABEL_CHARS,
    MAX_ROWS,
    Merged,
    TableCounter,
    add_table,
)
from ingest.parse.text import TextBuilder
from retrieval.errors import ParseError

LEFT, ABOVE = Merged.LEFT, Merged.ABOVE


def written(rows, caption=""):
    builder = TextBuilder()
    spans = add_table(builder, list(enumerate(rows, start=1)), caption=caption)
    return builder.text(), spans


def test_a_small_table_is_one_group_with_its_caption():
    text, spans = written([["Name", "Age"], ["Ann", "7"]], caption="People")
    assert text == "People\n| Name | Age |\n| Ann | 7 |"
    assert [(s.kind, s.number, text[s.start : s.end]) for s in spans] == [
        ("table", 0, text),
        ("row", 1, "| Name | Age |"),
        ("row", 2, "| Ann | 7 |"),
    ]


def test_every_group_repeats_caption_and_header_but_no_row():
    rows = [["Id", "Word"], *([str(n), f"word{n}"] for n in range(1, 100))]
    text, spans = written(rows, caption="Sheet: Words")
    groups = [text[s.start : s.end].split("\n") for s in spans if s.kind == "table"]
    assert all(group[:2] == ["Sheet: Words", "| Id | Word |"] for group in groups)
    assert max(map(len, groups)) == GROUP_ROWS + 2
    shown = [text[s.start : s.end] for s in spans if s.kind == "row"]
    assert shown == [f"| {' | '.join(row)} |" for row in rows]  # each row once: copies of the header are no rows
    assert [s.number for s in spans if s.kind == "row"] == list(range(1, 101))


def test_a_row_of_numbers_is_no_header():
    text, _ = written([[str(n), str(n * n)] for n in range(30)])
    assert text.count("| 0 | 0 |") == 1


def test_years_and_words_are_a_header_that_comes_below_titles():
    text, _ = written([["Sales of fruit"], ["Fruit", "2023", "2024"], *(["pear", str(n), "1"] for n in range(25))])
    assert text.startswith("| Sales of fruit |\n| Fruit | 2023 | 2024 |\n| pear | 0 | 1 |")
    assert text.count("| Fruit | 2023 | 2024 |") == 2
    assert text.count("Sales") == 1


def test_a_blank_row_may_begin_another_table():
    people, cities = [["Name", "Age"], ["Ann", "7"]], [["City", "Size", "Land"], *[["Bern", "5", "CH"]] * 25]
    text, _ = written([*people, [], *cities])
    groups = text.split("\n\n")
    assert groups[0] == "| Name | Age |\n| Ann | 7 |"
    assert [group.split("\n")[0] for group in groups[1:]] == ["| City | Size | Land |"] * 2


def test_a_table_goes_on_after_a_blank_row_where_the_columns_are_the_same():
    part = [["Ann", "7"]] * 15
    text, _ = written([["Name", "Age"], *part, [""], *part])
    assert [group.split("\n")[0] for group in text.split("\n\n")] == ["| Name | Age |"] * 2


def test_blank_rows_and_outer_columns_are_dropped_and_one_empty_column_parts_tables():
    text, _ = written([["", "", "a", "b", "", "", "c", "", ""], ["", "", "1", "", "", "", "2"], [" ", "\n"]])
    assert text == "| a | b |  | c |\n| 1 |  |  | 2 |"


def test_merged_cells():
    rows = [["Fruit", "2023", LEFT], ["", "Q1", "Q2"], ["pear", "1", "2"], [ABOVE, "3", "4"], ["all", "-", LEFT]]
    text, _ = written([*rows, *[["plum", "5", "6"]] * 20])
    assert text.split("\n")[:5] == [
        "| Fruit | 2023 |",
        "|  | Q1 | Q2 |",
        "| pear | 1 | 2 |",
        "| pear | 3 | 4 |",
        "| all | - |",
    ]
    assert text.split("\n\n")[1].split("\n")[0] == "| Fruit | 2023 Q1 | 2023 Q2 |"


def test_a_row_that_is_covered_from_above_altogether_is_not_said_again():
    assert written([["a", "b"], [ABOVE, ABOVE], ["c", "d"]])[0] == "| a | b |\n| c | d |"


def test_a_long_row_is_told_as_a_record():
    long = "word " * 200
    text, spans = written([["Name", "Story"], ["Ann", long], ["Bob", "short"]])
    assert [text[s.start : s.end] for s in spans if s.kind == "row"] == [
        "| Name | Story |",
        f"Name: Ann\nStory: {long.strip()}",
        "| Bob | short |",
    ]


def test_a_header_too_long_to_repeat_labels_the_cells():
    header = [f"column {n} of the wide table" for n in range(20)]
    text, spans = written([header, [str(n) for n in range(20)], ["x", "", *[""] * 17, "y"]], caption="Wide")
    rows = [text[s.start : s.end] for s in spans if s.kind == "row"]
    assert rows[2] == "column 0 of the wide table: x\ncolumn 19 of the wide table: y"
    assert text.count("Wide") == 3


def test_long_labels_are_shortened_where_they_are_repeated():
    text, _ = written([["h" * 100, "b"], *[["1", "2"]] * 40])
    assert text.count("h" * 100) == 1
    assert text.count(f"| {'h' * (MAX_LABEL_CHARS - 1)}… | b |") == 2


def test_a_table_of_one_column_is_plain_lines():
    assert written([["a\nb"], ["c"]])[0] == "a b\nc"


def test_no_rows_no_text():
    assert written([]) == ("", [])
    assert written([["", " "], []], caption="x") == ("", [])


CELLS = st.one_of(st.text(max_size=12), st.sampled_from(["a", "1", "2024", "x" * 900, LEFT, ABOVE]))


@settings(max_examples=300, deadline=None)
@given(rows=st.lists(st.lists(CELLS, max_size=6), max_size=60), caption=st.sampled_from(["", "Cap"]))
def test_nothing_is_lost_and_spans_are_exact(rows, caption):
    text, spans = written(rows, caption)
    assert [s.start for s in spans] == sorted(s.start for s in spans)
    tables = [(s.start, s.end) for s in spans if s.kind == "table"]
    shown = {s.number: text[s.start : s.end] for s in spans if s.kind == "row"}
    assert sum(s.kind == "row" for s in spans) == len(shown)
    for s in spans:
        assert any(start <= s.start <= s.end <= end for start, end in tables)
        assert s.end - s.start <= GROUP_CHARS + 7_000  # one row of six long cells
    for number, row in enumerate(rows, start=1):
        for cell in row:
            if isinstance(cell, str) and cell.split():
                assert " ".join(cell.split()) in shown[number]


def test_a_file_cannot_claim_tables_without_end():
    counter = TableCounter()
    counter.rows = MAX_ROWS
    counter.add([""])
    with pytest.raises(ParseError, match="1,000,000 rows"):
        counter.add(["x"])
    with pytest.raises(ParseError, match="columns"):
        TableCounter().add([""] * (MAX_COLUMNS + 1))


def test_repeating_cannot_blow_a_table_up():
    header = ["h" * 5_000, "i" * 5_000]
    text, _ = written([header, *[["1", "2"]] * 2_000])
    assert len(text) < 10_000 + 2_000 * 10 * 3
