"""`rag eval` as a user has it, over the real encoder: runs, what becomes of them when cut off, what is told of them."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from loopback_server import LoopbackServer, answer
from typer.testing import Result

CORPUS = {
    "ferry": "The ferry to Marstal leaves from pier seven at dusk. It carries bicycles for free.",
    "clocks": "The museum of clocks has no windows at all. Its oldest clock was built in 1712 by a blacksmith.",
    "bees": "The beekeeper wears a purple hat. She collects the honey in June.",
    "archive": "The archive opens at nine in the morning and closes when the librarian is hungry.",
    "图书馆": "图书馆每天早上八点开门。馆长是一位退休的船长，他养了三只猫。",
    "渡轮": "开往大岛的渡轮在黄昏时从七号码头出发，自行车免费。",
}
QUESTIONS = [
    ("q1", "Where does the ferry to Marstal leave from?", ["pier seven"], "ferry"),
    ("q2", "Who built the oldest clock?", ["a blacksmith"], "clocks"),
    ("q3", "What colour is the hat of the beekeeper?", ["purple"], "bees"),
    ("q4", "When does the archive open?", ["nine"], "archive"),
    ("q5", "图书馆几点开门？", ["八点"], "图书馆"),
    ("q6", "渡轮从几号码头出发？", ["七号"], "渡轮"),
]
NOBODY_KNOWS = {"_id": "q7", "text": "What is the capital of Peru?", "answers": [], "unanswerable": True}

pytestmark = pytest.mark.usefixtures("little_common_text")


@dataclass(frozen=True)
class Desk:
    """A folder with a BEIR set where `rag eval` runs."""

    folder: Path
    rag: Callable[..., Result]

    def __call__(self, *arguments: str, code: int = 0, **settings: object) -> Result:
        done = self.rag(self.folder, "eval", *arguments, profile="embedded", **settings)
        assert done.exit_code == code, done.output
        return done

    def run(self, out: str, *arguments: str, code: int = 0, dataset: str = "set", **settings: object) -> Result:
        return self("run", dataset, "--out", out, "--no-map", *arguments, code=code, **settings)

    def json(self, name: str) -> dict:
        return json.loads((self.folder / name).read_text(encoding="utf-8"))

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]


def write_lines(path: Path, *rows: object) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_beir(folder: Path) -> None:
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", *({"_id": name, "title": "", "text": text} for name, text in CORPUS.items()))
    asked = ({"_id": name, "text": text, "answers": golds} for name, text, golds, _ in QUESTIONS)
    write_lines(folder / "queries.jsonl", *asked, NOBODY_KNOWS)
    judged = "".join(f"{name}\t{source}\t1\n" for name, _, _, source in QUESTIONS)
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")


@pytest.fixture
def desk(tmp_path, rag_within) -> Desk:
    write_beir(tmp_path / "set")
    return Desk(tmp_path, rag_within)


@pytest.fixture(scope="module")
def done(tmp_path_factory, rag_within) -> Desk:
    """A finished run `a` and a second one, `b`, for which no evidence is enough."""
    folder = tmp_path_factory.mktemp("evaluated")
    write_beir(folder / "set")
    desk = Desk(folder, rag_within)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ingest.indexer._ENOUGH_TOKENS", 1500)
        desk.run("a")
        desk.run("b", "--top-k", "1", min_evidence="1")
    return desk


# ---- a run -----------------------------------------------------------------------------------------------------------


def test_a_beir_folder_is_indexed_and_asked(done):
    scores = done.json("a/scores.json")
    for section, name in (("retrieval", "success@1"), ("retrieval", "recall@5"), ("retrieval", "ndcg@10")):
        assert scores[section][name].keys() == {"value", "low", "high", "n"}
    assert scores["retrieval"]["success@1"] == {
        "value": 1.0,
        "low": pytest.approx(0.6097, abs=1e-4),
        "high": 1.0,
        "n": 6,
    }
    assert scores["retrieval"]["passage_success@1"]["n"] == 6
    assert scores["citations"]["span_exact"]["value"] == 1.0
    assert scores["confusion"]["unanswerable"] == {"answered": 0, "abstained": 1, "failed": 0}
    assert scores["baselines"].keys() == {"dense", "bm25", "rrf"}
    manifest = done.json("a/manifest.json")
    assert manifest["format"] == 1
    assert manifest["dataset"]["questions"] == 7
    assert manifest["index"]["documents"] == 6
    assert manifest["seed"] == 0
    assert manifest["config"]["top_k"] == 5
    assert manifest["models"]["encoder"]["name"] == "all-MiniLM-L6-v2"
    assert len(manifest["models"]["encoder"]["revision"]) == 64
    assert manifest["models"]["reader"] == {"name": "extractive", "model": "none"}
    assert {"versions", "models", "prompts", "git_commit", "machine"} <= manifest.keys()
    assert "server_key" not in json.dumps(manifest)


def test_predictions_say_what_happened(done):
    predictions = {line["id"]: line for line in done.lines("a/predictions.jsonl")}
    assert predictions.keys() == {"q1", "q2", "q3", "q4", "q5", "q6", "q7"}
    one = predictions["q1"]
    assert "pier seven" in one["answer"]
    (citation, *_) = one["citations"]
    assert CORPUS["ferry"][citation["start"] : citation["end"]] == citation["quote"]
    assert one["hits"][0]["source"] == "ferry"
    assert one["hits"][0]["stages"]["lexical_rank"] == 1
    assert len(one["candidates"]) == len(CORPUS)
    assert one["timings_ms"]["total"] > 0
    assert predictions["q7"]["abstained"] is True


def test_every_question_has_its_gold_and_its_values(done):
    judged = {line["example"]["id"]: line for line in done.lines("a/questions.jsonl")}
    assert judged["q5"]["values"]["answer.correct"] == 1.0
    assert judged["q5"]["gold_passages"] == [done.lines("a/predictions.jsonl")[4]["hits"][0]["chunk_id"]]
    assert all(line["lost"] is None for line in judged.values())


def test_the_answers_are_those_of_rag_ask(done, rag_within):
    """One by one and in a run: the same answers, the same citations."""
    (index,) = (done.folder / ".cache" / "rag" / "eval").iterdir()
    for line in done.lines("a/predictions.jsonl"):
        asked = rag_within(done.folder, "ask", "--json", line["question"], index=index, profile="embedded")
        record = json.loads(asked.stdout)
        assert (record["answer"], record["abstained"]) == (line["answer"], line["abstained"])
        assert record["citations"] == line["citations"]
        assert [hit["chunk_id"] for hit in record["hits"]] == [hit["chunk_id"] for hit in line["hits"]]


def test_the_report_is_one_file_that_asks_for_nothing(done):
    page = html.unescape((done.folder / "a" / "report.html").read_text(encoding="utf-8"))
    assert "default-src 'none'" in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "渡轮" in page


def test_people_see_measures_with_intervals_and_where_the_rest_is(done):
    shown = done.run("a").stdout
    assert "success@1" in shown
    assert "0.610 to 1.000" in shown
    assert "a/report.html" in shown


def test_a_finished_run_is_not_asked_again(done):
    before = (done.folder / "a" / "predictions.jsonl").stat().st_mtime_ns
    result = done.run("a")
    assert "complete already" in result.stderr
    assert (done.folder / "a" / "predictions.jsonl").stat().st_mtime_ns == before


def test_json_is_what_scores_json_holds(done):
    assert json.loads(done.run("a", "--json").stdout) == done.json("a/scores.json")


def test_a_run_that_was_cut_off_ends_like_one_that_was_not(desk):
    desk.run("whole")
    desk.run("cut")
    path = desk.folder / "cut" / "predictions.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:3]) + lines[3][:50])
    manifest = desk.json("cut/manifest.json")
    (desk.folder / "cut" / "manifest.json").write_text(json.dumps({**manifest, "finished_at": None}))
    result = desk.run("cut")
    assert "going on: 3 of 7 questions were asked before" in result.stderr

    def timeless(name: str) -> list[dict]:
        return [{**line, "timings_ms": {}} for line in desk.lines(f"{name}/predictions.jsonl")]

    assert timeless("cut") == timeless("whole")
    assert desk.json("cut/scores.json") == desk.json("whole/scores.json")


def test_another_run_needs_force(desk):
    desk.run("out")
    result = desk.run("out", "--top-k", "2", code=1)
    assert "config.top_k 5 (now 2)" in result.stderr
    desk.run("out", "--top-k", "2", "--force")
    assert desk.json("out/manifest.json")["config"]["top_k"] == 2


def test_files_of_others_are_never_replaced(desk):
    """Not even by --force, and not a dataset that has the name of one of our files."""
    (desk.folder / "mine").mkdir()
    write_lines(desk.folder / "mine" / "questions.jsonl", {"question": "Where?", "answer": "here"})
    before = (desk.folder / "mine" / "questions.jsonl").read_bytes()
    for force in ((), ("--force",)):
        assert "holds questions.jsonl of no run" in desk.run("mine", *force, code=1).stderr
        assert "is inside --out" in desk.run("mine", *force, dataset="mine/questions.jsonl", code=1).stderr
    assert (desk.folder / "mine" / "questions.jsonl").read_bytes() == before
    assert {path.name for path in (desk.folder / "mine").iterdir()} <= {".lock", "questions.jsonl"}


def test_predictions_without_a_manifest_are_nobody_s(desk):
    desk.run("out")
    (desk.folder / "out" / "manifest.json").unlink()
    assert "of no run, which would be replaced" in desk.run("out", "--top-k", "1", code=1).stderr


def test_an_index_that_changes_meanwhile_is_told(desk, rag_within):
    docs = desk.folder / "docs"
    docs.mkdir()
    (docs / "ferry.txt").write_text(CORPUS["ferry"], encoding="utf-8")
    (desk.folder / "q.csv").write_text(
        "question,answer\nWhere does the ferry leave from?,pier seven\n", encoding="utf-8"
    )
    rag_within(desk.folder, "ingest", "docs", index=desk.folder / "ix")
    desk.run("out", "--index", "ix", dataset="q.csv")
    manifest = desk.json("out/manifest.json")
    (desk.folder / "out" / "manifest.json").write_text(json.dumps({**manifest, "finished_at": None}))
    (docs / "bees.txt").write_text(CORPUS["bees"], encoding="utf-8")
    rag_within(desk.folder, "ingest", "docs", index=desk.folder / "ix")
    assert "index.documents 1 (now 2)" in desk.run("out", "--index", "ix", dataset="q.csv", code=1).stderr


def test_what_settings_name_is_recorded_by_its_content(desk):
    (desk.folder / "syn.txt").write_text("ferry, boat\n", encoding="utf-8")
    desk.run("out", synonyms=desk.folder / "syn.txt")
    assert desk.json("out/manifest.json")["files"].keys() == {"synonyms"}
    (desk.folder / "syn.txt").write_text("ferry, ship\n", encoding="utf-8")
    assert "files.synonyms" in desk.run("out", code=1, synonyms=desk.folder / "syn.txt").stderr


def test_only_searching(desk):
    desk.run("out", "--retrieval-only")
    scores = desk.json("out/scores.json")
    assert scores["answer"] == {}
    assert scores["abstention"] == {}
    assert scores["retrieval"]["success@1"]["value"] == 1.0
    assert desk.lines("out/predictions.jsonl")[0]["answer"] is None


def test_so_many_questions_spread_over_all(desk):
    desk.run("out", "--limit", "3")
    assert [line["id"] for line in desk.lines("out/predictions.jsonl")] == ["q1", "q3", "q5"]


def test_a_table_of_questions_over_an_index_of_files(desk, rag_within):
    docs = desk.folder / "docs" / "sub"
    docs.mkdir(parents=True)
    for name, text in CORPUS.items():
        (docs / f"{name}.txt").write_text(text, encoding="utf-8")
    table = "question,answer,source\n" + "".join(
        f'"{question}","{golds[0]}","{"sub/" if at % 2 else ""}{source}.txt"\n'
        for at, (_, question, golds, source) in enumerate(QUESTIONS)
    )
    (desk.folder / "questions.csv").write_text(table + "Who is who?,nobody,gone.txt\n", encoding="utf-8")
    assert rag_within(desk.folder, "ingest", "docs", index=desk.folder / "ix").exit_code == 0
    result = desk.run("out", "--index", "ix", dataset="questions.csv")
    scores = desk.json("out/scores.json")
    assert scores["retrieval"]["success@1"]["value"] == pytest.approx(6 / 7)
    last = desk.lines("out/questions.jsonl")[-1]
    assert (last["missing"], last["lost"]["stage"]) == (["gone.txt"], "not in index")
    assert "the index has not gone.txt, which 1 questions ask for" in result.stderr
    again = desk.run("again", "--run", "out/run.trec", dataset="questions.csv", code=0)
    assert again.exit_code == 0
    for name in ("success@1", "ndcg@10"):
        assert desk.json("again/scores.json")["retrieval"][name] == scores["retrieval"][name]


def test_claims_are_checked_against_what_they_cite(desk):
    rows = [
        {"claim": "The ferry leaves from pier seven.", "references": [CORPUS["ferry"]], "supported": True},
        {"claim": "The ferry leaves from pier nine.", "references": [CORPUS["ferry"]], "supported": False},
        {"claim": "The beekeeper collects honey in June.", "references": [CORPUS["clocks"], CORPUS["bees"]],
         "supported": True},
        {"claim": "The museum burnt down.", "references": [], "supported": False},
    ]  # fmt: skip
    write_lines(desk.folder / "claims.jsonl", *rows)
    desk.run("out", dataset="claims.jsonl")
    scores = desk.json("out/scores.json")["citations"]
    assert (scores["agreement"]["value"], scores["agreement"]["n"]) == (1.0, 4)
    assert scores["balanced_accuracy"]["value"] == 1.0


# ---- recorded output -------------------------------------------------------------------------------------------------


def test_the_run_of_another_system(desk):
    """q1 right at 1, q2 at 2, q3 at 4, the others missing: success@1 1/6, MRR (1 + 1/2 + 1/4) / 6."""
    lists = {"q1": ["ferry"], "q2": ["bees", "clocks"], "q3": ["ferry", "clocks", "archive", "bees"]}
    rows = [f"{q} Q0 {doc} {rank} {-rank} them" for q, docs in lists.items() for rank, doc in enumerate(docs, start=1)]
    (desk.folder / "them.trec").write_text("\n".join(rows) + "\n", encoding="utf-8")
    desk.run("out", "--run", "them.trec")
    scores = desk.json("out/scores.json")
    assert scores["retrieval"]["success@1"]["value"] == pytest.approx(1 / 6)
    assert scores["retrieval"]["mrr@10"]["value"] == pytest.approx((1 + 1 / 2 + 1 / 4) / 6)
    assert scores["lost"] == {"wrong": 3}


def test_ours_goes_out_as_trec_and_comes_back_the_same(done):
    done.run("again", "--run", "a/run.trec")
    assert done.json("again/scores.json")["retrieval"]["ndcg@10"] == done.json("a/scores.json")["retrieval"]["ndcg@10"]


def test_the_answers_of_another_system(desk):
    """Two right, one abstention, one wrong, the unanswerable one left alone; two are missing and count as wrong."""
    said = {"q1": "pier seven", "q2": "", "q3": "green", "q5": "早上八点", "q7": ""}
    (desk.folder / "said.json").write_text(json.dumps(said), encoding="utf-8")
    desk.run("out", "--answers", "said.json")
    scores = desk.json("out/scores.json")
    assert scores["answer"]["exact_match"]["value"] == pytest.approx(2 / 7)  # q1 and q7
    assert scores["answer"]["contained"]["value"] == pytest.approx(2 / 6)
    assert scores["abstention"]["accuracy"]["value"] == pytest.approx(4 / 7)
    assert scores["retrieval"] == {}
    assert scores["failed"] == 2


# ---- compare, gate, sweep --------------------------------------------------------------------------------------------


def test_compare_says_what_differs_and_what_flipped(done):
    shown = done("compare", "a", "b").stdout
    assert "config.top_k: 5 in A, 1 in B" in shown
    assert "0 questions only B has right, 6 only A" in shown
    assert "B lost it: wrongly abstained" in shown
    record = json.loads(done("compare", "a", "b", "--json").stdout)
    assert record["n"] == 7
    assert {"differences", "flips", "moves", "settings"} <= record.keys()


def test_a_run_is_no_worse_than_itself(done):
    assert "FAILED" not in done("gate", "a", "--baseline", "a").stdout


def test_the_gate_fails_on_a_drop(done):
    result = done("gate", "b", "--baseline", "a", code=1)
    assert "FAILED  answer.correct" in result.stdout
    assert "passed  retrieval.success@1" in result.stdout
    assert not json.loads(done("gate", "b", "--baseline", "a", "--json", code=1).stdout)["passed"]
    done("gate", "b", "--baseline", "a", "--measure", "retrieval.success@1")
    done("gate", "b", "--baseline", "a", "--measure", "answer.correct", "--tolerance", "1")


def test_a_sweep_tries_everything_and_goes_on(desk):
    (desk.folder / "sweep.toml").write_text(
        'dataset = "set"\nmetric = "answer.correct"\n[grid]\nchunk_tokens = [32, 128]\nfusion = ["adaptive", "dense"]\n'
        "[[run]]\nsentences = 1\n",
        encoding="utf-8",
    )
    shown = desk("sweep", "sweep.toml", "--out", "tried")
    assert "chunk_tokens=32, fusion=adaptive" in " ".join(shown.stdout.split())
    record = desk.json("tried/sweep.json")
    assert len(record["ranking"]) == 5
    best = record["ranking"][0]
    assert best["score"]["value"] == max(one["score"]["value"] for one in record["ranking"])
    assert best["costs"]["index_bytes"] > 0
    assert best["costs"]["latency_ms"]["total"]["median"] > 0
    made = desk.json(f"tried/{best['name']}/manifest.json")
    assert made["settings"] == best["settings"]
    (desk.folder / "tried" / best["name"] / "scores.json").unlink()
    again = desk("sweep", "sweep.toml", "--out", "tried", "--json")
    assert again.stderr.count(" done: ") == 1
    assert json.loads(again.stdout)["ranking"][0]["score"] == best["score"]
    changed = desk("sweep", "sweep.toml", "--out", "tried", "--json", min_evidence="1")
    assert changed.stderr.count(" done: ") == 5
    assert {one["score"]["value"] for one in json.loads(changed.stdout)["ranking"]} == {1 / 7}


def test_a_sweep_of_files_has_an_index_of_each_folder(desk):
    """Two folders of the same name are two indexes, and a reader gets as many passages as it reads alone."""
    for place in ("one", "two"):
        (desk.folder / place / "notes").mkdir(parents=True)
        (desk.folder / place / "notes" / f"{place}.txt").write_text(CORPUS["ferry"], encoding="utf-8")
        row = {"question": "Where does the ferry leave from?", "answer": "pier seven", "source": f"{place}.txt"}
        write_lines(desk.folder / place / "q.jsonl", row)
        (desk.folder / place / "s.toml").write_text(
            'dataset = "q.jsonl"\ndocuments = "notes"\nmetric = "retrieval.success@1"\n[grid]\ntop_k = [1]\n'
            'reader = ["none", "extractive"]\n',
            encoding="utf-8",
        )
        desk("sweep", f"{place}/s.toml", "--out", f"{place}/out")
        best = desk.json(f"{place}/out/sweep.json")["ranking"][0]
        assert best["score"]["value"] == 1.0
        assert desk.json(f"{place}/out/{best['name']}/manifest.json")["index"]["documents"] == 1


# ---- questions of one's own ------------------------------------------------------------------------------------------


def test_questions_are_made_without_a_language_model_and_asked(done, tmp_path, rag_within):
    (index,) = (done.folder / ".cache" / "rag" / "eval").iterdir()
    desk = Desk(tmp_path, rag_within)
    made = desk("generate", "--out", "made.jsonl", "--count", "5", index=index)
    assert "questions of" in made.stdout
    pairs = desk.lines("made.jsonl")
    assert pairs
    for pair in pairs:
        assert CORPUS[pair["source"]][pair["start"] : pair["end"]] == pair["evidence"]
        assert pair["answer"] in pair["evidence"]
    result = desk("generate", "--out", "made.jsonl", code=1, index=index)
    assert "--force" in result.stderr
    desk.run("out", dataset="made.jsonl", index=index)
    assert desk.json("out/scores.json")["retrieval"]["success@5"]["value"] == 1.0


# ---- the judge -------------------------------------------------------------------------------------------------------


def test_a_judge_grades_a_run(done):
    with LoopbackServer(answer("It says what the reference says.\nScore: 5"), answer("I would rather not.")) as server:
        result = done("judge", "a", server_url=server.url)
    assert "6 of 7 verdicts could not be read" in result.stderr
    scores = done.json("a/scores.json")
    assert scores["judge"]["correctness"]["n"] == 1
    assert scores["judge"]["correctness"]["value"] == 5.0
    assert scores["judging"]["unparsable"] == 6
    assert len(done.lines("a/verdicts.jsonl")) == 7
    assert not any(math.isnan(value) for line in done.lines("a/questions.jsonl") for value in line["values"].values())


def test_a_judge_is_held_against_people(desk):
    row = {"question": "Where?", "reference": "pier seven", "answer": "pier seven"}
    write_lines(desk.folder / "people.jsonl", {**row, "human": 5}, {**row, "answer": "pier nine", "human": 1})

    def play(connection):
        wrong = "pier nine" in connection.request.body["messages"][-1]["content"]
        connection.send(answer("Wrong.\nScore: 2" if wrong else "Right.\nScore: 5"))

    with LoopbackServer(play) as server:
        record = json.loads(desk("judge", "people.jsonl", "--json", server_url=server.url).stdout)
    assert (record["exact"], record["n"], record["unparsable"]) == (0.5, 2, 0)


def test_there_is_nothing_to_grade_in_claims(desk):
    write_lines(desk.folder / "c.jsonl", {"claim": "It sails.", "references": [CORPUS["ferry"]], "supported": False})
    desk.run("out", dataset="c.jsonl")
    with LoopbackServer(answer("Score: 5")) as server:
        assert "can be graded" in desk("judge", "out", code=1, server_url=server.url).stderr
    for flags in (["--retrieval-only"], ["--index", "ix"], ["--answers", "x.json"]):
        assert "holds claims" in desk.run("other", *flags, dataset="c.jsonl", code=1).stderr


def test_a_judge_needs_a_language_model(done):
    assert "needs a language model" in done("judge", "a", code=2).stderr


# ---- what is wrong is named ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("queries.jsonl", '{"_id": "q1", "text": "a?"}\n{"_id": \n', "queries.jsonl, line 2"),
        ("queries.jsonl", '{"_id": "q1", "text": "a?"}\n{"_id": "q1", "text": "b?"}\n', "line 2"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq1\tgone\t1\n", "line 2"),
        ("queries.jsonl", "", "queries.jsonl"),
    ],
)
def test_a_bad_dataset_is_named_and_nothing_is_begun(desk, file, content, told):
    (desk.folder / "set" / file).write_text(content, encoding="utf-8")
    result = desk.run("out", code=1)
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert told in result.stderr
    assert not (desk.folder / "out").exists()


@pytest.mark.parametrize("command", [["compare", "a", "nowhere"], ["gate", "nowhere", "--baseline", "a"]])
def test_a_run_that_is_not_there_is_named(done, command):
    assert "nowhere holds no run" in done(*command, code=1).stderr
