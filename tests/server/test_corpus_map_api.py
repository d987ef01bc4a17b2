"""The map of the corpus over a real server: drawn by a process of its own, kept as numbers, with questions in it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from serving import FERRY_QUESTION, LIBRARY, TEA_QUESTION, Serve, Served

from app.server.corpus import draw
from retrieval.store import Store

pytest.importorskip("openTSNE", reason="a map needs openTSNE: pip install 'cited-rag[map]'")

SECONDS = 60


def drawn(served: Served) -> dict:
    """The map, once it is drawn."""
    begun = served.client.post("/api/map")
    assert begun.status_code in {200, 202}, begun.text
    assert begun.json()["state"] == ("ready" if begun.status_code == 200 else "making")
    until = time.monotonic() + SECONDS
    while (found := served.client.get("/api/map").json())["state"] == "making":
        assert time.monotonic() < until, "the map is never drawn"
        time.sleep(0.05)
    assert found["state"] == "ready", found
    return found


def points(found: dict) -> list[dict]:
    return [dict(zip(found["points"], values, strict=True)) for values in zip(*found["points"].values(), strict=True)]


@pytest.fixture(scope="module")
def mapped(serve: Serve, small_index: Path, tmp_path_factory: pytest.TempPathFactory) -> Served:
    """A server over an index whose map is drawn."""
    index = Path(shutil.copytree(small_index, tmp_path_factory.mktemp("mapped") / "index"))
    with serve(index, cache=index.parent / "cache") as one:
        before = one.client.get("/api/map").json()
        assert (before["state"], before["problem"]) == ("none", None)
        assert before["passages"] >= len(LIBRARY)
        drawn(one)
        yield one


def test_every_point_is_a_passage_of_the_index(mapped):
    found = mapped.client.get("/api/map").json()
    with Store.open(mapped.config.index) as store:
        documents = {row.doc_id: store.document(row.doc_id) for row in store.documents()}
        spans = {(doc_id, one.chunk.start, one.chunk.end) for doc_id in documents for one in store.chunks_of(doc_id)}
    places = set()
    for point in points(found):
        place = found["documents"][point["document"]]
        document = documents[place["doc_id"]]
        assert place["source"] == document.source
        assert document.text[point["start"] : point["end"]].startswith(point["text"])
        assert point["line"] == document.line_at(point["start"])
        assert 0 <= point["x"] <= 10_000
        assert 0 <= point["y"] <= 10_000
        assert found["groups"][point["group"]] == document.source  # a flat corpus: a group a document
        places.add((place["doc_id"], point["start"], point["end"]))
    assert places == spans
    assert found["passages"] == len(spans)
    assert not found["others"]


def test_it_is_drawn_once_for_a_state_of_the_index(mapped):
    (kept,) = (mapped.config.cache / "maps").iterdir()
    before = kept.stat().st_mtime_ns
    assert mapped.client.post("/api/map").status_code == 200
    assert kept.stat().st_mtime_ns == before


def test_what_is_kept_names_no_document_and_holds_no_text(mapped):
    (kept,) = (mapped.config.cache / "maps").iterdir()
    record = json.loads(kept.read_text(encoding="utf-8"))
    assert all(
        isinstance(each, int) for value in record.values() for each in (value if isinstance(value, list) else [value])
    )


@pytest.mark.parametrize("question", [FERRY_QUESTION, TEA_QUESTION], ids=["en", "zh"])
def test_a_question_lies_amid_the_passages_nearest_to_it(mapped, encoder, question):
    found = mapped.client.post("/api/map/question", json={"question": question}).json()
    whole = points(plane := mapped.client.get("/api/map").json())
    with Store.open(mapped.config.index) as store:
        chunks = [one for row in store.documents() for one in store.chunks_of(row.doc_id)]
        vectors = dict(zip(*store.vectors(), strict=True))
    near = encoder.encode_query(question)
    by_place = {(plane["documents"][one["document"]]["doc_id"], one["start"]): one for one in whole}
    ranked = sorted(chunks, key=lambda one: -float(vectors[one.embedding] @ near))[:10]
    around = [by_place[one.chunk.doc_id, one.chunk.start] for one in ranked]
    assert found["x"] == pytest.approx(np.median([one["x"] for one in around]), abs=1)
    assert found["y"] == pytest.approx(np.median([one["y"] for one in around]), abs=1)
    search = mapped.client.post("/api/search", json={"question": question}).json()
    assert [hit["chunk_id"] for hit in found["hits"]] == [hit["chunk_id"] for hit in search["hits"]]
    for hit in found["hits"]:
        point = whole[hit["point"]]
        assert (hit["x"], hit["y"], hit["start"]) == (point["x"], point["y"], point["start"])


@pytest.mark.parametrize(
    "body", [{}, {"question": ""}, {"question": " \u200b"}, {"question": "a" * 9000}, {"question": "a", "k": 1}]
)
def test_a_question_that_is_none_is_refused(mapped, body):
    assert mapped.client.post("/api/map/question", json=body).status_code == 422


def test_of_a_large_corpus_a_sample_is_drawn_and_hits_beside_it_are_placed(serve, index_copy, tmp_path):
    with serve(index_copy, cache=tmp_path / "cache") as one:
        draw(one.config.index, one.config.cache / "maps", most=3)
        found = one.client.get("/api/map").json()
        assert found["state"] == "ready"
        assert len(points(found)) == 3 < found["passages"]
        assert one.client.post("/api/map").status_code == 200
        hits = one.client.post("/api/map/question", json={"question": FERRY_QUESTION}).json()["hits"]
        assert {hit["point"] for hit in hits} >= {None}
        middle = [float(np.median(found["points"][axis])) for axis in ("x", "y")]  # all three are the nearest
        for hit in hits:
            if hit["point"] is None:
                assert [hit["x"], hit["y"]] == pytest.approx(middle, abs=1)


def test_a_change_of_the_index_asks_for_another_map(serve, index_copy, tmp_path):
    with serve(index_copy, cache=tmp_path / "cache") as one:
        draw(one.config.index, one.config.cache / "maps")
        before = one.client.get("/api/map").json()
        assert before["state"] == "ready"
        victim = before["documents"][0]["doc_id"]
        assert one.client.delete(f"/api/documents/{victim}").status_code == 200
        assert one.client.get("/api/map").json()["state"] == "none"
        answer = one.client.post("/api/map/question", json={"question": FERRY_QUESTION})
        assert answer.status_code == 409
        draw(one.config.index, one.config.cache / "maps")
        after = one.client.get("/api/map").json()
        assert victim not in {each["doc_id"] for each in after["documents"]}
        assert len(list((one.config.cache / "maps").iterdir())) == 1


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"{}", b"[" * 100_000, b"cut"],
    ids=["empty", "bytes", "object", "deep", "cut"],
)
def test_a_damaged_map_is_no_map(serve, index_copy, tmp_path, content):
    with serve(index_copy, cache=tmp_path / "cache") as one:
        draw(one.config.index, one.config.cache / "maps")
        (kept,) = (one.config.cache / "maps").iterdir()
        kept.write_bytes(kept.read_bytes()[:-20] if content == b"cut" else content)
        assert one.client.get("/api/map").json()["state"] == "none"


def test_columns_that_do_not_fit_are_no_map(serve, index_copy, tmp_path):
    with serve(index_copy, cache=tmp_path / "cache") as one:
        draw(one.config.index, one.config.cache / "maps")
        (kept,) = (one.config.cache / "maps").iterdir()
        sound = json.loads(kept.read_text())
        for news in ({"x": sound["x"][1:]}, {"embeddings": [10**6 + n for n in range(len(sound["x"]))]}, {"format": 2}):
            kept.write_text(json.dumps(sound | news))
            assert one.client.get("/api/map").json()["state"] == "none", news


def test_without_an_index_there_is_nothing_to_draw(serve, tmp_path):
    with serve(tmp_path / "nothing", cache=tmp_path / "cache") as one:
        for answer in (one.client.get("/api/map"), one.client.post("/api/map")):
            assert answer.status_code == 409
            assert answer.json()["error"]["code"] == "no-index"


def test_without_the_package_the_command_that_installs_it_is_told(serve, index_copy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openTSNE", None)  # as if it were not installed
    with serve(index_copy, cache=tmp_path / "cache") as one:
        answer = one.client.post("/api/map")
        assert answer.status_code == 501
        assert "pip install" in answer.json()["error"]["message"]


def test_what_the_drawing_dies_of_is_told(serve, index_copy, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "maps").write_text("in the way of the folder")
    with serve(index_copy, cache=tmp_path / "cache") as one:
        assert one.client.post("/api/map").status_code == 202
        until = time.monotonic() + SECONDS
        while (found := one.client.get("/api/map").json())["state"] == "making" and time.monotonic() < until:
            time.sleep(0.05)
        assert found["state"] == "none"
        assert "maps" in found["problem"]


def test_a_server_that_ends_ends_the_drawing(serve, index_copy, tmp_path):
    with serve(index_copy, cache=tmp_path / "cache") as one:
        assert one.client.post("/api/map").status_code == 202
    assert not list((tmp_path / "cache").glob("maps/*.json"))
