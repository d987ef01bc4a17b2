from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from doubles import new_store, stage_text
from faults import FaultError, run_until_line
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retrieval.lexical
import retrieval.writer
from retrieval.database import DATABASE, LEXICAL, PassageText
from retrieval.errors import IndexCorruptError
from retrieval.lexical import LexicalIndex, _token, open_lexical, passage_terms
from retrieval.store import Store

REPOSITORY = Path(__file__).resolve().parents[2]


class Words:
    """Splits at spaces; a second fingerprint gives other terms."""

    def __init__(self, fingerprint="words-1"):
        self.fingerprint = fingerprint

    def terms(self, text):
        return [self.fingerprint[:-1] + each if self.fingerprint != "words-1" else each for each in text.split(" ")]


WORDS = Words()


class TextAlone(Words):
    """Without titles, which count as well, so that a score can be computed by hand."""

    def terms(self, text):
        return [each for each in super().terms(text) if each and not each.istitle()]


def test_what_stands_above_a_passage_counts_three_times():
    """ "Tyres" is in its context, "Cars" is shown by its text: each counts three times in all, "wear" once."""
    passage = PassageText(1, "Tyres", "Cars\nwear", ("Tyres", "Cars"))

    class Lines(Words):
        def terms(self, text):
            return text.split()

    assert sorted(passage_terms(passage, Lines())) == ["Cars"] * 3 + ["Tyres"] * 3 + ["wear"]


def publish(store, texts, *, remove=(), analyzer=WORDS, **options):
    with store.writer(analyzer=analyzer) as writer:
        for doc_id, text in texts.items():
            stage_text(writer, doc_id, text)
        writer.remove(remove)
        return writer.publish(roots=[], **options)


def texts_by_id(store):
    return {one.embedding: one.encoded for one in store.passages()}


def folders(store):
    return sorted(path.name for path in store.folder.glob("lexical-*"))


def ids_of(store, *doc_ids):
    facts = {each.doc_id: each.row for each in store.document_facts()}
    return store.embeddings_of_documents([facts[each] for each in doc_ids])


def bm25(texts, weights, k1=1.2, b=0.75):
    """The slow oracle, exact for passages of at most 40 terms. `texts`: id -> terms."""
    lengths = {each: len(terms) for each, terms in texts.items()}
    average = sum(lengths.values()) / len(texts)
    scores = dict.fromkeys(texts, 0.0)
    for term, weight in weights.items():
        inside = sum(term in terms for terms in texts.values())
        idf = math.log(1 + (len(texts) - inside + 0.5) / (inside + 0.5))
        for each, terms in texts.items():
            often = terms.count(term)
            norm = k1 * (1 - b + b * lengths[each] / average)
            scores[each] += weight * idf * often * (k1 + 1) / (often + norm)
    return scores


def assert_like_the_oracle(store, lexical, weights=None, *, tolerance=1e-4):
    weights = weights or {"word1": 1.0, "word2": 0.5, "word3": 2.0, "none": 1.0}
    texts = {one.embedding: passage_terms(one, WORDS) for one in store.passages()}
    assert lexical.ids.tolist() == sorted(texts) == store.live_embeddings().tolist()
    assert lexical.size == len(texts)
    if not texts:
        assert lexical.search(weights, 5)[1].tolist() == []
        return
    expected = bm25(texts, weights)
    scores, ids = lexical.search(weights, 1000)
    assert sorted(ids) == sorted(each for each, score in expected.items() if score > 0)
    assert scores.tolist() == pytest.approx([expected[each] for each in ids.tolist()], rel=tolerance, abs=tolerance)
    assert (np.diff(scores) <= 0).all()
    every = np.array(sorted(texts))
    assert lexical.scores(weights, every).tolist() == pytest.approx(
        [expected[each] for each in every.tolist()], rel=tolerance, abs=tolerance
    )
    overlap = [sum(weight for term, weight in weights.items() if term in texts[each]) for each in every.tolist()]
    assert lexical.overlap(weights, every).tolist() == pytest.approx(overlap)


# ---- searching -------------------------------------------------------------------------------------------------------


