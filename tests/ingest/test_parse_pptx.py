"""Presentations written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from packages import check_spans, marked, office, relations

from ingest.parse import parse
from retrieval.errors import ParseError

NAMES = " ".join(
    f'xmlns:{prefix}="http://schemas.openxmlformats.org/{name}"'
    for prefix, name in {
        "a": "drawingml/2006/main",
        "p": "presentationml/2006/main",
        "r": "officeDocument/2006/relationships",
        "c": "drawingml/2006/chart",
        "m": "officeDocument/2006/math",
    }.items()
)


def shape(*paragraphs, kind=""):
    holder = f'<p:nvPr><p:ph type="{kind}"/></p:nvPr>' if kind else "<p:nvPr/>"
    body = "".join(line if line.startswith("<") else paragraph(line) for line in paragraphs)
    return f"<p:sp><p:nvSpPr><p:cNvPr/>{holder}</p:nvSpPr><p:txBody>{body}</p:txBody></p:sp>"


def paragraph(text, level=0):
    return f'<a:p><a:pPr lvl="{level}"/><a:r><a:t>{text}</a:t></a:r></a:p>'


def slide(*shapes, attributes=""):
    return f"<p:sld {NAMES} {attributes}><p:cSld><p:spTree>{''.join(shapes)}</p:spTree></p:cSld></p:sld>"


def frame(content):
    return f"<p:graphicFrame><a:graphic><a:graphicData>{content}</a:graphicData></a:graphic></p:graphicFrame>"


def presentation(*slides, members=None, title=""):
    links = [("slide", f"slides/slide{n}.xml") for n in range(1, len(slides) + 1)]
    listed = "".join(f'<p:sldId id="{n}" r:id="r{n}"/>' for n in range(1, len(slides) + 1))
    parts = {
        "ppt/presentation.xml": f"<p:presentation {NAMES}><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>",
        "ppt/_rels/presentation.xml.rels": relations(links),
        **{f"ppt/slides/slide{n}.xml": content for n, content in enumerate(slides, start=1)},
    }
    return office("ppt/presentation.xml", {**parts, **(members or {})}, title=title)


def read(data):
    parsed = parse(Path("a.pptx"), data)
    check_spans(parsed)
    return parsed


def test_title_first_then_shapes_in_order():
    body = shape("Point", paragraph("Detail", 1), paragraph("Deeper", 2))
    parsed = read(presentation(slide(body, shape("The title", kind="title")), slide(shape("free text"))))
    assert parsed.text == "The title\n\nPoint\n- Detail\n  - Deeper\n\nfree text"
    assert parsed.title == "The title"
    assert marked(parsed, "slide", "heading") == [
        ("slide", 1, "The title\n\nPoint\n- Detail\n  - Deeper"),
        ("heading", 1, "The title"),
        ("slide", 2, "free text"),
    ]
    assert [span.label for span in parsed.spans if span.kind == "slide"] == ["The title", ""]
    assert parsed.metadata == {"slides": 2}


def test_tables_with_merged_cells():
    cells = "<a:tr><a:tc>{}</a:tc><a:tc>{}</a:tc></a:tr>"
    text = "<a:txBody>{}</a:txBody>".format
    rows = cells.format(text(paragraph("Name")), text(paragraph("Age")))
    rows += f'<a:tr><a:tc gridSpan="2">{text(paragraph("all") + paragraph("ages"))}</a:tc><a:tc hMerge="1"/></a:tr>'
    rows += f'<a:tr><a:tc rowSpan="2">{text(paragraph("Ann"))}</a:tc><a:tc>{text(paragraph("7"))}</a:tc></a:tr>'
    rows += f'<a:tr><a:tc vMerge="1"/><a:tc>{text(paragraph("8"))}</a:tc></a:tr>'
    parsed = read(presentation(slide(frame(f"<a:tbl>{rows}</a:tbl>"))))
    assert parsed.text == "| Name | Age |\n| all ages |\n| Ann | 7 |\n| Ann | 8 |"
    assert [span.kind for span in parsed.spans] == ["slide", "table"]


def test_charts_are_tables_of_their_saved_numbers():
    points = "".join(f'<c:pt idx="{n}"><c:v>{value}</c:v></c:pt>' for n, value in enumerate((0.5, 0.25)))
    chart = (
        f"<c:chartSpace {NAMES}><c:chart><c:title><c:tx><c:rich>{paragraph('Growth')}</c:rich></c:tx></c:title>"
        "<c:ser><c:tx><c:strRef><c:strCache><c:pt idx='0'><c:v>Share</c:v></c:pt></c:strCache></c:strRef></c:tx>"
        "<c:cat><c:strRef><c:strCache><c:pt idx='0'><c:v>Bern</c:v></c:pt><c:pt idx='1'><c:v>Rome</c:v></c:pt>"
        "</c:strCache></c:strRef></c:cat>"
        f"<c:val><c:numRef><c:numCache><c:formatCode>0%</c:formatCode>{points}</c:numCache></c:numRef></c:val></c:ser>"
        "</c:chart></c:chartSpace>"
    )
    members = {
        "ppt/charts/chart1.xml": chart,
        "ppt/slides/_rels/slide1.xml.rels": relations([("chart", "../charts/chart1.xml")]),
    }
    parsed = read(presentation(slide(frame('<c:chart r:id="r1"/>')), members=members))
    assert parsed.text == "Chart: Growth\n|  | Share |\n| Bern | 50% |\n| Rome | 25% |"


def test_notes_groups_line_breaks_and_formulas():
    grouped = f"<p:grpSp>{shape('<a:p><a:r><a:t>one</a:t></a:r><a:br/><m:t>x=1</m:t></a:p>')}</p:grpSp>"
    spoken = shape("3", kind="sldNum") + shape("Say this", kind="body")
    notes = f"<p:notes {NAMES}><p:cSld><p:spTree>{spoken}</p:spTree></p:cSld></p:notes>"
    members = {
        "ppt/notesSlides/notes1.xml": notes,
        "ppt/slides/_rels/slide1.xml.rels": relations([("notesSlide", "../notesSlides/notes1.xml")]),
    }
    parsed = read(presentation(slide(grouped, shape("7", kind="sldNum")), members=members))
    assert parsed.text == "one\nx=1\n\nNotes:\nSay this"


def test_hidden_slides_and_comments_are_left_out_and_said():
    slides = slide(shape("seen")), slide(shape("unseen"), attributes='show="0"'), slide(shape("again"))
    parsed = read(presentation(*slides, members={"ppt/comments/comment1.xml": "<c/>"}))
    assert marked(parsed, "slide") == [("slide", 1, "seen"), ("slide", 3, "again")]
    assert parsed.metadata == {"slides": 3, "hidden_slides": 1, "left_out": ["ppt/comments/comment1.xml"]}


def test_a_title_that_a_program_made_up_is_none():
    parsed = read(presentation(slide(shape("text")), title="PowerPoint Presentation"))
    assert parsed.title == ""


def test_a_damaged_slide_is_named_and_the_others_are_read():
    parsed = read(presentation(slide(shape("one")), "<p:sld", slide(shape("three"))))
    assert marked(parsed, "slide") == [("slide", 1, "one"), ("slide", 3, "three")]
    assert parsed.metadata == {"slides": 3, "damaged_parts": ["ppt/slides/slide2.xml"]}


def test_slides_without_text():
    with pytest.raises(ParseError, match="no text on its 1 slides"):
        read(presentation(slide()))
    with pytest.raises(ParseError, match="1 parts damaged"):
        read(presentation("<p:sld"))


def test_relations_that_lead_nowhere():
    data = presentation(slide(shape("text"), frame('<c:chart r:id="r9"/>')))
    assert read(data).text == "text"
