"""The source of a citation over a real server: the text around it, its page as a picture, and which files are read."""

from __future__ import annotations

import hashlib
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import FERRY_QUESTION, LIBRARY, TEA_QUESTION, Served

from app.config import Config
from app.pipeline import Pipeline
from app.server.sources import MAX_CHARS, source_record
from retrieval.records import Document, Span

PNG = b"\x89PNG\r\n\x1a\n"
RED = "The red kite nests in old oaks near the river. "
BLUE = "The blue heron waits for fish at the weir every morning. "


def make_pdf(*pages: str) -> bytes:
    """A PDF of one line a page, Helvetica, that every reader mends (it has no table of its objects)."""
    kids = " ".join(f"{4 + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<</Type/Catalog/Pages 2 0 R>>",
        f"<</Type/Pages/Count {len(pages)}/Kids[{kids}]>>",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    for number, text in enumerate(pages):
        stream = f"BT /F1 12 Tf 20 700 Td ({text}) Tj ET"
        page = "/MediaBox[0 0 600 800]/Resources<</Font<</F1 3 0 R>>>>"
        objects += [
            f"<</Type/Page/Parent 2 0 R{page}/Contents {5 + 2 * number} 0 R>>",
            f"<</Length {len(stream)}>>stream\n{stream}\nendstream",
        ]
    body = "".join(f"{number} 0 obj{each} endobj\n" for number, each in enumerate(objects, start=1))
    return f"%PDF-1.4\n{body}trailer<</Size {len(objects) + 1}/Root 1 0 R>>".encode()


BIRDS = make_pdf(RED * 2, BLUE * 2)
LOOP = b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Count 1/Kids[2 0 R]>>endobj\n"


def as_ingested(root: Path, source: str, data: bytes) -> Document:
    """A document that says it was read from a file, whatever that holds."""
    return Document(
        doc_id=hashlib.sha256(f"{root}/{source}".encode()).hexdigest()[:24],
        root=str(root),
        source=source,
        media_type="application/pdf",
        title="",
        text="Some words that were read from it.",
        spans=(Span("page", 0, 34, 1),),
        content_hash=hashlib.sha256(data).hexdigest(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of all kinds, and one beside their root."""
    folder = tmp_path_factory.mktemp("shelf") / "docs"
    folder.mkdir()
    (folder / "birds.pdf").write_bytes(BIRDS)
    with zipfile.ZipFile(folder / "packed.zip", "w") as archive:
        archive.writestr("inner.pdf", make_pdf("The grey owl hunts at night over the frozen lake."))
    (folder / "notes.md").write_text(LIBRARY["ferry.md"], encoding="utf-8")
    (folder / "emoji.txt").write_text(LIBRARY["emoji.txt"], encoding="utf-8")
    (folder / "茶馆.md").write_text(LIBRARY["茶馆.md"], encoding="utf-8")
    (folder.parent / "beside.pdf").write_bytes(BIRDS)
    return folder


@pytest.fixture(scope="module")
def shelf(serve, folder, model_cache, encoder, tmp_path_factory) -> Iterator[Served]:
    index = tmp_path_factory.mktemp("shelf-index") / "index"
    pipeline = Pipeline(Config(index, model_cache, device="cpu"))
    pipeline.__dict__["encoder"] = encoder
    pipeline.ingest([folder], report=lambda _: None)
    hostile = folder.parent / "hostile"
    hostile.mkdir()
    (hostile / "loop.pdf").write_bytes(LOOP)
    (hostile / "other.pdf").write_bytes(BIRDS)
    (hostile / "link.pdf").symlink_to(folder.parent / "beside.pdf")
    sources = {"loop.pdf": LOOP, "../beside.pdf": BIRDS, str(folder.parent / "beside.pdf"): BIRDS, "link.pdf": BIRDS}
    sources |= {"other.pdf": BIRDS, "nul\0.pdf": BIRDS}
    made = [as_ingested(hostile, source, data) for source, data in sources.items()]
    pipeline.ingest_documents(made, root=str(hostile), report=lambda _: None)
    pipeline.ingest_documents([as_ingested(Path("docs"), "birds.pdf", BIRDS)], root="docs", report=lambda _: None)
    pipeline.close()
    with serve(index) as served:
        yield served


@pytest.fixture(scope="module")
def document(shelf: Served) -> Callable[[str], Document]:
    """The document of a source."""
    pipeline = shelf.application.server.engine.pipeline
    ids = {row.source: row.doc_id for row in pipeline.documents() if row.root != "docs"}
    return lambda source: pipeline.document(ids[source])


def page_of(shelf: Served, document: Document, page: int = 1, **query: object):
    return shelf.client.get(f"/api/source/{document.doc_id}/page/{page}", params=query)


# ---- text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [FERRY_QUESTION, TEA_QUESTION, "How many eggs does the queen lay?"])
def test_a_citation_is_shown_where_it_stands(served, question):
    (citation, *_) = served.ask(question)["citations"]
    answer = served.client.get(
        f"/api/source/{citation['doc_id']}", params={"start": citation["start"], "end": citation["end"]}
    )
    found = answer.json()
    assert found["quote"] == citation["quote"]
    assert found["before"] + found["quote"] + found["after"] == LIBRARY[found["source"]]
    assert found["text_start"] == 0
    assert (found["line"], found["heading"]) == (citation["line"], citation["heading"])
    assert (found["pages"], found["page"], found["has_page_image"]) == (None, None, False)


def test_offsets_count_code_points(shelf, document):
    emoji = document("emoji.txt")
    start = emoji.text.index("𠮷")
    found = shelf.client.get(f"/api/source/{emoji.doc_id}", params={"start": start, "end": start + 3}).json()
    assert found["quote"] == "𠮷野家"
    assert found["before"].startswith("🐝🐝🐝 Bees")
    assert found["characters"] == len(emoji.text)


def test_the_whole_text_can_be_read_on(shelf, document):
    emoji = document("emoji.txt")
    pieces, offset = [], 0
    while offset is not None:
        found = shelf.client.get(f"/api/source/{emoji.doc_id}/text", params={"offset": offset, "limit": 7}).json()
        assert found["offset"] == offset
        pieces.append(found["text"])
        offset = found["next"]
    assert "".join(pieces) == emoji.text
    assert {len(piece) for piece in pieces[:-1]} == {7}


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"start": 9, "end": 3}, "9 to 3"),
        ({"start": 10_000}, "of a text of"),
        ({"start": -1}, "start"),
        ({"start": "x"}, "start"),
        ({"start": 10**30}, "start"),
        ({"around": 10**6}, "around"),
    ],
    ids=["backwards", "outside", "negative", "no number", "huge", "too much"],
)
def test_a_span_that_cannot_be_one_is_refused(shelf, document, query, said):
    answer = shelf.client.get(f"/api/source/{document('notes.md').doc_id}", params=query)
    assert answer.status_code == 422
    assert said in answer.json()["error"]["message"]


def test_a_span_ends_with_the_text(shelf, document):
    notes = document("notes.md")
    found = shelf.client.get(f"/api/source/{notes.doc_id}", params={"start": 5, "end": 10**6}).json()
    assert (found["end"], found["quote"]) == (len(notes.text), notes.text[5:])


@pytest.mark.parametrize("path", ["", "/text", "/page/1"])
def test_unknown_documents_and_strangers(shelf, path):
    assert shelf.client.get(f"/api/source/nobody{path}").json()["error"]["code"] == "not-found"
    assert shelf.bare.get(f"/api/source/nobody{path}").status_code == 401


TEXTS = st.text(st.sampled_from("ab 。\n\r🐝𠮷茶"), max_size=300)


@given(text=TEXTS, places=st.tuples(st.integers(0, 300), st.integers(0, 300)), around=st.integers(0, 100))
@settings(max_examples=200)
def test_a_stretch_is_exact_bounded_and_whole_where_it_can_be(text, places, around):
    start, end = sorted(min(place, len(text)) for place in places)
    found = source_record(Document("d", "/r", "s", "text/plain", "", text), start, end, around)
    whole = f"{found['before']}{found['quote']}{found['after']}"
    first = start - len(str(found["before"]))
    assert found["text_start"] == first
    assert text[first : first + len(whole)] == whole
    assert found["quote"] == text[start:end]
    for side, rest in ((found["before"], start), (found["after"], len(text) - end)):
        assert len(str(side)) <= around
        assert len(str(side)) >= min(rest, around // 2)
    if start > around and "\n" in text[start - around : start - around // 2]:
        assert text[first - 1] in "\n\r"


def test_a_quote_has_a_limit():
    text = "x" * (2 * MAX_CHARS)
    long = Document("d", "/r", "s", "text/plain", "", text)
    assert len(str(source_record(long, 0, MAX_CHARS, 0)["quote"])) == MAX_CHARS
    with pytest.raises(Exception, match="at most 100,000"):
        source_record(long, 0, MAX_CHARS + 1, 0)


def test_pages_slides_sheets_and_rows_are_named():
    spans = (Span("page", 0, 10, 1), Span("page", 10, 20, 2), Span("sheet", 10, 20, 1, "Costs"), Span("row", 12, 15, 7))
    found = source_record(Document("d", "/r", "s", "x/y", "", "x" * 20, spans), 8, 14, 100)
    assert (found["page"], found["last_page"], found["pages"]) == (1, 2, 2)
    found = source_record(Document("d", "/r", "s", "x/y", "", "x" * 20, spans), 12, 14, 100)
    assert (found["sheet"], found["row"], found["slide"]) == ("Costs", 7, None)


# ---- pages -----------------------------------------------------------------------------------------------------------


def test_a_page_with_the_cited_words(shelf, document):
    birds = document("birds.pdf")
    (citation, *_) = shelf.ask("Where does the blue heron wait?", filter={"source": ["birds.pdf"]})["citations"]
    span = {"start": citation["start"], "end": citation["end"]}
    found = shelf.client.get(f"/api/source/{citation['doc_id']}", params=span).json()
    assert (found["page"], found["pages"], found["has_page_image"]) == (2, 2, True)
    answer = page_of(shelf, birds, 2, **span)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content.startswith(PNG)
    left, top, right, bottom = map(float, answer.headers["x-marked"].split(","))
    assert 0 <= left < right <= 1
    assert 0.1 < top < 100 / 800 < bottom < 0.14  # its baseline is 100 points below the top of 800


def test_a_span_over_two_pages_is_marked_on_both(shelf, document):
    birds = document("birds.pdf")
    span = {"start": birds.text.rindex("river"), "end": birds.text.index("heron")}
    (red, blue) = (page_of(shelf, birds, page, **span) for page in (1, 2))
    ends = [list(map(float, answer.headers["x-marked"].split(","))) for answer in (red, blue)]
    assert ends[0][0] > 0.5 > ends[1][2]
    assert "x-marked" not in page_of(shelf, birds, 1).headers


def test_the_same_picture_is_sent_once(shelf, document):
    birds = document("birds.pdf")
    first, other = page_of(shelf, birds, end=10), page_of(shelf, birds, end=20)
    tag = first.headers["etag"]
    assert first.headers["cache-control"] == "private, no-cache"
    assert tag != other.headers["etag"]
    assert page_of(shelf, birds, end=10, width=500).headers["etag"] != tag
    path = f"/api/source/{birds.doc_id}/page/1"
    again = shelf.client.get(path, params={"end": 10}, headers={"if-none-match": f'"x", W/{tag}'})
    assert (again.status_code, again.content) == (304, b"")
    assert shelf.client.get(path, params={"end": 20}, headers={"if-none-match": tag}).content == other.content


def test_many_may_look_at_once(shelf, document):
    birds = document("birds.pdf")
    with ThreadPoolExecutor(8) as people:
        answers = [*people.map(lambda n: page_of(shelf, birds, 1 + n % 2, end=30, width=300 + n % 4), range(24))]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 4


@pytest.mark.parametrize(
    ("page", "query", "status"),
    [(3, {}, 404), (0, {}, 422), (1, {"width": 199}, 422), (1, {"width": 2001}, 422), (1, {"start": 5, "end": 1}, 422)],
    ids=["no such page", "page 0", "narrow", "wide", "backwards"],
)
def test_what_cannot_be_drawn_is_refused(shelf, document, page, query, status):
    assert page_of(shelf, document("birds.pdf"), page, **query).status_code == status


def test_texts_have_no_pages(shelf, document):
    answer = page_of(shelf, document("notes.md"))
    assert answer.status_code == 404
    assert "no page 1" in answer.json()["error"]["message"]


# ---- files -----------------------------------------------------------------------------------------------------------


def has_image(shelf: Served, document: Document) -> bool:
    found = shelf.client.get(f"/api/source/{document.doc_id}", params={"end": 1}).json()
    assert found["quote"] == document.text[:1]  # the text serves in any case
    return bool(found["has_page_image"])


def test_a_file_that_is_gone_or_changed(shelf, document, folder):
    birds, path = document("birds.pdf"), folder / "birds.pdf"
    assert has_image(shelf, birds)
    path.write_bytes(make_pdf("Something else altogether."))
    assert not has_image(shelf, birds)
    answer = page_of(shelf, birds, end=7)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "changed")
    path.unlink()
    assert not has_image(shelf, birds)
    assert page_of(shelf, birds, end=7).status_code == 404
    os.mkfifo(path)  # which would keep a reader waiting
    assert page_of(shelf, birds, end=7).status_code == 422
    path.unlink()
    path.symlink_to(folder.parent / "beside.pdf")  # the same bytes, but elsewhere
    assert page_of(shelf, birds, end=7).status_code == 404
    path.unlink()
    shutil.copy(folder.parent / "beside.pdf", path)
    assert has_image(shelf, birds)
    assert page_of(shelf, birds, end=7).status_code == 200


def test_what_lies_in_an_archive_has_text_alone(shelf, document):
    owl = document("packed.zip/inner.pdf")
    assert "grey owl" in owl.text
    assert not has_image(shelf, owl)
    assert page_of(shelf, owl).status_code == 404


@pytest.mark.parametrize("name", ["../beside.pdf", "/beside.pdf", "link.pdf", "nul\0.pdf"], ids=str.encode)
def test_no_source_leads_out_of_its_root(shelf, document, folder, name):
    """Each names a file that is there and has the very bytes, but not below the document's root."""
    elsewhere = document(str(folder.parent / "beside.pdf") if name.startswith("/") else name)
    assert not has_image(shelf, elsewhere)
    assert page_of(shelf, elsewhere).status_code == 404


def test_a_root_that_is_no_folder(shelf, folder, monkeypatch):
    pipeline = shelf.application.server.engine.pipeline
    monkeypatch.chdir(folder.parent)  # where there is docs/birds.pdf
    (made,) = (pipeline.document(row.doc_id) for row in pipeline.documents() if row.root == "docs")
    assert page_of(shelf, made).status_code == 404


def test_a_hostile_file_costs_one_answer(shelf, document):
    loop = document("loop.pdf")
    answer = page_of(shelf, loop, end=4)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable")
    assert page_of(shelf, document("birds.pdf"), end=5).status_code == 200


def test_a_page_that_reads_otherwise_is_not_marked(shelf, document):
    """As when a later version reads PDFs another way: a wrong mark would be worse than none."""
    other = document("other.pdf")
    answer = page_of(shelf, other, end=4)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable")
    assert "does not read as it did" in answer.json()["error"]["message"]
    assert page_of(shelf, other).status_code == 200
