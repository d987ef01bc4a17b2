"""TREC files: what is written is read back whatever the ids, other tools read it too, bad lines are named."""

from __future__ import annotations

import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eval import trec
from eval.errors import EvalError
from eval.trec import MAX_LINE_BYTES, read_run, write_qrels, write_run

names = st.text(min_size=1, max_size=8) | st.text("%2 5C文\t\n\r\u3000\x00\x1c\ufeff\udcff", min_size=1, max_size=8)
same_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@same_folder
@given(st.dictionaries(names, st.lists(names, min_size=1, max_size=6, unique=True), max_size=4), names)
def test_a_run_is_read_back_as_it_was(tmp_path, runs, tag):
    write_run(tmp_path / "a.run", runs, tag=tag)
    assert read_run(tmp_path / "a.run") == {question: tuple(listed) for question, listed in runs.items()}
    lines = (tmp_path / "a.run").read_text(encoding="utf-8").splitlines()
    assert all(len(line.split()) == 6 for line in lines)  # also for tools that part at Unicode's white space


@same_folder
@given(st.dictionaries(names, st.dictionaries(names, st.integers(-2, 1000), min_size=1, max_size=6), max_size=4))
def test_a_judgement_is_a_line_of_four_fields(tmp_path, relevant):
    write_qrels(tmp_path / "qrels", relevant)
    lines = (tmp_path / "qrels").read_text(encoding="utf-8").splitlines()
    assert [line.split()[3] for line in lines] == [
        str(grade) for graded in relevant.values() for grade in graded.values()
    ]
    assert all(len(line.split()) == 4 for line in lines)


def test_what_is_written_to_the_letter(tmp_path):
    write_run(tmp_path / "a.run", {"q 1": ["文档.md", "100%", "文档.md"], "none": []}, tag="mine")
    assert (tmp_path / "a.run").read_text(encoding="utf-8") == ("q%201 Q0 文档.md 1 2 mine\nq%201 Q0 100%25 2 1 mine\n")
    write_qrels(tmp_path / "qrels", {"q": {"a\u3000b": 2, "c": 0}})
    assert (tmp_path / "qrels").read_text(encoding="utf-8") == "q 0 a%E3%80%80b 2\nq 0 c 0\n"


def test_pytrec_eval_and_ir_measures_read_what_we_write(tmp_path):
    import ir_measures
    import pytrec_eval

    write_run(tmp_path / "a.run", {"问": ["b", "a", "c"]})
    with (tmp_path / "a.run").open(encoding="utf-8") as file:
        assert pytrec_eval.parse_run(file) == {"问": {"b": 3.0, "a": 2.0, "c": 1.0}}
    write_qrels(tmp_path / "qrels", {"问": {"b": 1}})
    assert [tuple(each)[:3] for each in ir_measures.read_trec_qrels(str(tmp_path / "qrels"))] == [("问", "b", 1)]


@pytest.mark.parametrize("name", ["Caf%C3%A9", "50%", "%zz", "a%2Fb", "a%2fb", "%ff", "%20%C3"])
def test_escapes_that_are_another_tools_stay(tmp_path, name):
    (tmp_path / "a.run").write_text(f"q Q0 {name} 1 1 t\n")
    assert read_run(tmp_path / "a.run") == {"q": (name,)}


def test_order_is_by_score_then_rank_then_line(tmp_path):
    (tmp_path / "a.run").write_text(
        "q2 Q0 low 1 -1e3 t\n"
        "q1 Q0 x 9 .5 t\n"
        "q2 Q0 third 3 7 t\n"
        "q2 Q0 fourth 3 7.0 t\n"
        "\n"
        "q2 Q0 second 2 +7 t\n"
        "q2 Q0 first 4 7.25 t\n"
    )
    assert read_run(tmp_path / "a.run") == {"q2": ("first", "second", "third", "fourth", "low"), "q1": ("x",)}
    assert list(read_run(tmp_path / "a.run")) == ["q2", "q1"]


