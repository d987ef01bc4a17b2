"""Jupyter notebooks, well formed and not."""

from __future__ import annotations

import json
from pathlib import Path

from ingest.parse import Parsed, parse
from ingest.parse.notebook import MAX_OUTPUT_CHARS


def read(notebook: object) -> Parsed:
    return parse(Path("a.ipynb"), json.dumps(notebook).encode())


def marked(parsed: Parsed) -> list[tuple[str, int, str]]:
    return [(span.kind, span.number, parsed.text[span.start : span.end]) for span in parsed.spans]


def test_cells_in_order():
    parsed = read(
        {
            "cells": [
                {"cell_type": "markdown", "source": ["# Title\n", "text\n", "## Sub\n"]},
                {"cell_type": "code", "source": "print(1)\n", "outputs": [{"output_type": "stream", "text": ["1\n"]}]},
                {"cell_type": "code", "source": [], "outputs": []},
                {"cell_type": "raw", "source": "raw"},
                {"cell_type": "code", "source": "2", "outputs": [{"data": {"text/plain": "\x1b[31m2\x1b[0m"}}]},
            ],
            "metadata": {"kernelspec": {"language": "python"}},
        }
    )
    assert parsed.text == "# Title\ntext\n## Sub\n\nprint(1)\n\n1\n\nraw\n\n2\n\n2"
    assert parsed.title == "Title"
    assert parsed.metadata == {"language": "python"}
    assert marked(parsed) == [
        ("cell", 1, "# Title\ntext\n## Sub"),
        ("heading", 1, "# Title"),
        ("heading", 2, "## Sub"),
        ("cell", 2, "print(1)\n\n1"),
        ("code", 0, "print(1)"),
        ("cell", 4, "raw"),
        ("cell", 5, "2\n\n2"),
        ("code", 0, "2"),
    ]


def test_format_three():
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Old"]},
        {"cell_type": "code", "input": ["x = 1"], "outputs": [{"output_type": "pyout", "text": ["1"]}]},
    ]
    parsed = read({"worksheets": [{"cells": cells}]})
    assert parsed.text == "Old\n\nx = 1\n\n1"
    assert [(span.kind, span.number, span.label) for span in parsed.spans][:2] == [
        ("cell", 1, ""),
        ("heading", 2, "Old"),
    ]


def test_long_output_is_cut_and_said():
    cell = {"cell_type": "code", "source": "x", "outputs": [{"text": "y" * (MAX_OUTPUT_CHARS + 1)}]}
    parsed = read({"cells": [cell]})
    assert parsed.text == "x\n\n" + "y" * MAX_OUTPUT_CHARS
    assert parsed.metadata == {"outputs_cut": 1}


def test_nonsense_is_passed_over():
    parsed = read(
        {
            "cells": [
                1,
                {},
                {"source": {"a": 1}, "outputs": 3},
                {"source": [1, "ok \ud800"], "outputs": [None, {"data": []}, {"text": 5}]},
            ],
            "worksheets": 7,
            "metadata": [],
        }
    )
    assert parsed.text == "ok \ufffd"
