"""Evaluation runs over a real server: runs made by the product, and whatever else may lie in their folder."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from run_folders import NAME, made_runs
from serving import Serve, Served
from typer.testing import CliRunner

from app.cli import root

KEYS = {
    "name", "problem", "dataset", "started", "finished", "questions", "system", "scores", "has_report", "comparable",
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, small_index, model_cache, encoder) -> Path:
    """Two finished runs over the same questions, and one over others. Not to be changed."""
    return made_runs(tmp_path_factory.getbasetemp(), small_index, model_cache, encoder)


@pytest.fixture(scope="module")
def over(serve: Serve, small_index: Path, runs: Path, tmp_path_factory) -> Served:
    index = Path(shutil.copytree(small_index, tmp_path_factory.mktemp("served") / "index"))
    with serve(index, runs=runs) as one:
        yield one


@pytest.fixture
def among(serve: Serve, small_index: Path, tmp_path: Path):
    """A server whose folder of runs a test may fill: the folder, and the runs by name as the server lists them."""
    with serve(small_index, runs=tmp_path / "eval") as one:

        def listed() -> dict[str, dict]:
            answer = one.client.get("/api/runs")
            assert answer.status_code == 200, answer.text
            return {run["name"]: run for run in answer.json()["runs"]}

        (tmp_path / "eval").mkdir()
        yield tmp_path / "eval", listed, one.client


# ---- the list --------------------------------------------------------------------------------------------------------


def test_runs_are_listed_with_their_main_scores(over, runs):
    found = over.client.get("/api/runs").json()
    assert (found["folder"], found["left_out"], found["problem"]) == (str(runs), 0, None)
    by_name = {run["name"]: run for run in found["runs"]}
    assert by_name.keys() == {"first", "shy", NAME}
    first = by_name["first"]
    assert first.keys() == KEYS
    manifest = json.loads((runs / "first/manifest.json").read_text(encoding="utf-8"))
    scores = json.loads((runs / "first/scores.json").read_text(encoding="utf-8"))
    assert (first["started"], first["finished"]) == (manifest["created_at"], manifest["finished_at"])
    assert (first["questions"], first["problem"], first["has_report"], first["comparable"]) == (4, None, True, True)
    assert first["system"] == "all-MiniLM-L6-v2, extractive"
    measures = {score.pop("measure"): score for score in first["scores"]}
    assert {"retrieval.success@1", "answer.correct", "abstention.accuracy", "citations.validity"} <= measures.keys()
    for measure, score in measures.items():
        section, name = measure.split(".", 1)
        assert score == scores[section][name]


def test_no_folder_is_no_run_and_no_error(serve, small_index, tmp_path):
    with serve(small_index, runs=tmp_path / "nowhere") as one:
        assert one.client.get("/api/runs").json()["runs"] == []
        assert one.client.get("/api/runs/first/report").status_code == 404
        assert one.client.get("/api/runs/compare", params={"a": "x", "b": "y"}).status_code == 404


def test_a_file_in_place_of_the_folder_is_told(serve, small_index, tmp_path):
    (tmp_path / "eval").write_text("no folder")
    with serve(small_index, runs=tmp_path / "eval") as one:
        found = one.client.get("/api/runs").json()
        assert found["runs"] == []
        assert "Not a directory" in found["problem"]


def damaged(folder: Path, run: Path) -> dict[str, str]:
    """Folders that are no sound runs, and what is to be said of each."""

    def copied(name: str, file: str, content: str | bytes | None) -> None:
        shutil.copytree(run, folder / name)
        (folder / name / file).unlink()
        if content is not None:
            data = content.encode() if isinstance(content, str) else content
            (folder / name / file).write_bytes(data)

    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    (folder / "foreign").mkdir()
    (folder / "foreign" / "report.html").write_text("<script>parent.document.cookie</script>")
    copied("cut off", "manifest.json", '{"format": 1, "na')
    copied("list", "manifest.json", "[]")
    copied("deep", "manifest.json", "[" * 100_000)
    copied("bytes", "manifest.json", b"\xff\xfe{}")
    copied("other format", "manifest.json", json.dumps(manifest | {"format": 99}))
    copied("odd types", "manifest.json", json.dumps(manifest | {"dataset": ["x"], "questions": "many"}))
    copied("long", "manifest.json", json.dumps(manifest | {"created_at": "x" * 10_000}))
    copied("not a number", "manifest.json", json.dumps(manifest | {"seconds": float("nan")}))
    copied("huge", "manifest.json", " " * 3_000_000)
    copied("infinite", "scores.json", '{"retrieval": {"success@1": {"value": 1e999, "low": 0, "high": 1, "n": 4}}}')
    copied("odd score", "scores.json", '{"retrieval": {"success@1": {"value": "high", "low": 0, "high": 1, "n": 4}}}')
    copied("no scores", "scores.json", None)
    copied("linked", "manifest.json", None)
    (folder / "linked" / "manifest.json").symlink_to(run / "manifest.json")
    copied("piped", "manifest.json", None)
    os.mkfifo(folder / "piped" / "manifest.json")
    (folder / "turned\u202e").mkdir()
    (folder / os.fsdecode(b"\xff\xfe")).mkdir()
    return {
        "foreign": "no manifest.json", "cut off": "cannot be read", "list": "expected an object",
        "deep": "cannot be read", "bytes": "cannot be read", "other format": "another format", "odd types": "dataset",
        "long": "created_at", "not a number": "NaN", "huge": "2,000,000 bytes", "infinite": "1e999",
        "odd score": "retrieval.success@1", "no scores": "scores.json", "linked": "no manifest.json",
        "piped": "no manifest.json", "turned\u202e": "no text", "\udcff\udcfe": "no text",
    }  # fmt: skip


def test_what_is_no_sound_run_is_listed_with_what_is_wrong(among, runs):
    folder, listed, client = among
    expected = damaged(folder, runs / "first")
    (folder / "a file.jsonl").write_text("{}")
    (folder / ".hidden").mkdir()
    (folder / "elsewhere").symlink_to(runs / "first")
    shutil.copytree(runs / "first", folder / "sound")
    found = listed()
    assert found.keys() == {*expected, "sound"}
    assert found["sound"]["problem"] is None
    for name, said in expected.items():
        assert said in found[name]["problem"], name
        assert not found[name]["comparable"]
        assert not found[name]["scores"]
    for name in set(expected) - {"\udcff\udcfe"}:  # what is no text cannot be asked for
        answer = client.get("/api/runs/compare", params={"a": name, "b": "sound"})
        assert answer.status_code == 422, (name, answer.text)
        assert answer.json()["error"]["code"] == "not-comparable"


def test_a_run_that_goes_on_has_no_scores_and_is_not_compared(among, runs):
    folder, listed, client = among
    shutil.copytree(runs / "first", folder / "half")
    shutil.copytree(runs / "first", folder / "whole")
    manifest = json.loads((folder / "half/manifest.json").read_text(encoding="utf-8"))
    (folder / "half/manifest.json").write_text(json.dumps(manifest | {"finished_at": None}))
    half = listed()["half"]
    assert (half["problem"], half["finished"], half["scores"], half["comparable"]) == (None, None, [], False)
    answer = client.get("/api/runs/compare", params={"a": "whole", "b": "half"})
    assert answer.status_code == 422
    assert "not finished" in answer.json()["error"]["message"]


def test_of_many_folders_the_newest_are_listed(among):
    folder, listed, client = among
    for number in range(205):
        (folder / f"run {number}").mkdir()
        os.utime(folder / f"run {number}", (1_000_000 + number,) * 2)
    assert listed().keys() == {f"run {number}" for number in range(5, 205)}
    assert client.get("/api/runs").json()["left_out"] == 5


# ---- two compared ----------------------------------------------------------------------------------------------------


def test_a_comparison_is_what_the_command_says(over, runs):
    answer = over.client.get("/api/runs/compare", params={"a": "first", "b": "shy"})
    assert answer.status_code == 200, answer.text
    said = CliRunner().invoke(root.app, ["eval", "compare", str(runs / "first"), str(runs / "shy"), "--json"])
    assert said.exit_code == 0, said.output
    assert answer.json() == json.loads(said.stdout)
    assert {flip["right_in"] for flip in answer.json()["flips"]} == {"a"}
    assert {flip["lost"]["stage"] for flip in answer.json()["flips"]} == {"wrongly abstained"}


def test_runs_over_other_questions_are_not_compared(over):
    answer = over.client.get("/api/runs/compare", params={"a": "first", "b": NAME})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["code"] == "not-comparable"
    assert "datasets that are not the same" in error["message"]


@pytest.mark.parametrize("missing", [{}, {"a": "first"}, {"b": "shy"}, {"a": "", "b": ""}, {"a": "x" * 300, "b": "y"}])
def test_a_comparison_needs_two_names(over, missing):
    assert over.client.get("/api/runs/compare", params=missing).status_code == 422


def test_values_that_json_has_not_are_refused(among, runs):
    folder, _, client = among
    shutil.copytree(runs / "first", folder / "a")
    shutil.copytree(runs / "first", folder / "b")
    lines = (folder / "b/questions.jsonl").read_text(encoding="utf-8")
    (folder / "b/questions.jsonl").write_text(lines.replace('"answer.correct":1.0', '"answer.correct":1e999'))
    answer = client.get("/api/runs/compare", params={"a": "a", "b": "b"})
    assert answer.status_code == 422, answer.text


# ---- the report ------------------------------------------------------------------------------------------------------


def address(name: str) -> str:
    from urllib.parse import quote

    return f"/api/runs/{quote(name, safe='')}/report"


@pytest.mark.parametrize("name", ["first", NAME], ids=["plain", "odd"])
def test_the_report_is_a_page_of_nobody(over, runs, name):
    answer = over.client.get(address(name))
    assert answer.status_code == 200
    assert answer.content == (runs / name / "report.html").read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    directives = [each.split() for each in answer.headers["content-security-policy"].split(";")]
    policy = {name: words for name, *words in directives}
    assert policy["sandbox"] == ["allow-scripts"]  # and so neither our origin nor the windows that opened it
    assert (
        policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == ["'none'"]
    )
    assert "connect-src" not in policy
    assert over.bare.get(address(name)).status_code == 401


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../eval/first", "..%2feval%2ffirst", "first/", "first\0", "/etc", "nobody", "FIRST", "compare"],
    ids=repr,
)
def test_a_name_is_looked_up_and_never_a_path(over, name):
    assert over.client.get(address(name)).status_code == 404


def test_a_report_that_is_none_is_not_served(among, tmp_path):
    folder, _, client = among
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    for name in ("linked", "piped", "none", "folder", "huge"):
        (folder / name).mkdir()
    (folder / "linked/report.html").symlink_to(secret)
    os.mkfifo(folder / "piped/report.html")
    (folder / "folder/report.html").mkdir()
    with (folder / "huge/report.html").open("wb") as stream:
        stream.truncate(64_000_001)
    (folder / "link").symlink_to(tmp_path)
    for name in ("linked", "piped", "none", "folder", "huge", "link"):
        answer = client.get(address(name))
        assert answer.status_code == 404, name
        assert "secret" not in answer.text