def test_bm25_by_hand(store):
    """Three passages of 2, 2 and 4 terms, 8/3 on average; "a" is in two of them, so idf = ln(1 + 1.5 / 2.5) = .470004.

    "a b": norm = 1.2 * (.25 + .75 * 2 / (8 / 3)) = .975, score = .470004 * 1 * 2.2 / (1 + .975) = .523549.
    "a a c d": norm = 1.2 * (.25 + .75 * 4 / (8 / 3)) = 1.65, score = .470004 * 2 * 2.2 / (2 + 1.65) = .566580.
    """
    publish(store, {"one": "a b", "two": "c c", "three": "a a c d"}, analyzer=TextAlone())
    lexical = open_lexical(store, TextAlone())
    scores, ids = lexical.search({"a": 1.0}, 10)
    assert ids.tolist() == [*ids_of(store, "three"), *ids_of(store, "one")]
    assert scores.tolist() == pytest.approx([0.566580, 0.523549], abs=1e-5)
    assert lexical.search({"a": 3.0}, 1)[0].tolist() == pytest.approx([3 * 0.566580], abs=1e-5)
    assert lexical.notice is None
    assert (lexical.generation, lexical.size) == (1, 3)


@pytest.mark.parametrize("count", [20, 60, 300])
def test_a_filter_finds_the_best_of_what_it_allows_though_many_score_the_same(store, count):
    """Whichever way it goes, through what is found or through what is allowed; there are five scores and many ties."""
    texts = {f"d{n}": " ".join(["same"] * (1 + n % 5) + [f"x{n}"] * (5 - n % 5)) for n in range(400)}
    publish(store, texts, analyzer=TextAlone())
    lexical = open_lexical(store, TextAlone())
    scores, ids = lexical.search({"same": 1.0}, 400)
    among = np.random.default_rng(count).permutation(ids)[:count]
    inside = np.isin(ids, among)
    for k in (1, 7, 15, count):
        some_scores, some = lexical.search({"same": 1.0}, k, among=among)
        assert some.tolist() == ids[inside][:k].tolist()
        assert some_scores.tolist() == scores[inside][:k].tolist()


def test_scores_and_overlap_of_given_ids(store):
    publish(store, {"one": "a b", "two": "c c", "three": "a a c d"}, analyzer=TextAlone())
    lexical = open_lexical(store, TextAlone())
    one, two, three = (int(ids_of(store, each)[0]) for each in ("one", "two", "three"))
    asked = np.array([three, 999, one, three, two])
    scores = lexical.scores({"a": 1.0, "nowhere": 9.0}, asked)
    assert scores.tolist() == pytest.approx([0.566580, 0, 0.523549, 0.566580, 0], abs=1e-5)
    assert lexical.overlap({"a": 1.0, "c": 2.0, "nowhere": 9.0}, asked).tolist() == [3.0, 0.0, 1.0, 3.0, 2.0]
    assert lexical.scores({}, asked).tolist() == [0.0] * 5
    assert lexical.overlap({"a": 1.0}, np.array([], dtype=np.int64)).shape == (0,)


def test_equal_scores_are_ordered_by_id_also_at_the_cut(store):
    publish(store, {f"d{n}": f"same x{n}" for n in range(60)})
    publish(store, {"d60": "same x60"})
    lexical = open_lexical(store, WORDS)
    assert lexical.search({"same": 1.0}, 7)[1].tolist() == store.live_embeddings()[:7].tolist()
    among = store.live_embeddings()[30:]
    assert lexical.search({"same": 1.0}, 7, among=among)[1].tolist() == among[:7].tolist()


def test_what_is_asked_is_checked(store):
    publish(store, {"a": "a"})
    lexical = open_lexical(store, WORDS)
    with pytest.raises(ValueError, match="at least 1"):
        lexical.search({"a": 1.0}, 0)
    for wrong in (-1.0, math.nan, math.inf, 1e30):
        with pytest.raises(ValueError, match="a weight must be"):
            lexical.search({"a": wrong}, 1)
    for nothing in ({}, {"a": 0.0}, {"b": 1.0}):
        assert [each.shape for each in lexical.search(nothing, 5)] == [(0,), (0,)]
    assert lexical.search({"a": 1.0}, 10**9)[1].size == 1
    assert lexical.search({"a": 1.0}, 5, among=np.array([], dtype=np.int64))[1].size == 0
    assert lexical.search({"a": 1.0}, 5, among=np.array([-3, 10**15]))[1].size == 0


