"""What looks after an index, as a user has it: `rag index`, `rag delete`, `rag ingest --rebuild`; the real encoder."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import Result

from app.cli.index import LEDGER_ROWS, _print_accounts
from retrieval.ledger import Account
from retrieval.store import Store
from retrieval.versions import versions

FERRY = "The ferry leaves from pier seven at dusk. It carries bicycles for free.\n"
CLOCKS = "# Clocks\n\nThe museum of clocks has no windows at all.\n"
BEES = "The beekeeper wears a purple hat. She collects the honey in June.\n"
PAGE = "<p>The archive opens at nine.</p><p hidden>Nobody sees this.</p>"
COMMANDS = ("list", "info", "verify", "repair", "compact", "export", "restore", "backup b.rag")


@dataclass(frozen=True)
class Place:
    """A folder with `docs`, and an index `ix` of them, where `rag` runs."""

    folder: Path
    run: Callable[..., Result]

    def __call__(self, *arguments: str, code: int = 0) -> Result:
        done = self.run(self.folder, *arguments, index=self.folder / "ix")
        assert done.exit_code == code, done.output
        return done

    def json(self, *arguments: str, code: int = 0) -> dict[str, object]:
        """The one object."""
        (line,) = self(*arguments, "--json", code=code).stdout.splitlines()
        return json.loads(line)

    def error(self, *arguments: str, code: int = 1) -> str:
        """The one line, where nothing else is said."""
        done = self(*arguments, code=code)
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith("error: ")
        return line

    def live(self, pattern: str) -> Path:
        """The one file of the live version that matches."""
        (found,) = versions(self.folder / "ix").live.glob(pattern)
        return found

    def damage(self, text: str) -> None:
        """Flip a bit of a text in the database."""
        path = self.live("index.sqlite")
        data = bytearray(path.read_bytes())
        data[data.index(text.encode())] ^= 1
        path.write_bytes(data)


@pytest.fixture(scope="module")
def made(tmp_path_factory, rag_within) -> Path:
    """An index of four files, one of them broken; every test has a copy."""
    folder = tmp_path_factory.mktemp("kept")
    docs = folder / "docs"
    docs.mkdir()
    for name, text in {"ferry.txt": FERRY, "clocks.md": CLOCKS, "bees.txt": BEES, "page.html": PAGE}.items():
        (docs / name).write_text(text, encoding="utf-8")
    (docs / "broken.bin").write_bytes(b"\x00\x01\x02\xff" * 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.indexer._ENOUGH_TOKENS", 1500)
        done = rag_within(folder, "ingest", "docs", index=folder / "ix")
    rows = [line.split() for line in done.stdout.splitlines()]
    head = rows.index(["format", "added", "changed", "failed"])
    assert sorted(rows[head + 1 : head + 5]) == [
        ["bin", "0", "0", "1"],
        ["html", "1", "0", "0"],
        ["md", "1", "0", "0"],
        ["txt", "2", "0", "0"],
    ]
    return folder


@pytest.fixture
def rag(made, tmp_path, rag_within, little_common_text) -> Place:
    del little_common_text
    place = Place(tmp_path / "here", rag_within)
    shutil.copytree(made / "ix", place.folder / "ix")
    (place.folder / "docs").symlink_to(made / "docs")
    return place


@pytest.mark.parametrize("command", COMMANDS)
def test_without_an_index_every_command_says_so(tmp_path, rag_within, command):
    where = tmp_path / "none"
    done = rag_within(tmp_path, "index", *command.split(), index=where)
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: there is no index in '{where}'")
    assert len(done.stderr.splitlines()) == 1
    assert not where.exists()
    assert not (tmp_path / "b.rag").exists()


def test_the_ledger_accounts_for_every_byte(rag):
    shown = rag("index", "info", "--ledger").stdout
    sizes = [line.split() for line in shown.splitlines()]
    assert sizes[0][:4] == ["source", "bytes", "characters", "tokens"]
    assert any(row[:3] == ["ferry.txt", str(len(FERRY)), str(len(FERRY))] for row in sizes)
    assert "every character is accounted for, every token is embedded" in shown
    assert re.search(r"^page\.html +hidden elements: 1 *$", shown, re.MULTILINE)
    rows = [json.loads(line) for line in rag("index", "info", "--ledger", "--json").stdout.splitlines()]
    assert [row["source"] for row in rows] == ["bees.txt", "clocks.md", "ferry.txt", "page.html"]
    wanted = {"root", "source", "bytes", "characters", "in_chunks", "blank", "unaccounted", "chunks", "tokens"}
    for row in rows:
        assert row.keys() == wanted | {"embedded", "unembedded", "unknown", "left_out"}
        assert (row["unaccounted"], row["unembedded"]) == (0, 0)
    assert rows[3]["left_out"] == {"hidden_elements": 1}


def account(source: str, **values: object) -> Account:
    counts = (
        "characters",
        "in_chunks",
        "blank",
        "unaccounted",
        "chunks",
        "tokens",
        "embedded",
        "unembedded",
        "unknown",
    )
    return Account("/docs", source, **{"bytes": None, **dict.fromkeys(counts, 0), **values})


def test_the_ledger_of_many_documents_shows_what_is_missing_before_the_largest(capsys):
    rows = [account(f"{number:04}.md", characters=number) for number in range(500)]
    rows += [account("short.md", unaccounted=7), account("cut.pdf", left_out={"pages_failed": list(range(3, 13))})]
    _print_accounts(rows, Console(width=100))
    shown = capsys.readouterr()
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["source", "bytes", "characters", "tokens", "unaccounted"]
    assert len(lines[1 : lines.index(["left", "out", "by", "the", "parser"])]) == LEDGER_ROWS + 2  # the sum, a blank
    assert ["short.md", "0", "0", "7"] in lines
    assert ["all", "502", "0", f"{sum(range(500)):,}", "0", "7"] in lines
    assert "every character is accounted for" not in shown.out
    assert lines[-1:] == [["cut.pdf", "pages", "failed:", "3,", "4,", "5,", "6,", "7,", "and", "5", "more"]]
    assert f"{LEDGER_ROWS} of 502 documents" in shown.err


def test_a_deletion_and_its_receipt(rag):
    done = rag("delete", "ferry.txt")
    assert done.stdout.startswith("deleted ferry.txt from the index\nlooked for ")
    assert re.search(r"^1 chunks +0 +1 searches with its own passages *$", done.stdout, re.MULTILINE)
    assert ("nothing of it is left in the index" in done.stdout) != ("run: rag index compact" in done.stderr)
    done = rag("delete", "bees.txt", "--compact")
    assert done.stdout.endswith("nothing of it is left in the index\n")
    assert not any(b"beekeeper" in path.read_bytes() for path in (rag.folder / "ix").rglob("*") if path.is_file())
    record = rag.json("delete", "clocks.md", "--compact")
    assert (record["source"], len(record["deleted"])) == ("clocks.md", 1)
    receipt = record["receipt"]
    assert receipt.keys() == {
        "chunks", "searches", "found_by_search", "terms", "terms_left", "samples", "files", "bytes", "left_in", "gone",
    }  # fmt: skip
    assert (receipt["gone"], receipt["left_in"]) == (True, {})
    assert "there is no document 'clocks.md'" in rag.error("delete", "clocks.md")
    assert (rag.folder / "docs" / "clocks.md").exists()


def test_damaged_search_files_are_found_and_written_anew(rag):
    assert rag("index", "repair").stdout == "the index is sound; nothing was changed\n"
    with rag.live("dense-*.faiss").open("r+b") as file:
        file.truncate(100)
    found = rag("index", "verify", code=1)
    assert "has 100 bytes" in found.stdout
    assert found.stderr == "to mend it, run: rag index repair\n"
    problems = rag.json("index", "verify", code=1)
    assert problems == {"ok": False, "problems": found.stdout.splitlines()}
    assert rag.json("index", "repair") == {
        "problems": problems["problems"], "rewritten": True, "kept": 0, "embedded": 0, "lost": [],
        "again": [],
    }  # fmt: skip
    assert rag.json("index", "verify") == {"ok": True, "problems": []}


def test_a_damaged_text_is_never_shown_and_what_is_lost_is_named(rag, made):
    rag.damage("pier seven")
    for command in (["search", "ferry"], ["ask", "Where does the ferry leave from?"], ["index", "export"]):
        done = rag(*command, code=1)
        assert "the stored text of 'ferry.txt' is damaged; run: rag index repair" in done.stderr
        assert "ier seven" not in done.stdout
    assert "nothing was changed" in rag.error("index", "compact")
    done = rag("index", "repair", code=1)
    assert "'ferry.txt'" in done.stdout
    docs = (made / "docs").resolve()
    assert f"lost: {docs}/ferry.txt\n" in done.stderr
    assert done.stderr.endswith(f"run: rag ingest {docs}\n")
    assert "3 documents were taken over, 0 texts encoded again" in done.stderr
    assert rag.json("ingest", "docs")["added"] == ["ferry.txt"]
    assert rag("index", "verify").stdout == "the index is sound\n"


def test_a_backup_is_one_file_that_brings_everything_back(rag):
    record = rag.json("index", "backup", "b.rag")
    assert record.keys() == {
        "file", "created_at", "generation", "documents", "chunks", "bytes", "sha256", "format",
    }  # fmt: skip
    assert (record["file"], record["documents"]) == ("b.rag", 4)
    assert "b.rag' is there already" in rag.error("index", "backup", "b.rag")
    assert rag("index", "backup", "b.rag", "--force").stdout.startswith("b.rag: 4 documents, 4 chunks, ")
    rag("delete", "ferry.txt")
    assert rag.json("index", "restore", "b.rag")["documents"] == 4
    assert rag.json("index", "restore") == {"file": None, "documents": 3}  # as before
    done = rag("index", "restore", "b.rag", "--index", "new")
    assert re.fullmatch(r"restored b\.rag, written 20[0-9T:+-]+: 4 documents\n", done.stdout)
    assert "rag index restore" not in done.stderr  # there was nothing before
    done = rag("index", "restore", "b.rag")
    assert done.stderr.endswith("to undo this, run: rag index restore\n")
    data = bytearray((rag.folder / "b.rag").read_bytes())
    data[len(data) // 2] ^= 1
    (rag.folder / "bad.rag").write_bytes(data)
    (rag.folder / "cut.rag").write_bytes(data[:5000])
    before = rag.json("index", "info")["version"]
    for name in ("bad.rag", "cut.rag", "docs/ferry.txt", "docs", "none.rag"):
        assert f"{name}'" in rag.error("index", "restore", name)
    assert rag.json("index", "info")["version"] == before


def test_a_rebuild_can_be_undone_until_the_index_is_compacted(rag):
    assert "there is no earlier version" in rag.error("index", "restore")
    done = rag("ingest", "docs", "--rebuild")
    assert done.stderr.endswith(
        "the earlier index is kept: rag index restore brings it back, rag index compact drops it\n"
    )
    assert rag.json("index", "info")["version"] == {"live": "version-000002", "previous": ".", "unfinished": False}
    assert rag("index", "restore").stdout == "restored the version before: 4 documents\n"
    assert rag.json("index", "info")["version"]["live"] == "."
    record = rag.json("index", "compact")
    assert record.keys() == {"bytes_before", "bytes_after"}
    assert record["bytes_after"] < record["bytes_before"]
    assert re.search(r"^[0-9.]+ MB became [0-9.]+ MB; nothing deleted is left$", rag("index", "compact").stdout)
    assert "there is no earlier version" in rag.error("index", "restore")
    assert rag("index", "verify").stdout == "the index is sound\n"


def test_export_is_every_chunk(rag):
    lines = rag("index", "export").stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert [record["source"] for record in records] == ["bees.txt", "clocks.md", "ferry.txt", "page.html"]
    assert records[0].keys() == {
        "doc_id", "root", "source", "chunk_id", "ordinal", "start", "end", "line", "page", "heading", "context",
        "tokens", "text", "metadata",
    }  # fmt: skip
    with closing(Store.open(rag.folder / "ix")) as store:
        for record in records:
            text = store.document(record["doc_id"]).text
            assert record["text"] == text[record["start"] : record["end"]]
    assert rag("index", "export", "--out", "e.jsonl").stderr == "4 chunks in e.jsonl\n"
    assert (rag.folder / "e.jsonl").read_text(encoding="utf-8").splitlines() == lines
    assert "e.jsonl' is there already; choose another name" in rag.error("index", "export", "--out", "e.jsonl")
    rag.damage("pier seven")
    assert "is damaged" in rag.error("index", "export", "--out", "half.jsonl")
    assert not (rag.folder / "half.jsonl").exists()


@pytest.mark.parametrize("arguments", [("backup",), ("nonsense",), ("export", "--json"), ("restore", "a", "b")])
def test_wrong_use(rag, arguments):
    done = rag("index", *arguments, code=2)
    assert done.stdout == ""
