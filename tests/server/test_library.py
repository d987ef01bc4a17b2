"""The library over a real server: names, uploads, ingests in processes of their own, deletion, answers meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import threading
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from serving import FERRY_QUESTION, LIBRARY, Served, events_of

from app.config import Config
from app.pipeline import Pipeline
from app.server.uploads import MAX_NAME_BYTES, UploadError, Uploads, safe_name
from retrieval.errors import ChangedError

FILES = Path(os.environ.get("RAG_TEST_DATA") or Path(__file__).parents[2] / "../shared/data") / "files"
MESSY = (
    "hostile/big5.txt",
    "hostile/csv_formula.csv",
    "hostile/empty.pdf",
    "hostile/name with spaces & 'quotes' ünïcode 文件.md",
    "hostile/ok_minimal.docx",
    "hostile/ok_minimal.pdf",
    "hostile/pdf_loop.pdf",
    "hostile/script_injection.html",
    "hostile/wrong_ext.pdf",
    "hostile/xxe.xml",
    "hostile/zip_slip.zip",
    "messy/Unstructured-IO/unstructured/example-docs/password_protected.xlsx",
    "messy/Unstructured-IO/unstructured/example-docs/simple.zip",
    "messy/Unstructured-IO/unstructured/example-docs/fake-email-attachment.eml",
)

# ---- names -----------------------------------------------------------------------------------------------------------


@given(st.text())
@example("../../etc/passwd")
@example("..")
@example("")
@example("\0")
@example("C:\\Windows\\CON")
@example("con.tar.gz")
@example("node_modules")
@example("a" * 300 + ".pdf")
@example("報" * 300 + ".pdf")
@example("x." + "y" * 300)
@example("\u202etxt.exe\ud800")
def test_a_name_is_one_part_of_a_path_whatever_is_given(name):
    made = safe_name(name)
    assert made
    assert Path(made).name == made
    assert Path(os.path.normpath(Path("/uploads") / made)).parent == Path("/uploads")
    assert not made.startswith(".")
    assert not set(made) & set('/\\:*?"<>|\0')
    assert made.isprintable()
    assert len(made.encode()) <= MAX_NAME_BYTES
    assert made.partition(".")[0].lower() not in {"con", "nul", "com1"}
    assert safe_name(made) == made


@given(st.text(max_size=20), st.text(max_size=20))
@example("a?.txt", "a!.txt")
@example("a/b.txt", "b.txt")
@example("報" * 300 + "a.pdf", "報" * 300 + "b.pdf")
def test_two_names_never_become_one_file(one, other):
    if safe_name(one) == safe_name(other):
        assert unicodedata.normalize("NFC", one).strip() == unicodedata.normalize("NFC", other).strip()


@pytest.mark.parametrize(
    "name",
    [
        "report.pdf",
        "茶馆（修订）.md",
        "《红楼梦》第一回.txt",
        "Smith's notes, v1.2 (final).docx",
        "हिन्दी.txt",
        "à la carte",
        "-x.md",
    ],
)
def test_a_harmless_name_stays(name):
    assert safe_name(name) == name
    assert safe_name(unicodedata.normalize("NFD", name)) == name
    assert safe_name(f" {name}\n") == name


def test_what_is_changed_stays_readable_and_keeps_its_ending():
    assert safe_name("../茶馆?.md").startswith("_茶馆_-")
    assert safe_name("../茶馆?.md").endswith(".md")
    assert safe_name("報" * 300 + ".pdf").endswith(".pdf")


# ---- the folder ------------------------------------------------------------------------------------------------------


def kept(uploads, name, data):
    draft = uploads.draft()
    try:
        draft.write(data)
        return draft.keep(name)
    finally:
        draft.discard()


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    uploads = Uploads(tmp_path / "a" / "uploads")
    assert uploads.files() == uploads.tidy() == []
    draft = uploads.draft()
    draft.write(b"half")
    assert uploads.files() == []
    draft.discard()
    assert list(uploads.folder.iterdir()) == []
    first = kept(uploads, "a.txt", b"whole")
    assert (first.bytes, first.sha256, first.replaced) == (5, hashlib.sha256(b"whole").hexdigest(), False)
    assert kept(uploads, "a.txt", b"new").replaced
    assert (uploads.folder / "a.txt").read_bytes() == b"new"
    assert (uploads.folder / "a.txt").stat().st_mode & 0o077 == uploads.folder.stat().st_mode & 0o077 == 0


def test_a_full_disk_leaves_nothing(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    kept(uploads, "a.txt", b"before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    draft = uploads.draft()
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UploadError, match="make room"):
            draft.write(b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        draft.discard()
    assert [path.name for path in uploads.folder.iterdir()] == ["a.txt"]


def test_a_removal_can_be_taken_back_and_survives_a_kill(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    kept(uploads, "a.txt", b"one")
    uploads.begin_removal("a.txt", uploads.stamp("a.txt"))
    assert uploads.files() == []
    assert Uploads(uploads.folder).tidy() == ["a.txt"]  # as the next start sees it
    uploads.put_back("a.txt")
    assert uploads.files() == ["a.txt"]
    uploads.begin_removal("a.txt", uploads.stamp("a.txt"))
    kept(uploads, "a.txt", b"two")
    uploads.put_back("a.txt")
    assert (uploads.folder / "a.txt").read_bytes() == b"two"
    assert uploads.tidy() == []


def test_a_newer_file_is_not_removed_for_an_older_one(tmp_path):
    uploads = Uploads(tmp_path / "uploads")
    kept(uploads, "a.txt", b"one")
    seen = uploads.stamp("a.txt")
    kept(uploads, "a.txt", b"two")
    with pytest.raises(ChangedError, match="anew"):
        uploads.begin_removal("a.txt", seen)
    assert (uploads.folder / "a.txt").read_bytes() == b"two"


# ---- over a server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def library(serve, index_copy):
    with serve(index_copy) as one:
        yield one


def upload(served: Served, name, data, status=202):
    answer = served.client.post("/api/documents", params={"name": name}, content=data)
    assert answer.status_code == status, answer.text
    return answer.json()


def followed(served: Served, job):
    """The events of a run, to its end."""
    answer = served.client.get(f"/api/ingest/{job}/events")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    return events_of(answer)


def done(served: Served, job):
    """The report of a run that goes well."""
    name, report = followed(served, job)[-1]
    assert name == "done", report
    return report


def uploaded(served: Served, name, data):
    """Upload, and wait until it is in the index. Returns the row."""
    done(served, upload(served, name, data)["job"])
    return row_of(served, name)


def row_of(served: Served, source):
    (row,) = [row for row in listed(served)["documents"] if row["source"] == source]
    return row


def listed(served: Served, **query):
    answer = served.client.get("/api/documents", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def problem_of(answer, status):
    assert answer.status_code == status, answer.text
    return answer.json()["error"]


def test_from_nothing_to_an_answer_and_back(serve, tmp_path):
    with serve(tmp_path / "index") as served:
        assert listed(served) == {"documents": [], "total": 0, "failures": [], "failures_total": 0}
        assert served.client.get("/api/documents/failures").json() == {"failures": [], "total": 0}
        assert served.client.get("/api/ingest").json() == {"jobs": []}
        problem_of(served.client.get("/api/documents/0"), 404)
        problem_of(served.client.delete("/api/documents/0"), 404)
        assert "upload" in problem_of(served.client.post("/api/ingest", json={}), 422)["message"]

        text = LIBRARY["茶馆.md"].encode()
        answer = upload(served, "茶馆.md", text)
        sha256 = hashlib.sha256(text).hexdigest()
        expected = {"name": "茶馆.md", "bytes": len(text), "sha256": sha256, "replaced": False, "job": answer["job"]}
        assert answer == expected
        *before, (last, report) = followed(served, answer["job"])
        assert {name for name, _ in before} == {"state", "progress"}
        assert {name: set(record) for name, record in before}["progress"] == {"stage", "done", "total", "unit"}
        assert (last, report["added"], report["failures"]) == ("done", ["茶馆.md"], [])
        assert followed(served, answer["job"]) == [("done", report)]

        row = row_of(served, "茶馆.md")
        assert row["uploaded"]
        assert row["content_hash"] == sha256
        one = served.client.get(f"/api/documents/{row['doc_id']}").json()
        assert one["document"] == row
        assert one["account"]["unaccounted"] == one["account"]["unembedded"] == 0
        assert one["account"]["bytes"] == len(text)
        (citation,) = served.ask("茶馆的店主姓什么？")["citations"][:1]
        assert citation["quote"] in text.decode()

        gone = served.client.delete(f"/api/documents/{row['doc_id']}", params={"compact": True}).json()
        assert (gone["doc_ids"], gone["file"], gone["receipt"]["gone"]) == ([row["doc_id"]], "茶馆.md", True)
        assert list(served.config.uploads.iterdir()) == []
        assert listed(served)["total"] == 0
        assert served.ask("茶馆的店主姓什么？")["abstained"]
        problem_of(served.client.get(f"/api/documents/{row['doc_id']}"), 404)


def test_the_list_is_searched_and_paged(served):
    everything = listed(served)
    assert everything["total"] == len(everything["documents"]) == len(LIBRARY)
    assert not any(row["uploaded"] for row in everything["documents"])
    pages = [listed(served, limit=2, offset=offset) for offset in range(0, len(LIBRARY), 2)]
    assert [row for page in pages for row in page["documents"]] == everything["documents"]
    assert {page["total"] for page in pages} == {len(LIBRARY)}
    assert [row["source"] for row in listed(served, q="茶")["documents"]] == ["茶馆.md"]
    assert [row["source"] for row in listed(served, q="THE FERRY")["documents"]] == ["ferry.md"]
    assert listed(served, q="no such")["documents"] == []


@pytest.mark.parametrize(("method", "path"), [("get", "/api/documents/none"), ("delete", "/api/documents/none"),
                                              ("get", "/api/ingest/none/events")])  # fmt: skip
def test_what_is_unknown_is_404(served, method, path):
    assert problem_of(getattr(served.client, method)(path), 404)["code"] == "not-found"


def test_messy_files_in_a_burst(library):
    """Every file ends in the index or among the failures, with a reason; runs are shared; failed ones can go too."""
    if not FILES.is_dir():
        pytest.skip(f"no {FILES} (set RAG_TEST_DATA)")
    files = [path for name in MESSY if (path := FILES / name).is_file()]
    assert len(files) >= 12
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda path: upload(library, path.name, path.read_bytes()), files))
    for path, answer in zip(files, answers, strict=True):
        assert (library.config.uploads / answer["name"]).read_bytes() == path.read_bytes()
    jobs = {answer["job"] for answer in answers}
    assert len(jobs) < len(files)
    for job in jobs:
        done(library, job)
    found = listed(library)
    failures = {one["source"]: one for one in found["failures"]}
    sources = {row["source"] for row in found["documents"] if row["uploaded"]} | failures.keys()
    assert {source.split("/")[0] for source in sources} == {answer["name"] for answer in answers}
    assert {"empty.pdf", "password_protected.xlsx"} <= failures.keys()
    assert all(one["reason"] and one["advice"] and one["uploaded"] for one in failures.values())
    assert library.client.get("/api/documents/failures").json()["failures"] == found["failures"]

    gone = library.client.delete(f"/api/documents/{failures['empty.pdf']['doc_id']}").json()
    assert (gone["doc_ids"], gone["file"]) == ([], "empty.pdf")
    assert "empty.pdf" not in {one["source"] for one in listed(library)["failures"]}
    assert not (library.config.uploads / "empty.pdf").exists()

    members = [row for row in found["documents"] if row["source"].startswith("simple.zip/")]
    assert len(members) > 1
    path = f"/api/documents/{members[0]['doc_id']}"
    assert problem_of(library.client.delete(path), 409)["code"] == "part-of-file"
    assert listed(library)["total"] == found["total"]
    gone = library.client.delete(path, params={"whole": True}).json()
    assert set(gone["doc_ids"]) >= {row["doc_id"] for row in members}
    assert not (library.config.uploads / "simple.zip").exists()
    assert not any(row["source"].startswith("simple.zip") for row in listed(library)["documents"])


def test_only_known_places_are_read_again(library, library_folder, tmp_path):
    secret, uploads = tmp_path / "secret.txt", library.config.uploads
    secret.write_text("not for the index")
    uploads.mkdir()
    (uploads / "link.txt").symlink_to(secret)

    def refused(*paths):
        return problem_of(library.client.post("/api/ingest", json={"paths": paths}), 422)["message"]

    for path in (secret, uploads / "link.txt", library_folder / "../secret.txt", "/", "/etc/passwd"):
        assert str(library_folder) in refused(str(path))
    within = str(library_folder)
    for name in ("none.txt", "x" * 5000, "y" * 300, "\0", "ferry.md/x"):
        refused(within, f"{within}/{name}")
    refused("docs")
    refused()
    assert library.client.get("/api/ingest").json() == {"jobs": []}


def test_known_folders_are_read_again(serve, index_copy, library_folder):
    """null is all that is known. The file of a document that was not uploaded stays."""
    with serve(index_copy) as served:
        served.config.uploads.mkdir()
        (served.config.uploads / "new.txt").write_text("The lighthouse keeper sells tea in winter.")
        job = served.client.post("/api/ingest", json={"paths": None}).json()["job"]
        report = done(served, job)
        assert (report["added"], report["unchanged"]) == (["new.txt"], len(LIBRARY))
        (state,) = served.client.get("/api/ingest").json()["jobs"]
        assert (state["job"], state["state"], state["report"]) == (job, "done", report)
        assert str(library_folder) in state["paths"]
        part = {"paths": [str(library_folder / "bees.txt"), str(library_folder)]}  # read with the folder it is known by
        again = served.client.post("/api/ingest", json=part).json()["job"]
        assert done(served, again)["unchanged"] == len(LIBRARY)
        bees = row_of(served, "bees.txt")
        gone = served.client.delete(f"/api/documents/{bees['doc_id']}").json()
        assert (gone["doc_ids"], gone["file"]) == ([bees["doc_id"]], None)
        assert (library_folder / "bees.txt").exists()


def test_a_run_that_fails_says_why(library, monkeypatch):
    monkeypatch.setenv("RAG_CHUNK_TOKENS", "64")
    job = upload(library, "a.txt", b"text")["job"]
    name, record = followed(library, job)[-1]
    assert name == "failed"
    assert "chunk" in record["error"]["message"] or "max_tokens" in record["error"]["message"]
    (state,) = library.client.get("/api/ingest").json()["jobs"]
    assert state["state"] == "failed"
    assert state["problem"] == record["error"]["message"]
    monkeypatch.delenv("RAG_CHUNK_TOKENS")
    again = library.client.post("/api/ingest", json={"paths": [str(library.config.uploads)]}).json()["job"]
    assert done(library, again)["added"] == ["a.txt"]


def test_uploads_that_cannot_be_kept(serve, small_index, tmp_path):
    index = Path(shutil.copytree(small_index, tmp_path / "index"))
    (tmp_path / "taken").write_text("a file where the folder should be")
    with serve(index, uploads=tmp_path / "taken", max_file_mb=0.1) as served:
        assert problem_of(served.client.post("/api/documents?name=a.txt", content=b"x"), 507)["code"] == "storage"
        too_large = served.client.post("/api/documents?name=a.txt", content=b"x" * 100_001)
        assert problem_of(too_large, 413)["code"] == "too-large"
        problem_of(served.client.post("/api/documents", content=b"x"), 422)
        assert served.ask(FERRY_QUESTION)["citations"]
        assert (tmp_path / "taken").read_text().startswith("a file")


def test_a_body_that_does_not_come_whole_is_nothing(library):
    folder = library.config.uploads
    folder.mkdir()

    def wait_until(is_empty):
        deadline = time.monotonic() + 60
        while bool(list(folder.iterdir())) is is_empty and time.monotonic() < deadline:
            time.sleep(0.01)

    def pieces():
        yield b"x" * 1000
        wait_until(is_empty=False)
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        library.client.post("/api/documents?name=a.txt", content=pieces())
    wait_until(is_empty=True)
    assert list(folder.iterdir()) == []
    assert library.client.get("/api/ingest").json() == {"jobs": []}


def test_a_start_takes_up_what_was_left(serve, index_copy, model_cache, encoder):
    """Half an upload is removed, a deletion that was begun is completed, and what was acknowledged is ingested."""
    uploads = Uploads(index_copy.with_name("index-uploads"))
    kept(uploads, "old.txt", b"The submarine sings at midnight.")
    folder = uploads.folder
    pipeline = Pipeline(Config(index_copy, model_cache, device="cpu"))
    pipeline.__dict__["encoder"] = encoder
    pipeline.ingest([folder], report=lambda _: None)
    pipeline.close()
    (folder / "old.txt").rename(folder / ".removed-old.txt")
    (folder / ".part-0123").write_bytes(b"half")
    (folder / "new.txt").write_bytes(b"The harbour master keeps seventeen parrots.")
    with serve(index_copy) as served:
        (job,) = served.client.get("/api/ingest").json()["jobs"]
        assert done(served, job["job"])["added"] == ["new.txt"]
        assert [row["source"] for row in listed(served, q=".txt")["documents"] if row["uploaded"]] == ["new.txt"]
        assert [path.name for path in folder.iterdir()] == ["new.txt"]


def test_answers_stay_exact_while_documents_come_and_go(library):
    """Every answer is a 200, and what it cites is what stood there in one of the versions."""
    versions = ["The ferry leaves from pier seven at dusk.", "Some sand.\n\nThe ferry leaves from pier nine at noon.\n"]
    texts = {row["doc_id"]: {LIBRARY[row["source"]]} for row in listed(library)["documents"]}
    first = uploaded(library, "pier.txt", versions[0].encode())
    texts[first["doc_id"]] = set(versions)
    answers, over = [], threading.Event()

    def ask():
        for question in cycle((FERRY_QUESTION, "Who wears a purple hat?")):
            if over.is_set():
                return
            answers.append(library.client.post("/api/ask", json={"question": question}))

    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(ask) for _ in range(2)]
        try:
            second = upload(library, "pier.txt", versions[1].encode())
            assert second["replaced"]
            bees = row_of(library, "bees.txt")
            assert library.client.delete(f"/api/documents/{bees['doc_id']}").status_code == 200  # waits for its turn
            assert done(library, second["job"])["changed"] == ["pier.txt"]
            assert library.client.delete(f"/api/documents/{first['doc_id']}").status_code == 200
        finally:
            over.set()
        for each in asking:
            each.result()
    assert {answer.status_code for answer in answers} == {200}
    records = [json.loads(answer.content) for answer in answers]
    for citation in (citation for record in records for citation in record["citations"]):
        spans = {text[citation["start"] : citation["end"]] for text in texts[citation["doc_id"]]}
        assert citation["quote"] in spans
    quoted = {citation["quote"] for record in records for citation in record["citations"]}
    assert any("pier nine" in quote for quote in quoted)
    assert "purple hat" not in json.dumps(library.ask("Who wears a purple hat?")["citations"])
