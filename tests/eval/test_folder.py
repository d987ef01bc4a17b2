"""A run folder: it goes on where it stopped, mixes no two runs, and names the line of whatever is damaged."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.errors import EvalError
from eval.folder import MANIFEST, PREDICTIONS, SCORES, begun, load_run
from eval.records import Candidate, Choice, Example, Judged, Lost, Prediction
from eval.wire import dumps, loads
from reader.records import Citation, Sentence, Turn
from retrieval.records import Hit, Place, Stages

MADE = {"format": 1, "name": "notes", "created_at": "now", "dataset": {"sha256": "a"}, "config": {"top_k": 5}}

STAGES = Stages(1, 0.9, None, None, 2, 0.4, 0.3, 0.2)
TWIN = Place("c2", "d2", "b.md", 0, 6)
HIT = Hit(1, 0.5, "c1", "d1", "notes.md", 3, 9, "头痛 text", ("A", "B"), 2, 7, also_in=(TWIN,), stages=STAGES)
WHOLE = Prediction(
    "q/1", "哪里？\u2028", "In [1].", False, None, 0.25, 1,
    (Citation(1, "c1", "d1", "notes.md", 3, 9, "头痛 text", 7, 2, ("A",), None, "Sheet", 4),),
    (Sentence(0, 7, (1,), "supported", 0.9, alone=(0.9,)),), (HIT,),
    (Candidate("c1", ("notes.md", "b.md"), 1, None, 2, ("c2",)),), ("c1",), {"encode": 1.5}, {"prompt": 3},
)  # fmt: skip


def predictions(*names):
    return [Prediction(name, f"{name}?", answer="yes") for name in names]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "run"


def left(folder, *names, **changes):
    """A run that was begun and stopped after some questions."""
    with begun(folder, {**MADE, **changes}) as run:
        run.append(predictions(*names))


# ---- lines -----------------------------------------------------------------------------------------------------------


def test_a_prediction_comes_back_as_it_was():
    assert loads(Prediction, dumps(WHOLE)) == WHOLE


def test_the_id_is_called_id_and_ranks_are_short():
    record = json.loads(dumps(WHOLE))
    assert record["id"] == "q/1"
    assert record["candidates"] == [["c1", ["notes.md", "b.md"], 1, None, 2, ["c2"]]]
    assert record["hits"][0]["stages"]["dense_rank"] == 1


def test_keys_that_are_data_keep_their_names():
    """A document may well be called "id"."""
    example = Example("q1", "Where?", relevant={"id": 1, "example_id": 2}, choices=(Choice("x", correct=True),),
                      history=(Turn("a", "b"),))  # fmt: skip
    judged = Judged(example, {"answer.f1": 0.5}, Lost("not retrieved", "no rank"), ("c1",), ("gone.md",))
    assert loads(Judged, dumps(judged)) == judged


@given(st.text(), st.text(), st.dictionaries(st.text(), st.integers(1, 9)))
def test_any_text_fits_on_one_line(name, question, relevant):
    assume_utf8 = [part.encode("utf-8", "replace").decode() for part in (name, question)]
    judged = Judged(Example(*assume_utf8), {"retrieval.x": 1.0}, gold_passages=tuple(map(str, relevant)))
    line = dumps(judged)
    assert "\n" not in line
    assert loads(Judged, line.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass")) == judged


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("[1]", "the whole line"),
        ("{", "Expecting property name"),
        ('{"id": "a"}', "question"),
        ('{"id": "a", "question": "b", "hits": [{"rank": "first"}]}', r"hits\.0\.rank"),
        ('{"id": "a", "question": "b", "timings_ms": {"encode": "long"}}', r"timings_ms\.encode"),
        ('{"id": "a", "question": "b", "evidence": NaN}', "NaN is no number"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_prediction_says_what_is_wrong(line, named):
    with pytest.raises(ValueError, match=named):
        loads(Prediction, line)


# ---- begin and go on -------------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_stopped(folder):
    left(folder, "a", "b")
    with begun(folder, {**MADE, "created_at": "later"}) as run:
        assert run.done == {"a", "b"}
        run.append(predictions("c"))
        assert [one.example_id for one in run.predictions()] == ["a", "b", "c"]
        assert run.manifest["created_at"] == "now"


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_line_that_was_cut_off_is_asked_again(folder, cut):
    left(folder, "a", "b")
    path = folder / PREDICTIONS
    path.write_bytes(path.read_bytes()[:-cut])
    with begun(folder, MADE) as run:
        assert run.done == {"a"}
        run.append(predictions("b"))
    with begun(folder, MADE) as run:
        assert run.done == {"a", "b"}


def test_another_run_is_not_mixed_in(folder):
    left(folder, "a")
    with (
        pytest.raises(EvalError, match=r"config\.top_k 5 \(now 9\).*--force"),
        begun(folder, {**MADE, "config": {"top_k": 9}}),
    ):
        pass
    with begun(folder, MADE) as run:
        assert run.done == {"a"}


def test_force_begins_anew(folder):
    left(folder, "a")
    with begun(folder, {**MADE, "config": {"top_k": 9}}, force=True) as run:
        assert run.done == frozenset()
        assert run.manifest["config"] == {"top_k": 9}


def test_a_folder_with_other_things_is_left_alone(folder):
    folder.mkdir()
    (folder / "thesis.docx").write_text("years of work")
    with pytest.raises(EvalError, match=r"thesis\.docx.*--force"), begun(folder, MADE):
        pass
    with begun(folder, MADE, force=True):
        pass
    assert (folder / "thesis.docx").read_text() == "years of work"


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(EvalError, match="is a file"), begun(tmp_path / "run", MADE):
        pass


def test_two_at_once_are_refused(folder):
    with begun(folder, MADE), pytest.raises(EvalError, match="another process"), begun(folder, MADE):
        pass


def test_a_run_of_another_version_is_named(folder):
    left(folder, "a")
    (folder / MANIFEST).write_text(json.dumps({**MADE, "format": 2}))
    for opened in (lambda: begun(folder, MADE).__enter__(), lambda: load_run(folder)):
        with pytest.raises(EvalError, match="format 2, expected 1"):
            opened()


@pytest.mark.parametrize("content", ["", "[]", "{", '{"format": 1', "null", "\ufeff{}"])
def test_a_damaged_manifest_is_named(folder, content):
    left(folder, "a")
    (folder / MANIFEST).write_text(content, encoding="utf-8")
    with pytest.raises(EvalError, match=r"manifest\.json"), begun(folder, MADE):
        pass


def test_a_damaged_line_is_named_with_its_number(folder):
    left(folder, "a", "b", "c")
    path = folder / PREDICTIONS
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:20], lines[2], ""]))
    with pytest.raises(EvalError, match=r"predictions\.jsonl:2: .*--force"), begun(folder, MADE):
        pass


def test_a_question_that_stands_there_twice_is_named(folder):
    left(folder, "a", "a")
    with pytest.raises(EvalError, match="'a' twice"), begun(folder, MADE):
        pass


# ---- a finished run --------------------------------------------------------------------------------------------------


def test_a_finished_run_is_loaded(folder):
    with begun(folder, MADE) as run:
        run.append(predictions("a"))
        run.write_questions([Judged(Example("a", "a?"), {"answer.f1": 1.0})])
        run.write_scores({"answer": {"f1": {"value": 1.0}}})
        run.write_manifest(finished_at="later")
        assert run.is_complete
    made = load_run(folder)
    assert made.judged["a"].values == {"answer.f1": 1.0}
    assert made.scores["answer"]["f1"]["value"] == 1.0
    assert made.manifest["finished_at"] == "later"


def test_what_is_no_run_or_not_finished_says_so(folder):
    with pytest.raises(EvalError, match="holds no run"):
        load_run(folder)
    left(folder, "a")
    assert not (folder / SCORES).exists()
    with pytest.raises(EvalError, match="not finished"):
        load_run(folder)