def test_an_empty_store(store):
    lexical = open_lexical(store, WORDS)
    assert (lexical.size, lexical.generation, lexical.notice) == (0, 0, None)
    assert lexical.search({"a": 1.0}, 5)[1].size == 0
    assert lexical.ids.size == 0
    publish(store, {"a": "x"})
    assert lexical.follow(store, build=False)
    assert lexical.search({"x": 1.0}, 5)[1].size == 1
    publish(store, {}, remove=["a"])
    assert lexical.follow(store, build=False)
    assert lexical.search({"x": 1.0}, 5)[1].size == 0
    assert store.verify() == []


def test_thousands_of_terms_are_cut_to_the_rarest(store):
    publish(store, {f"d{n}": f"common rare{n}" for n in range(30)})
    lexical = open_lexical(store, WORDS)
    weights = {f"nowhere{n}": 1.0 for n in range(20_000)} | {"common": 1.0, "rare7": 1.0}
    scores, ids = lexical.search(weights, 50)
    assert ids[0] == ids_of(store, "d7")[0]
    assert np.array_equal(ids, lexical.search({"common": 1.0, "rare7": 1.0}, 50)[1])
    many = {f"rare{n}": 1.0 for n in range(30)} | {f"nowhere{n}": 1.0 for n in range(2000)} | {"common": 1.0}
    assert np.allclose(lexical.scores(many, ids), lexical.search(many, 50)[0].max(), rtol=1e-6)
    assert len(lexical._view._clauses({f"d{n}": 1.0 for n in range(1025)})) == 0
    assert scores[0] > scores[1]


