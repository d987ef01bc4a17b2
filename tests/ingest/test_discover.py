"""What is found below a folder, what is left aside and why."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ingest.discover import Discovery, FoundFile, discover, read_file
from retrieval.errors import ParseError

CAP = 1_000


def tree(root: Path, *files: str, content: str = "text") -> None:
    for name in files:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")


def sources(found: Discovery) -> list[str]:
    return [file.source for file in found.files]


def reasons(rows: object) -> dict[str, str]:
    return {row.source: row.reason for row in rows}


def find(*paths: Path, cap: int = CAP, follow_hidden: bool = False) -> Discovery:
    return discover(paths, max_file_bytes=cap, follow_hidden=follow_hidden)


def test_folder_is_the_root_and_order_is_fixed(tmp_path):
    tree(tmp_path, "b.md", "a/z.md", "a/a.md", "c")
    found = find(tmp_path)
    assert found.roots == (tmp_path.as_posix(),)
    assert sources(found) == ["a/a.md", "a/z.md", "b.md", "c"]
    assert {file.root for file in found.files} == {tmp_path.as_posix()}
    path = tmp_path / "a/a.md"
    assert found.files[0] == FoundFile(tmp_path.as_posix(), "a/a.md", path, 4, path.stat().st_mtime)
    assert found.skipped == found.failures == ()


def test_hidden_and_tool_folders_are_one_row_each(tmp_path):
    tree(tmp_path, "a.md", ".secret", ".git/x/y", "__pycache__/a.pyc", "sub/node_modules/p/i.js", ".github/w.yml")
    found = find(tmp_path)
    assert sources(found) == ["a.md"]
    assert reasons(found.skipped) == {
        ".git": "never searched (folder)",
        ".github": "hidden (folder)",
        ".secret": "hidden",
        "__pycache__": "never searched (folder)",
        "sub/node_modules": "never searched (folder)",
    }
    assert sources(find(tmp_path, follow_hidden=True)) == [".github/w.yml", ".secret", "a.md"]


def test_gitignore_nests_negates_and_anchors(tmp_path):
    tree(
        tmp_path, "a.log", "keep.log", "top/x.md", "sub/top/y.md", "sub/a.log", "sub/b.tmp", "build/deep/x.md", "c.tmp"
    )
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/top\nbuild/\n# comment\n\n*.tmp\r\n")
    (tmp_path / "sub/.gitignore").write_text("!a.log\n")
    found = find(tmp_path)
    assert sources(found) == ["keep.log", "sub/a.log", "sub/top/y.md"]
    skipped = reasons(found.skipped)
    assert skipped["build"] == "ignored by .gitignore (folder)"
    assert {"a.log", "c.tmp", "sub/b.tmp", "top", "build"} <= set(skipped)


def test_gitignore_lines_that_cannot_be_applied_are_reported(tmp_path):
    tree(tmp_path, "a.md", "b.log", "a" * 200)
    (tmp_path / ".gitignore").write_text("*a*a*a*a*a*a*a*b\n!\n*.log\n**/x/**/*.tmp\n")
    found = find(tmp_path)
    assert sources(found) == ["a.md", "a" * 200]
    assert "lines 1, 2" in reasons(found.failures)[".gitignore"]


def test_named_files_are_taken_although_hidden_or_ignored(tmp_path):
    tree(tmp_path, "docs/.hidden.md", "docs/x.log", "docs/a.md", "docs/.notes/n.md")
    (tmp_path / "docs/.gitignore").write_text("*.log\n")
    docs = tmp_path / "docs"
    alone = find(docs / ".hidden.md", docs / "x.log")
    assert sources(alone) == [".hidden.md", "x.log"]
    assert alone.roots == ()  # nothing can be said about the rest of the folder
    assert alone.files[0].root == docs.as_posix()
    together = find(docs, docs / ".hidden.md", docs / "x.log", docs / ".notes")
    assert sources(together) == [".hidden.md", ".notes/n.md", "a.md", "x.log"]
    assert set(reasons(together.skipped)) == {".gitignore"}


def test_files_belong_to_the_outermost_root_once(tmp_path):
    tree(tmp_path, "a/x.md", "a/b/y.md", "c/z.md")
    found = find(tmp_path / "a/b", tmp_path / "a", tmp_path / "a/b/y.md", tmp_path / "a", tmp_path / "c/z.md")
    assert [(Path(file.root).name, file.source) for file in found.files] == [
        ("a", "b/y.md"),
        ("a", "x.md"),
        ("c", "z.md"),
    ]
    assert found.roots == ((tmp_path / "a").as_posix(),)


def test_order_of_the_paths_does_not_matter(tmp_path):
    tree(tmp_path, "a/x.md", "a/b/y.md", "c/z.md", "c/.gitignore")
    paths = [tmp_path / "a", tmp_path / "a/b", tmp_path / "c/z.md", tmp_path / "c"]
    assert find(*paths) == find(*reversed(paths))


def test_missing_and_empty_paths_are_failures(tmp_path):
    (tmp_path / "empty").mkdir()
    tree(tmp_path, "aside/.hidden")
    found = find(tmp_path / "gone.md", tmp_path / "gone.md", tmp_path / "empty", tmp_path / "aside", Path("a\0b"))
    assert [failure.reason for failure in found.failures if failure.source == "gone.md"] == [
        "cannot be found: No such file or directory"
    ]
    empty = {Path(failure.root).name: failure.reason for failure in found.failures if failure.source == "."}
    assert empty["empty"] == "no files in this folder"
    assert empty["aside"].startswith("no files in this folder (1 entries left aside")
    assert all(failure.advice for failure in found.failures)
    assert len(found.failures) == 4


def test_too_large_says_both_sizes_even_when_named(tmp_path):
    tree(tmp_path, "big.txt", content="x" * 1_001)
    tree(tmp_path, "fits.txt", content="x" * 1_000)
    found = find(tmp_path, tmp_path / "big.txt")
    assert sources(found) == ["fits.txt"]
    (failure,) = found.failures
    assert failure.reason == "too large: 1,001 bytes, the cap is 1,000 bytes"
    assert "max_file_mb" in failure.advice
    assert "--max-file-mb" in failure.advice


def test_links_stay_inside_and_do_not_loop(tmp_path):
    tree(tmp_path, "root/a.md", "root/sub/b.md", "root/.versions/v2/c.md", "outside.md", "outer/d.md")
    root = tmp_path / "root"
    (root / "again.md").symlink_to("a.md")
    (root / "sub/loop").symlink_to(root)
    (root / "latest").symlink_to(".versions/v2")
    (root / ".versions/v2/up").symlink_to(root / "sub")
    (root / "out.md").symlink_to(tmp_path / "outside.md")
    (root / "outer").symlink_to(tmp_path / "outer")
    (root / "dangling").symlink_to("nowhere")
    (root / "self").symlink_to("self")
    found = find(root)
    assert sources(found) == ["a.md", "latest/c.md", "sub/b.md"]
    assert reasons(found.skipped) == {
        ".versions": "hidden (folder)",
        "dangling": "symbolic link to nowhere",
        "out.md": "symbolic link out of the folder",
        "outer": "symbolic link out of the folder",
        "self": "symbolic link to nowhere",
    }


def test_root_named_through_a_link_is_the_same_root(tmp_path):
    tree(tmp_path, "real/a.md")
    (tmp_path / "link").symlink_to("real")
    assert find(tmp_path / "link") == find(tmp_path / "real")


def test_prefix_of_a_name_is_not_inside(tmp_path):
    tree(tmp_path, "docs/a.md", "docs2/b.md")
    (tmp_path / "docs/b.md").symlink_to(tmp_path / "docs2/b.md")
    found = find(tmp_path / "docs", tmp_path / "docs2")
    assert len(found.roots) == 2
    assert reasons(found.skipped) == {"b.md": "symbolic link out of the folder"}


def test_special_files_are_never_opened(tmp_path):
    tree(tmp_path, "a.md")
    os.mkfifo(tmp_path / "pipe.md")
    found = find(tmp_path, tmp_path / "pipe.md")
    assert sources(found) == ["a.md"]
    assert reasons(found.skipped) == {"pipe.md": "not a regular file but a named pipe"}
    with pytest.raises(ParseError, match="regular file"):
        read_file(FoundFile(str(tmp_path), "pipe.md", tmp_path / "pipe.md", 0), CAP)


def test_unreadable_folder_is_a_failure(tmp_path, monkeypatch):
    tree(tmp_path, "a.md", "locked/b.md")
    scandir = os.scandir

    def refuse(path: str) -> object:  # the superuser, who may run the tests, is refused nothing
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find(tmp_path)
    assert sources(found) == ["a.md"]
    assert reasons(found.failures) == {"locked": "folder cannot be read: Permission denied"}


@pytest.mark.skipif(os.name == "nt", reason="names are bytes on POSIX only")
def test_names_that_are_not_utf8_are_safe_and_unique(tmp_path):
    raw = os.fsencode(tmp_path)
    for name in (b"\xff.md", b"\xfe.md", rb"\xff.md", b"line\nfeed\x1b[31m.md"):
        with open(raw + b"/" + name, "wb") as file:  # noqa: PTH123  (a path of bytes)
            file.write(name)
    found = find(tmp_path)
    assert len(set(sources(found))) == 4
    assert "line\nfeed\x1b[31m.md" in sources(found)
    for file in found.files:
        file.source.encode("utf-8")
        assert read_file(file, CAP) == os.fsencode(file.path.name)
    assert sources(found) == sources(find(tmp_path))


def test_read_file_checks_again(tmp_path):
    path = tmp_path / "a.md"
    path.write_bytes(b"12345")
    found = FoundFile(str(tmp_path), "a.md", path, 5)
    assert read_file(found, 5) == b"12345"
    with pytest.raises(ParseError, match="larger than 4 bytes"):
        read_file(found, 4)
    path.unlink()
    with pytest.raises(ParseError, match="No such file"):
        read_file(found, 5)
    path.symlink_to("/etc/passwd")  # swapped after the search
    with pytest.raises(ParseError, match="cannot be read"):
        read_file(found, 5)


def test_many_files_are_fast(tmp_path):
    for folder in range(20):
        (tmp_path / str(folder)).mkdir()
        for number in range(200):
            os.close(os.open(tmp_path / f"{folder}/{number}.md", os.O_CREAT | os.O_WRONLY))
    (tmp_path / ".gitignore").write_text("*.log\nbuild/\n")
    assert len(find(tmp_path).files) == 4_000