def test_what_other_systems_write_is_read(tmp_path):
    (tmp_path / "a.run").write_bytes("\ufeffq\tQ0\ta\u3000b\t1\t2\tt\r\nq  Q0 c  2 1 t".encode())
    assert read_run(tmp_path / "a.run") == {"q": ("a\u3000b", "c")}
    (tmp_path / "empty").write_bytes(b"\n")
    assert read_run(tmp_path / "empty") == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"q Q0 b 2 1", "found 5 fields, expected 6: question Q0 document rank score tag"),
        (b"q Q0 b 2 1 t t", "found 7 fields"),
        (b"q Q0 b 2 nan t", "found score 'nan', expected a finite number"),
        (b"q Q0 b 2 inf t", "found score 'inf'"),
        (b"q Q0 b 2 1e999 t", "found score '1e999'"),
        (b"q Q0 b 2 1_0 t", "found score '1_0'"),
        ("q Q0 b 2 １ t".encode(), "found score '１'"),
        (b"q Q0 b x 1 t", "found rank 'x', expected a whole number"),
        (b"q Q0 b 12345678901 1 t", "found rank '12345678901'"),
        (b"q Q0 a 2 1 t", "found document 'a' a second time for its question"),
        (b"q Q0 \xff\xfe 2 1 t", "found bytes that are not UTF-8"),
        (b"q Q0 " + b"b" * MAX_LINE_BYTES + b" 2 1 t", "found a longer line, expected at most 10,000 bytes"),
        (b"q Q0 b 2 " + b"\x1b" * 99 + b" t", r"found score '\\x1b"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    (tmp_path / "a.run").write_bytes(b"q Q0 a 1 2 t\n" + line + b"\n")
    with pytest.raises(EvalError, match=f"a.run, line 2: {said}") as caught:
        read_run(tmp_path / "a.run")
    assert len(str(caught.value)) < 500
    assert str(caught.value).isprintable()


def test_two_spellings_of_one_document_are_noticed(tmp_path):
    (tmp_path / "a.run").write_text("q Q0 %25C3 1 2 t\nq Q0 %C3 2 1 t\n")  # the first stands for the second
    with pytest.raises(EvalError, match="line 2: found document '%C3' a second time"):
        read_run(tmp_path / "a.run")


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    for path, said in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file")):
        with pytest.raises(EvalError, match=f"{path.name} cannot be read: {said}"):
            read_run(path)
    (tmp_path / "utf16").write_bytes("q Q0 a 1 1 t\n".encode("utf-16"))
    with pytest.raises(EvalError, match="utf16, line 1: found bytes that are not UTF-8"):
        read_run(tmp_path / "utf16")
    monkeypatch.setattr(trec, "MAX_FILE_BYTES", 25)
    (tmp_path / "large").write_text("q Q0 a 1 2 t\nq Q0 b 2 1 t\n")
    with pytest.raises(EvalError, match="large is too large: expected at most 25 bytes"):
        read_run(tmp_path / "large")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="needs /dev/zero")  # noqa: PTH110 - no path of ours
def test_a_file_without_an_end_is_refused_at_its_first_line():
    from pathlib import Path

    with pytest.raises(EvalError, match="line 1: found a longer line"):
        read_run(Path("/dev/zero"))


def test_a_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    write_run(tmp_path / "a.run", {"q": ["a"]})
    before = (tmp_path / "a.run").read_bytes()
    for runs in ({"q": ["b", ""]}, {"q": ["b", "x" * MAX_LINE_BYTES]}, {"": ["b"]}):
        with pytest.raises(EvalError, match="cannot hold question"):
            write_run(tmp_path / "a.run", runs)
    assert (tmp_path / "a.run").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.run"]
    with pytest.raises(EvalError, match="cannot be written: No such file or directory"):
        write_run(tmp_path / "no folder" / "a.run", {"q": ["a"]})


def test_a_link_left_where_the_draft_goes_is_not_followed(tmp_path):
    (tmp_path / "other").write_text("kept")
    (tmp_path / f".a.run.{os.getpid()}.part").symlink_to(tmp_path / "other")
    write_run(tmp_path / "a.run", {"q": ["a"]})
    assert (tmp_path / "other").read_text() == "kept"
    assert stat.S_ISREG((tmp_path / "a.run").lstat().st_mode)