@given(st.lists(st.text(st.characters(exclude_categories=[]), max_size=5), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_term_finds_its_passage(terms):
    class Given:
        fingerprint = "given"

        def terms(self, text):
            return {"x": terms, "y": ["other"]}.get(text, [])

    index = retrieval.lexical._new_index()
    retrieval.lexical._add(index, Given(), [PassageText(5, "", "x", ()), PassageText(6, "", "y", ())])
    lexical = LexicalIndex(Given())
    lexical._view = retrieval.lexical._View(0, None, retrieval.lexical._searcher(index))
    for term in set(terms) - {"other"}:
        assert lexical.search({term: 1.0}, 5)[1].tolist() == [5]


@pytest.mark.parametrize(
    "term",
    ["", " ", "a b", "a\tb", "a\u00a0b", "\u3000", "\x1c", "\x85", "\u2028", "\x00", "\ud800", "z" * 70_000, "\n"],
)
def test_odd_terms_stay_whole(term):
    """Tantivy gives back exactly one token, and no two terms the same one."""
    import tantivy

    split = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
    assert split.analyze(_token(term)) == [_token(term)]
    assert len({_token(each) for each in (term, term + "x", "x" + term, _token(term), "\0")}) >= 4
    assert len(_token(term).encode()) < 1000


@pytest.mark.parametrize("seed", range(3))
def test_a_filter_is_exact_at_any_selectivity(store, monkeypatch, seed):
    monkeypatch.setattr(retrieval.lexical, "_FEW_IDS", 20)  # both ways to name ids
    chance = random.Random(seed)  # noqa: S311 - reproducible
    publish(store, {f"d{n}": " ".join(f"word{chance.randrange(25)}" for _ in range(6)) for n in range(300)})
    lexical = open_lexical(store, WORDS)
    live = store.live_embeddings().tolist()
    weights = {"word1": 1.0, "word2": 2.0, "word3": 0.3}
    scores, ids = lexical.search(weights, 300)
    for size in (1, 2, 10, 30, 100, 250, 299):
        among = np.array(chance.sample(live, size))
        inside = np.isin(ids, among)
        for k in (1, 5, 300):
            some_scores, some = lexical.search(weights, k, among=among)
            assert some.tolist() == ids[inside][:k].tolist()
            np.testing.assert_allclose(some_scores, scores[inside][:k], rtol=1e-5)


# ---- the store and its folder ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_the_index_equals_one_from_scratch(tmp_path, monkeypatch, seed):
    """Random publishes with and without an analyzer. With REWRITE_ROWS as it is, deletions are never left inside."""
    tolerant = seed % 2
    if tolerant:  # deleted passages stay in the statistics, as in an index of more than a thousand passages
        monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 0)
        monkeypatch.setattr(retrieval.writer, "REWRITE_SHARE", 0.9)
    chance = random.Random(seed)  # noqa: S311 - reproducible
    store = new_store(tmp_path)
    standing = open_lexical(store, WORDS)
    for _ in range(12):
        with store.writer(analyzer=WORDS if chance.random() < 0.8 else None) as writer:
            for _ in range(chance.randrange(5)):
                text = " ".join(f"word{chance.randrange(8)}" for _ in range(chance.randrange(1, 9)))
                stage_text(writer, f"d{chance.randrange(12)}", text, cuts=[5] if chance.random() < 0.3 else [])
            if chance.random() < 0.5:
                writer.remove([f"d{chance.randrange(12)}"])
            if chance.random() < 0.9:
                writer.publish(roots=[], drop_unreferenced=chance.random() < 0.7)
        standing.follow(store, build=False)
        for lexical in (standing, open_lexical(store, WORDS)):
            assert lexical.generation == store.generation
            assert_like_the_oracle(store, lexical, tolerance=2.0 if tolerant else 1e-4)
        assert store.verify() == []
        assert len(folders(store)) <= 1
    store.close()


def test_a_change_shares_the_files_of_the_one_before(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 0)
    publish(store, {f"d{n}": f"word{n} x" for n in range(40)})
    before = {path.name: path.stat().st_ino for path in (store.folder / "lexical-000001").iterdir()}
    reader = open_lexical(store, WORDS)
    assert publish(store, {"d3": "changed x"}, remove=["d4"]) == 2
    assert folders(store) == ["lexical-000002"]
    after = {path.name: path.stat().st_ino for path in (store.folder / "lexical-000002").iterdir()}
    shared = {name for name, inode in before.items() if after.get(name) == inode}
    assert {Path(name).suffix for name in shared} >= {".idx", ".term", ".fast"}
    listing = json.loads((store.folder / "lexical-000002" / "listing.json").read_bytes())
    assert (listing["passages"], listing["deleted"]) == (39, 2)
    for name, (size, digest) in listing["files"].items():
        data = (store.folder / "lexical-000002" / name).read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (size, digest)
    assert reader.search({"word4": 1.0}, 5)[1].size == 1, "a reader goes on with what it has open"
    assert reader.follow(store, build=False)
    assert not reader.follow(store, build=False)
    assert [reader.search({word: 1.0}, 5)[1].size for word in ("word3", "word4", "changed", "x")] == [0, 0, 1, 5]


def test_deleted_words_leave_a_small_index(store):
    secret = "the-launch-code-is-0000"
    publish(store, {"a": secret, "b": "kept"})
    publish(store, {}, remove=["a"])
    for path in store.folder.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes()


def test_many_small_changes_are_merged(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 0)
    monkeypatch.setattr(retrieval.writer, "REWRITE_SHARE", 100)
    for n in range(25):
        publish(store, {f"d{n}": f"word{n} all"})
    meta = json.loads((store.folder / folders(store)[0] / "meta.json").read_bytes())
    assert len(meta["segments"]) < 10
    lexical = open_lexical(store, WORDS)
    assert lexical.notice is None
    assert_like_the_oracle(store, lexical, {"all": 1.0, "word7": 1.0})
    assert store.verify() == []


def test_without_an_analyzer_removals_are_followed_and_additions_made_up_for(store):
    publish(store, {"a": "one", "b": "two"})
    store.delete(["a"])
    assert folders(store) == ["lexical-000002"]
    assert open_lexical(store, WORDS).notice is None
    publish(store, {}, analyzer=None)  # nothing changed: the folder stands for the new generation as well
    assert (folders(store), store.artefact(LEXICAL).generation) == (["lexical-000002"], 3)
    publish(store, {"c": "three"}, analyzer=None)
    lexical = open_lexical(store, WORDS)
    assert "lexical-000002 is behind the index; the next ingest brings it up to date" in lexical.notice
    assert lexical.search({"three": 1.0}, 5)[1].tolist() == ids_of(store, "c").tolist()
    assert store.verify() == []
    publish(store, {})
    assert folders(store) == ["lexical-000005"]
    assert lexical.follow(store, build=False)
    assert lexical.notice is None
    assert_like_the_oracle(store, lexical, {"three": 1.0, "two": 1.0})


def test_another_analysis_is_noticed_and_the_next_publish_rewrites(store):
    publish(store, {"a": "one"})
    other = Words("words-2")
    lexical = open_lexical(store, other)
    assert "another analysis of words" in lexical.notice
    assert lexical.search({"words-one": 1.0}, 5)[1].size == 1
    publish(store, {"b": "two"}, analyzer=other)
    assert lexical.follow(store, build=False)
    assert lexical.notice is None
    assert lexical.search({"words-one": 1.0, "words-two": 1.0}, 5)[1].size == 2
    assert "another analysis of words" in open_lexical(store, WORDS).notice


def damage(folder, kind):
    segment = next(folder.glob("*.idx"))
    if kind == "missing":
        shutil.rmtree(folder)
    elif kind == "file":
        shutil.rmtree(folder)
        folder.write_bytes(b"no folder")
    elif kind == "cut":
        segment.write_bytes(segment.read_bytes()[:-1])
    elif kind == "segment gone":
        segment.unlink()
    elif kind == "link":
        data = segment.read_bytes()
        segment.unlink()
        (folder / "aside").write_bytes(data)
        segment.symlink_to(folder / "aside")
    else:
        path = folder / kind
        data = path.read_bytes()
        path.write_bytes(data[:-2] + bytes([data[-2] ^ 1]) + data[-1:])


DAMAGES = ["missing", "file", "cut", "segment gone", "link", "meta.json", ".managed.json", "listing.json"]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_missing_or_damaged_folder_is_noticed_and_made_up_for(store, kind):
    publish(store, {"a": "word1 word2", "b": "word2"})
    damage(store.folder / "lexical-000001", kind)
    lexical = open_lexical(store, WORDS)
    assert "built in memory" in lexical.notice
    assert "lexical-000001" in lexical.notice
    assert_like_the_oracle(store, lexical)
    assert store.verify() != []
    publish(store, {"c": "word3"})
    assert lexical.follow(store, build=False)
    assert lexical.notice is None
    assert_like_the_oracle(store, lexical)
    assert store.verify() == []
    assert folders(store) == ["lexical-000002"]


def test_damage_of_the_same_size_is_found_by_verify_and_repaired_by_rewriting(store):
    publish(store, {"a": "word1 word2", "b": "word2"})
    segment = next((store.folder / "lexical-000001").glob("*.term"))
    data = bytearray(segment.read_bytes())
    data[3] ^= 255
    segment.write_bytes(data)
    assert any(".term' does not have the recorded checksum" in line for line in store.verify())
    publish(store, {}, rewrite_lexical=True)
    assert store.verify() == []
    assert_like_the_oracle(store, open_lexical(store, WORDS))


def test_segments_of_garbage_are_an_error_of_ours(store):
    """Of the right size, so that nothing is noticed before tantivy stumbles."""
    publish(store, {"a": "word1 word2", "b": "word2"})
    for path in (store.folder / "lexical-000001").glob("*.*"):
        if path.suffix in {".term", ".idx", ".fast", ".fieldnorm"}:
            path.write_bytes(b"\xff" * path.stat().st_size)
    lexical = open_lexical(store, WORDS)
    assert "built in memory" in lexical.notice
    assert_like_the_oracle(store, lexical)


@pytest.mark.parametrize("file", ["../outside", "..", "", "lexical-1/../..", "/etc"])
def test_a_record_does_not_lead_out_of_the_folder(store, file):
    publish(store, {"a": "word1"})
    (store.folder / "lexical-000001").rename(store.folder.parent / "outside")
    with closing(sqlite3.connect(store.folder / DATABASE, isolation_level=None)) as connection:
        connection.execute("UPDATE artefacts SET file = ? WHERE kind = 'lexical'", (file,))
    assert "none of ours" in open_lexical(store, WORDS).notice
    assert any("none of ours" in line for line in store.verify())
    publish(store, {"b": "word2"})
    assert (store.folder.parent / "outside").is_dir()
    assert open_lexical(store, WORDS).notice is None


def test_a_reader_that_loses_the_race_looks_again(store, monkeypatch):
    """Between a reader's look at the record and at the folder, another process replaces both."""
    publish(store, {"a": "word1"})
    standing = open_lexical(store, WORDS)
    publish(store, {"b": "word2"})
    really, raced = retrieval.lexical.read_listing, []

    def read_listing(folder, record):
        if not raced:
            raced.append(folder)
            with Store.open(store.folder) as other:
                publish(other, {"c": f"word3 {store.generation}"})
        return really(folder, record)

    monkeypatch.setattr(retrieval.lexical, "read_listing", read_listing)
    assert not standing.follow(store, build=False), "the old state is kept until the next look"
    assert standing.generation == 1
    raced.clear()
    lexical = open_lexical(store, WORDS)
    assert (lexical.notice, lexical.generation) == (None, 4)
    assert standing.follow(store, build=False)
    assert_like_the_oracle(store, standing)


def test_in_a_snapshot_whose_folder_is_gone_it_is_built_in_memory(store):
    publish(store, {"a": "word1"})
    with store.snapshot():
        assert store.generation == 1
        with Store.open(store.folder) as other:
            publish(other, {"b": "word2"})
        lexical = open_lexical(store, WORDS)
        assert lexical.generation == 1
        assert_like_the_oracle(store, lexical)
    assert lexical.follow(store, build=False)
    assert lexical.notice is None
    assert_like_the_oracle(store, lexical)


def test_searching_while_another_publishes_and_refreshes(store):
    """Every state holds one passage with "here": a search sees one state or the next, never none."""
    publish(store, {"a": "here 0"})
    lexical, done, wrong = open_lexical(store, WORDS), threading.Event(), []

    def search():
        while not done.is_set():
            found = lexical.search({"here": 1.0}, 5)[1]
            if found.size != 1 or lexical.notice:
                wrong.append((found, lexical.notice))

    def follow():
        with Store.open(store.folder) as reader:
            while not done.is_set():
                lexical.follow(reader, build=False)

    threads = [threading.Thread(target=each) for each in (search, search, follow)]
    for thread in threads:
        thread.start()
    for n in range(1, 15):
        publish(store, {"a": f"here {n}"})
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_progress_is_told_and_ends_at_the_total(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "BATCH_ROWS", 4)
    heard = []
    publish(store, {f"d{n}": f"word{n}" for n in range(10)}, progress=lambda done, total: heard.append((done, total)))
    assert heard == [(4, 10), (8, 10), (10, 10)]


def test_counts_include_the_folder(store):
    publish(store, {"a": "word1"})
    size = sum(path.stat().st_size for path in (store.folder / "lexical-000001").iterdir())
    assert store.counts().artefact_bytes["lexical-000001"] == size


def test_where_hard_links_are_refused_files_are_copied(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 0)
    publish(store, {f"d{n}": f"word{n}" for n in range(20)})

    def refuse(*_arguments, **_options):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    publish(store, {"d1": "word2"})
    lexical = open_lexical(store, WORDS)
    assert lexical.notice is None
    assert lexical.ids.tolist() == store.live_embeddings().tolist()
    assert store.verify() == []


READ_ONLY = """
import os, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_lexical import WORDS
from retrieval.lexical import open_lexical
from retrieval.store import Store
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
with Store.open(Path(sys.argv[1])) as store:
    lexical = open_lexical(store, WORDS)
    print(lexical.notice, len(lexical.search({"one": 1.0}, 5)[1]))
"""


def test_a_folder_that_cannot_be_written_to_can_be_searched():
    import tempfile

    folder = Path(tempfile.mkdtemp())  # not below pytest's own folder, which other users cannot enter
    try:
        with new_store(folder / "index") as store:
            publish(store, {"a": "one"})
            publish(store, {"b": "one two"})
        for path in (folder / "index").glob(f"{DATABASE}-*"):
            path.unlink()
        folder.chmod(0o755)
        for path in [folder / "index", *(folder / "index").glob("lexical-*")]:
            path.chmod(0o555)
        assert run_python(READ_ONLY, folder / "index").stdout == "None 2\n"
    finally:
        for path in [folder / "index", *(folder / "index").glob("lexical-*")]:
            path.chmod(0o755)
        shutil.rmtree(folder)


# ---- failures at every step ------------------------------------------------------------------------------------------

WATCHED = {retrieval.writer.__file__, retrieval.lexical.__file__}
OLD, NEW = {"a": "old word1", "b": "kept"}, {"a": "new word1", "b": "kept", "c": "more word1"}


def prepare(folder):
    with new_store(folder) as store:
        publish(store, OLD)


def change(folder):
    with Store.open(folder) as store, store.writer(analyzer=WORDS) as writer:
        stage_text(writer, "a", NEW["a"])
        stage_text(writer, "c", NEW["c"])
        writer.publish(roots=[])


def assert_old_or_new(folder):
    with Store.open(folder) as store:
        state = {row.doc_id: store.document(row.doc_id).text for row in store.documents()}
        assert (store.generation, state) in [(1, OLD), (2, NEW)]
        lexical = open_lexical(store, WORDS)
        assert lexical.notice is None
        assert_like_the_oracle(store, lexical, tolerance=2.0)  # what is deleted may still be in the statistics
        assert store.verify() == []
        with store.writer():
            pass
        assert folders(store) == [store.artefact(LEXICAL).file], "the next writer cleans up"
        generation = store.generation
        publish(store, {"d": "word1"})
        assert_like_the_oracle(store, open_lexical(store, WORDS), tolerance=2.0)
        return generation


# An error at the very line that closes a file leaves the closing to the interpreter, which complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("rewrite_rows", [0, 1000])
def test_an_error_at_any_line_leaves_the_old_or_the_new_state(tmp_path, monkeypatch, rewrite_rows):
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", rewrite_rows)
    monkeypatch.setattr(retrieval.writer, "REWRITE_SHARE", 0.9)

    def fail():
        raise FaultError

    prepare(tmp_path / "0")
    lines = run_until_line(0, lambda: change(tmp_path / "0"), fail, files=WATCHED)
    assert lines > 150
    outcomes = set()
    for number in range(1 + rewrite_rows % 7, lines + 1, 19):  # every line would take minutes
        folder = tmp_path / str(number)
        prepare(folder)
        with suppress(FaultError):  # a run may be a line or two shorter than the first
            run_until_line(number, lambda folder=folder: change(folder), fail, files=WATCHED)
        outcomes.add(assert_old_or_new(folder))
    assert outcomes == {1, 2}


def run_python(code, *arguments):
    paths = [REPOSITORY, REPOSITORY / "tests", REPOSITORY / "tests" / "retrieval"]
    command = [sys.executable, "-c", code, *map(str, arguments), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


AFTER_THE_FOLDER = """
import os, signal, sys
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from test_lexical import change
import retrieval.lexical, retrieval.writer
def killed_after(*arguments, **options):
    written = retrieval.lexical.write_folder(*arguments, **options)
    assert (arguments[0] / "listing.json").is_file()
    os.kill(os.getpid(), signal.SIGKILL)
retrieval.writer.write_folder = killed_after
change(Path(sys.argv[1]))
"""


def test_a_kill_between_the_folder_and_its_record_leaves_the_old_state(tmp_path):
    prepare(tmp_path)
    done = run_python(AFTER_THE_FOLDER, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert sorted(path.name for path in tmp_path.glob("lexical-*")) == ["lexical-000001", "lexical-000002"]
    assert assert_old_or_new(tmp_path) == 1


def test_texts_need_an_analyzer(tmp_path):
    with pytest.raises(ValueError, match="without an analyzer"):
        retrieval.lexical.write_folder(tmp_path / "lexical-000001", fingerprint="x", texts=[(1, "a")])


def test_a_panic_over_damaged_files_is_an_error_of_ours():
    class PanicException(BaseException):
        pass

    with pytest.raises(IndexCorruptError, match="cannot be read by tantivy"), retrieval.lexical._explained("x"):
        raise PanicException
