"""The sample corpus: exact, repeatable, and careful with files of others."""

from __future__ import annotations

from pydoc_data.topics import topics

import pytest

from app.sample import LIST_NAME, export, main
from retrieval.errors import RagError

TWO = {"if": "The if statement\n", "for-loops": "naïve\r\nlines\n"}


def test_every_topic_is_one_file_with_the_very_characters(tmp_path):
    done = export(tmp_path / "new" / "sample", topics)
    files = {file.name: file.read_bytes().decode() for file in (tmp_path / "new" / "sample").glob("*.txt")}
    assert files == {f"{name}.txt": text for name, text in topics.items()}
    assert len(done.written) == len(topics)


def test_a_second_run_writes_nothing(tmp_path):
    export(tmp_path, TWO)
    before = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.txt")}
    assert export(tmp_path, TWO).written == ()
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.txt")} == before


def test_only_what_differs_is_written_and_vanished_topics_go(tmp_path):
    export(tmp_path, TWO)
    (tmp_path / "mine.txt").write_text("not ours")
    done = export(tmp_path, {"if": "changed"})
    assert (done.written, done.removed) == (("if.txt",), ("for-loops.txt",))
    assert sorted(file.name for file in tmp_path.iterdir()) == [LIST_NAME, "if.txt", "mine.txt"]


def test_a_file_of_somebody_else_is_never_overwritten_or_removed(tmp_path):
    (tmp_path / "if.txt").write_text("my own notes")
    with pytest.raises(RagError, match="was not written by this command"):
        export(tmp_path, TWO)
    assert (tmp_path / "if.txt").read_text() == "my own notes"
    assert [file.name for file in tmp_path.iterdir()] == ["if.txt"]


def test_a_forged_list_reaches_no_file_outside(tmp_path):
    outside = tmp_path / "precious.txt"
    outside.write_text("keep")
    folder = tmp_path / "sample"
    folder.mkdir()
    (folder / LIST_NAME).write_text("../precious.txt\n/etc/passwd\n..\n")
    assert export(folder, TWO).removed == ()
    assert outside.read_text() == "keep"


def test_a_name_that_is_no_plain_file_name(tmp_path):
    with pytest.raises(RagError, match="no plain file names"):
        export(tmp_path / "x", {"../up": "text"})
    assert not (tmp_path / "x").exists()


def test_command(tmp_path, capsys):
    assert main([str(tmp_path / "s")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert main([]) == 2
    assert main(["-x"]) == 2
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
