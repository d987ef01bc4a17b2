from __future__ import annotations

import hashlib
import os
import random
import threading

import numpy as np
import pytest
from doubles import HashEncoder, new_store, publish_texts, stage_text
from faults import FaultError, run_until_line

import retrieval.database
import retrieval.dense
import retrieval.store
import retrieval.writer
from retrieval.dense import DenseIndex, describe_dense, open_dense, refresh
from retrieval.errors import ConfigError, IndexCorruptError, MissingPackageError
from retrieval.maintain import beside
from retrieval.store import Store
from retrieval.versions import switch

ENCODER = HashEncoder()


def unit_rows(count, seed=0, dimension=16):
    rows = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def assert_searches_like_brute_force(store, dense):
    """The slow oracle: every stored vector against every query, in numpy."""
    ids, vectors = store.vectors()
    assert dense.ids.tolist() == ids.tolist()
    queries = unit_rows(5, seed=9, dimension=store.manifest.encoder.dimension)
    k = max(1, min(7, len(ids)))
    scores, found = dense.search(queries, k)
    assert found.shape == scores.shape == (5, min(k, len(ids)))
    every = queries @ vectors.T
    np.testing.assert_allclose(scores, -np.sort(-every, axis=1)[:, :k], atol=1e-5)
    if ids.size:
        np.testing.assert_allclose(np.take_along_axis(every, np.searchsorted(ids, found), axis=1), scores, atol=1e-5)
    assert all(len(set(row)) == len(row) for row in found.tolist())


def dense_files(store):
    return sorted(path.name for path in store.folder.glob("dense-*"))


# ---- the index itself ------------------------------------------------------------------------------------------------


def test_search_is_exact_and_ids_are_never_made_up():
    vectors = unit_rows(40)
    ids = np.arange(40) * 3 + 1000
    dense = DenseIndex.build(ids, vectors)
    scores, found = dense.search(vectors[:4], 100)
    assert found.shape == (4, 40)
    for row in range(4):
        assert sorted(found[row]) == ids.tolist()
        assert found[row, 0] == ids[row]
        assert (np.diff(scores[row]) <= 0).all()
    assert (dense.size, dense.dimension) == (40, 16)


def test_equal_scores_are_ordered_by_id():
    dense = DenseIndex.build(np.array([9, 2, 5]), np.repeat(unit_rows(1), 3, axis=0))
    assert dense.search(unit_rows(1), 3)[1].tolist() == [[2, 5, 9]]


def test_an_empty_index_finds_nothing():
    scores, ids = DenseIndex(16).search(unit_rows(2), 5)
    assert scores.shape == ids.shape == (2, 0)
    assert DenseIndex.build(np.array([], dtype=np.int64), unit_rows(0)).size == 0
    assert DenseIndex(16).search(unit_rows(0), 5)[0].shape == (0, 0)


def test_add_and_remove():
    vectors = unit_rows(6)
    dense = DenseIndex.build(np.array([10, 20]), vectors[:2])
    dense.add(np.array([5, 15]), vectors[2:4])
    assert dense.remove(np.array([10, 99])) == 1
    assert dense.remove(np.array([], dtype=np.int64)) == 0
    dense.add(np.array([10]), vectors[4:5])
    assert dense.ids.tolist() == [5, 10, 15, 20]
    assert dense.search(vectors[4:5], 1)[1].tolist() == [[10]]
    for wrong in ([5], [30, 30]):
        with pytest.raises(ValueError, match="twice or is in the index"):
            dense.add(np.array(wrong), vectors[: len(wrong)])
    with pytest.raises(ValueError, match="shape"):
        dense.add(np.array([1]), vectors[:2])


@pytest.mark.parametrize("queries", [np.ones(16), np.ones((1, 15)), np.full((1, 16), np.nan)])
def test_queries_are_checked(queries):
    with pytest.raises(ValueError, match="queries must be finite"):
        DenseIndex.build(np.array([1]), unit_rows(1)).search(queries.astype(np.float32), 1)


def test_k_is_checked():
    with pytest.raises(ValueError, match="at least 1"):
        DenseIndex(16).search(unit_rows(1), 0)


def test_save_and_load(tmp_path):
    vectors = unit_rows(2000)  # more than one block of the writer
    dense = DenseIndex.build(np.arange(2000), vectors)
    path = tmp_path / "é dense.faiss"
    sha256 = dense.save(path)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    again = DenseIndex.load(path, sha256, size=path.stat().st_size, generation=3)
    assert again.generation == 3
    for mine, theirs in zip(again.search(vectors[:5], 9), dense.search(vectors[:5], 9), strict=True):
        assert np.array_equal(mine, theirs)
    again.add(np.array([5000]), unit_rows(1, seed=4))
    with pytest.raises(ValueError, match="twice"):
        again.add(np.array([1999]), unit_rows(1))


def test_the_checksum_is_compared_before_faiss_reads(tmp_path, monkeypatch):
    import faiss

    path = tmp_path / "dense.faiss"
    sha256 = DenseIndex.build(np.arange(9), unit_rows(9)).save(path)
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(faiss, "read_index", None)
    with pytest.raises(IndexCorruptError, match="checksum"):
        DenseIndex.load(path, sha256)
    with pytest.raises(IndexCorruptError, match="expected 7"):
        DenseIndex.load(path, sha256, size=7)


def test_a_file_that_is_no_index_of_ours(tmp_path):
    import faiss

    path = tmp_path / "dense.faiss"
    other = faiss.serialize_index(faiss.IndexFlatL2(4)).tobytes()
    DenseIndex.build(np.arange(9), unit_rows(9)).save(path)
    header = path.read_bytes()[:1024]
    claims = header.replace(b'"probes": 0', b'"probes": ""')
    for content in (b"", b"not an index", other, header, header + b"not an index", header + other, b"[" * 5000, claims):
        path.write_bytes(content)
        with pytest.raises(IndexCorruptError, match=r"cannot be read by this FAISS|another kind of index"):
            DenseIndex.load(path, hashlib.sha256(content).hexdigest())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "dense.faiss"
    DenseIndex.build(np.arange(9), unit_rows(9)).save(path)
    before = path.read_bytes()

    def full(_descriptor):
        raise OSError("full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        DenseIndex.build(np.arange(5), unit_rows(5)).save(path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["dense.faiss"]


def test_devices():
    import faiss

    dense = DenseIndex.build(np.arange(3), unit_rows(3))
    dense.to("cpu")
    for wrong in ("gpu", "cuda:x", "cpu:1", ""):
        with pytest.raises(ConfigError, match="'cpu', 'cuda' or 'cuda:N'"):
            dense.to(wrong)
    if hasattr(faiss, "StandardGpuResources"):
        with pytest.raises(ConfigError, match="there is no 'cuda:99'"):
            dense.to("cuda:99")
    else:
        with pytest.raises(MissingPackageError, match=r"pip install 'cited-rag\[gpu\]'"):
            dense.to("cuda")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds():
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("this FAISS has no GPU")
    vectors = unit_rows(5000)
    dense, on_gpu = (DenseIndex.build(np.arange(5000), vectors) for _ in range(2))
    on_gpu.to("cuda")
    for index in (dense, on_gpu):
        index.search(vectors[:1], 1)
        index.remove(np.arange(0, 5000, 2))
        index.add(np.array([9999]), unit_rows(1, seed=3))
    for k in (10, 2500):
        scores, ids = dense.search(vectors[:20], k)
        gpu_scores, gpu_ids = on_gpu.search(vectors[:20], k)
        np.testing.assert_allclose(gpu_scores, scores, atol=1e-5)
        assert (gpu_ids == ids).mean() > 0.999


def test_searching_while_others_add():
    dense = DenseIndex.build(np.arange(100), unit_rows(100))
    failed = []

    def search():
        for _ in range(100):
            _, ids = dense.search(unit_rows(3, seed=1), 10)
            if ids.min() < 0:
                failed.append(ids)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for n in range(100):
        dense.add(np.array([1000 + n]), unit_rows(1, seed=n))
        dense.remove(np.array([n]))
    for thread in threads:
        thread.join()
    assert failed == []


# ---- scores, and search among given ids ------------------------------------------------------------------------------


def clustered(count, seed=0, dimension=32):
    """Unit rows around count / 20 centres, so that lists mean something."""
    random = np.random.default_rng(seed)
    rows = unit_rows(max(1, count // 20), seed, dimension)[random.integers(max(1, count // 20), size=count)]
    rows = rows + 0.15 * random.standard_normal(rows.shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Vectors:
    """A double of the store's vectors: what is there can change under the index."""

    def __init__(self, ids, vectors):
        self.rows = dict(zip(ids.tolist(), vectors, strict=True))
        self.asked = 0

    def __call__(self, ids):
        known = [each for each in np.unique(ids).tolist() if each in self.rows]
        self.asked += len(known)
        dimension = len(next(iter(self.rows.values())))
        return np.array(known, dtype=np.int64), np.array([self.rows[each] for each in known]).reshape(-1, dimension)

    def best(self, query, k, among=None):
        """The slow oracle: every vector compared; ids and scores, best first, ties by id."""
        ids = sorted(self.rows if among is None else self.rows.keys() & set(among.tolist()))
        scored = sorted((-float(self.rows[each] @ query), each) for each in ids)[:k]
        return [each for _, each in scored], [-score for score, _ in scored]


def coded(count=1500, seed=0):
    """An index of codes over ids 5, 8, 11, ... and the vectors behind it."""
    ids = np.arange(count, dtype=np.int64) * 3 + 5
    behind = Vectors(ids, clustered(count, seed))
    return DenseIndex.gather(ids, behind, dimension=32, flat_limit=100), behind


def questions(behind, count=60, seed=7):
    rows = np.array(list(behind.rows.values()))
    random = np.random.default_rng(seed)
    rows = rows[random.integers(len(rows), size=count)] + unit_rows(count, seed, rows.shape[1])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def assert_recall(dense, behind, k=10, at_least=0.98):
    queries = questions(behind)
    scores, ids = dense.search(queries, k)
    assert ids.shape == (len(queries), min(k, len(behind.rows)))
    found = 0
    for query, row, its_scores in zip(queries, ids.tolist(), scores, strict=True):
        assert len(set(row)) == len(row)
        np.testing.assert_allclose(its_scores, [behind.rows[each] @ query for each in row], atol=1e-6)
        assert sorted(zip(-its_scores, row, strict=True)) == list(zip(-its_scores, row, strict=True))
        found += len(set(row) & set(behind.best(query, k)[0]))
    assert found >= at_least * ids.size


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
@pytest.mark.parametrize("share", [0.0, 1 / 1500, 0.004, 0.05, 0.5, 1.0])
def test_a_filter_is_exact_however_few_or_many_it_allows(kind, share):
    dense, behind = coded()
    if kind == "flat":
        dense = DenseIndex.build(*behind(np.array(list(behind.rows))))
    assert dense.description.kind == kind
    ids = np.array(list(behind.rows))
    allowed = np.random.default_rng(1).permutation(ids)[: round(share * len(ids))]
    for k in (1, 10, 2000):
        queries = questions(behind, 4)
        scores, found = dense.search(queries, k, among=np.concatenate([allowed, allowed[:3], [-1, 4, 10**15]]))
        assert found.shape == scores.shape == (4, min(k, len(allowed)))
        for query, row, its_scores in zip(queries, found.tolist(), scores, strict=True):
            best, best_scores = behind.best(query, k, allowed)
            assert row == best
            np.testing.assert_allclose(its_scores, best_scores, atol=1e-6)


def test_a_filter_may_point_away_from_the_question():
    """All that is allowed is the farthest there is: no list near the question has any of it."""
    dense, behind = coded()
    (query,) = questions(behind, 1)
    every, _ = behind.best(query, 1500)
    _, found = dense.search(query[None], 10, among=np.array(every[-30:]))
    assert found[0].tolist() == every[-30:-20]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_filter_that_allows_much_finds_what_there_is_near_and_always_k(share):
    """Whatever it allows: what chance says, or only what is farthest from the question."""
    behind = Vectors(np.arange(6000) + 5, unit_rows(6000, dimension=4))
    dense = DenseIndex.gather(np.arange(6000) + 5, behind, dimension=4, flat_limit=100)
    assert 4 * dense.description.probes < dense.description.lists, "or every list is looked into anyway"
    ids = np.array(list(behind.rows))
    by_chance = np.random.default_rng(1).permutation(ids)[: round(share * len(ids))]
    hits = 0
    for query in questions(behind, 30):
        best, _ = behind.best(query, 10, by_chance)
        hits += len(set(best) & set(dense.search(query[None], 10, among=by_chance)[1][0].tolist()))
        farthest = np.array(behind.best(query, len(ids))[0][-len(by_chance) :])
        for k in (10, len(farthest)):
            _, (found,) = dense.search(query[None], k, among=farthest)
            assert len(set(found.tolist())) == k
            assert np.isin(found, farthest).all()
    assert hits >= 0.99 * 300


@pytest.mark.parametrize("far", [2**31, 2**40, 2**62])
def test_ids_may_be_far_apart(far):
    dense = DenseIndex.build(np.array([1, far]), unit_rows(2))
    assert dense.search(unit_rows(1), 5, among=np.array([far, 7]))[1].tolist() == [[far]]


@pytest.mark.parametrize("kind", ["flat", "ivf-sq8"])
def test_scores_are_inner_products_in_the_order_asked_for(kind):
    dense, behind = coded()
    if kind == "flat":
        dense = DenseIndex.build(*behind(np.array(list(behind.rows))))
    (query,) = questions(behind, 1)
    ids = np.array([50, 5, 50, 1202])
    np.testing.assert_allclose(
        dense.scores(query, ids), [behind.rows[each] @ query for each in ids.tolist()], atol=1e-6
    )
    assert dense.scores(query, np.array([], dtype=np.int64)).shape == (0,)
    with pytest.raises(ValueError, match=r"no vector under the ids \[4, 6\]"):
        dense.scores(query, np.array([6, 5, 4]))
    with pytest.raises(ValueError, match="query must be finite"):
        dense.scores(query[None], ids)


def test_ids_are_not_negative():
    with pytest.raises(ValueError, match="must not be negative"):
        DenseIndex.build(np.array([-1]), unit_rows(1))


# ---- an index of codes -----------------------------------------------------------------------------------------------


def test_codes_find_what_an_exact_search_finds():
    dense, behind = coded()
    description = dense.description
    assert (description.kind, description.vectors, description.trained_on) == ("ivf-sq8", 1500, 1500)
    assert 1 <= description.probes <= description.lists == 37
    assert description.recall_at_10 >= retrieval.dense.RECALL
    assert description.bytes == 1500 * (32 + 8) + 37 * 4 * 32
    assert_recall(dense, behind)


def test_only_a_few_exact_vectors_are_read():
    dense, behind = coded()
    behind.asked = 0
    dense.search(questions(behind, 1), 10)
    assert behind.asked == 10 + 20 + 2


@pytest.mark.parametrize("k", [1, 100, 1499, 1500, 9999])
def test_codes_give_k_results_wherever_there_are_k(k):
    dense, behind = coded()
    queries = questions(behind, 3)
    _, ids = dense.search(queries, k)
    assert ids.shape == (3, min(k, 1500))
    if k >= 1499:
        assert ids[0].tolist() == behind.best(queries[0], k)[0]
    assert dense.search(queries[:0], k)[1].shape == (0, min(k, 1500))


def test_small_numbers_stay_flat():
    behind = Vectors(np.arange(100), clustered(100))
    dense = DenseIndex.gather(np.arange(100), behind, dimension=32, flat_limit=100)
    assert dense.description.kind == "flat"
    assert dense.description.recall_at_10 == 1.0
    assert dense.size == 100


def test_where_codes_lose_too_much_the_index_stays_flat_and_says_so(monkeypatch):
    monkeypatch.setattr(retrieval.dense, "RECALL", 1.01)
    dense, behind = coded()
    assert dense.description.kind == "flat"
    assert "do not reach a recall" in dense.description.note
    assert_recall(dense, behind, at_least=1.0)


def test_equal_vectors_are_found_as_often_as_asked_for():
    ids = np.arange(500, dtype=np.int64)
    behind = Vectors(ids, np.repeat(clustered(5, dimension=32), 100, axis=0))
    dense = DenseIndex.gather(ids, behind, dimension=32, flat_limit=100)
    assert dense.description.recall_at_10 == 1.0
    scores, found = dense.search(behind.rows[0][None], 10)
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)
    assert (np.diff(found) > 0).all(), "ties by id"


@pytest.mark.parametrize("seed", range(4))
def test_codes_that_were_changed_find_like_codes_made_anew(seed):
    dense, behind = coded(seed=seed)
    chance = np.random.default_rng(seed)
    for step in range(6):
        gone = chance.permutation(list(behind.rows))[:40]
        assert dense.remove(np.concatenate([gone, [10**9]])) == 40
        for each in gone.tolist():
            del behind.rows[each]
        new = 10_000 + 1000 * step + np.arange(25)
        vectors = clustered(25, seed=100 * seed + step)
        dense.add(new, vectors)
        behind.rows.update(zip(new.tolist(), vectors, strict=True))
        assert dense.ids.tolist() == sorted(behind.rows)
        for each in new.tolist():
            assert dense.search(behind.rows[each][None], 1)[1][0, 0] == each
        _, found = dense.search(questions(behind, 20), 50)
        assert not np.isin(found, gone).any()
    with pytest.raises(ValueError, match="is in the index"):
        dense.add(new[:1], vectors[:1])
    assert_recall(dense, behind)
    assert_recall(DenseIndex.gather(dense.ids, behind, dimension=32, flat_limit=100), behind)


def test_training_is_kept_until_the_number_has_doubled():
    every = Vectors(np.arange(1700, dtype=np.int64), clustered(1700))
    dense = DenseIndex.gather(np.arange(800), every, dimension=32, flat_limit=100)
    for count, trained_on in ((1500, 800), (1700, 1700), (900, 1700), (849, 849)):
        ids = np.arange(count, dtype=np.int64)
        behind = Vectors(*every(ids))
        start = dense
        dense = DenseIndex.gather(ids, behind, dimension=32, start=start, flat_limit=100)
        assert (dense is start) == (trained_on != count)
        assert (dense.size, dense.description.trained_on) == (count, trained_on)
        assert dense.description.recall_at_10 >= retrieval.dense.RECALL
        assert_recall(dense, behind)
    flat = DenseIndex.gather(ids[:50], behind, dimension=32, start=dense, flat_limit=100)
    assert (flat.description.kind, flat.size) == ("flat", 50)


def test_centroids_that_no_longer_serve_are_trained_anew():
    """Codes whose ids stand for other vectors now find nothing, however many lists are read."""
    start, _ = coded(seed=1)
    behind = Vectors(start.ids, clustered(1500, seed=2))
    dense = DenseIndex.gather(start.ids, behind, dimension=32, start=start, flat_limit=100)
    assert dense is not start
    assert dense.description.kind == "ivf-sq8"
    assert_recall(dense, behind)


def test_vectors_that_are_missing_are_not_left_out_in_silence():
    behind = Vectors(np.arange(300), clustered(300))
    for flat_limit in (100, 1000):
        with pytest.raises(IndexCorruptError, match="vectors of 2 embeddings are missing"):
            DenseIndex.gather(np.arange(302), behind, dimension=32, flat_limit=flat_limit)


def test_what_the_store_has_dropped_is_not_found():
    dense, behind = coded()
    query = questions(behind, 1)
    (first, *_), _ = behind.best(query[0], 10)
    del behind.rows[first]
    _, ids = dense.search(query, 10)
    assert ids.shape == (1, 10)
    assert ids[0].tolist() == behind.best(query[0], 10)[0]
    assert first not in dense.ids


def test_codes_are_saved_with_their_description(tmp_path):
    dense, behind = coded()
    path = tmp_path / "dense.faiss"
    sha256 = dense.save(path)
    again = DenseIndex.load(path, sha256, size=path.stat().st_size, generation=4, vectors_of=behind)
    assert again.description == dense.description
    assert again.ids.tolist() == dense.ids.tolist()
    for mine, theirs in zip(again.search(questions(behind), 9), dense.search(questions(behind), 9), strict=True):
        assert np.array_equal(mine, theirs)
    assert abs(path.stat().st_size - dense.description.bytes) < 8000
    again.remove(dense.ids[:10])
    again.add(np.array([5]), behind.rows[5][None])
    assert again.size == 1491
    for damaged in (path.read_bytes()[:-5], path.read_bytes().replace(b"ivf-sq8", b"flat   ")):
        path.write_bytes(damaged)
        with pytest.raises(IndexCorruptError):
            DenseIndex.load(path, hashlib.sha256(damaged).hexdigest())


def test_codes_alone_do_not_answer(tmp_path):
    dense, behind = coded()
    sha256 = dense.save(tmp_path / "dense.faiss")
    with pytest.raises(ValueError, match="needs vectors_of"):
        DenseIndex.load(tmp_path / "dense.faiss", sha256).search(questions(behind, 1), 1)


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds_in_codes():
    import faiss

    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("this FAISS has no GPU")
    dense, behind = coded(5000)
    queries = questions(behind)
    expected = dense.search(queries, 10)
    dense.to("cuda")
    scores, ids = dense.search(queries, 10)
    np.testing.assert_allclose(scores, expected[0], atol=1e-5)
    assert (ids == expected[1]).mean() > 0.99
    allowed = dense.ids[::7]
    assert np.isin(dense.search(queries, 10, among=allowed)[1], allowed).all()


# ---- the store and its file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_whatever_happens_the_index_equals_brute_force(tmp_path, monkeypatch, seed):
    """Random staging, publishing, removing, failing and reopening; with low limits, so that files are rewritten too."""
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 4)
    chance = random.Random(seed)  # noqa: S311 - reproducible
    store = new_store(tmp_path)
    standing = open_dense(store)
    expected: dict[str, str] = {}
    for _ in range(15):
        now = dict(expected)
        with store.writer() as writer:
            for _ in range(chance.randrange(5)):
                doc_id, text = f"d{chance.randrange(12)}", f"word{chance.randrange(30)} word{chance.randrange(30)}"
                stage_text(writer, doc_id, text, cuts=[3] if chance.random() < 0.3 else [])
                now[doc_id] = text
            for doc_id in chance.sample(sorted(now), min(len(now), chance.randrange(4))):
                writer.remove([doc_id])
                del now[doc_id]
            if chance.random() < 0.8:
                writer.publish(roots=[], drop_unreferenced=chance.random() < 0.7)
                expected = now
        if chance.random() < 0.3:
            store.close()
            store = Store.open(tmp_path)
        assert {row.doc_id: store.document(row.doc_id).text for row in store.documents()} == expected
        refresh(store, standing)
        for dense in (standing, open_dense(store)):
            assert dense.generation == store.generation
            assert dense.notice is None
            assert_searches_like_brute_force(store, dense)
        assert store.verify() == []
        assert len(dense_files(store)) <= 1
    store.close()


def test_a_small_change_leaves_the_file_and_a_large_one_replaces_it(store, monkeypatch):
    publish_texts(store, {f"d{n}": f"word{n}" for n in range(30)})
    assert dense_files(store) == ["dense-000001.faiss"]
    publish_texts(store, {"d0": "changed"}, remove=["d1"])
    assert dense_files(store) == ["dense-000001.faiss"]
    assert store.artefact().generation == 1
    assert_searches_like_brute_force(store, open_dense(store))
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 2)
    publish_texts(store, {"d2": "changed as well"})  # 30 at first; two are new and three gone since
    assert dense_files(store) == ["dense-000003.faiss"]
    assert_searches_like_brute_force(store, open_dense(store))


def test_an_index_that_became_empty_has_no_file_once_it_is_rewritten(store, monkeypatch):
    monkeypatch.setattr(retrieval.writer, "REWRITE_ROWS", 0)
    publish_texts(store, {"a": "one"})
    store.delete(["a"])
    assert dense_files(store) == []
    assert store.artefact() is None
    assert_searches_like_brute_force(store, open_dense(store))


def test_refresh_is_nothing_when_nothing_happened(store, monkeypatch):
    publish_texts(store, {"a": "one"})
    dense = open_dense(store)
    monkeypatch.setattr(Store, "live_embeddings", None)
    assert refresh(store, dense) is False


def test_the_journal_leads_to_the_same_index_as_a_full_comparison(store, monkeypatch):
    publish_texts(store, {f"d{n}": f"word{n} word{n + 1}" for n in range(30)})
    by_journal, by_comparison = open_dense(store), open_dense(store)
    publish_texts(store, {"d1": "changed", "new": "word3 new"}, remove=["d2"])
    publish_texts(store, {"d1": "changed again", "d2": "word2 word3"}, remove=["new"])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "live_embeddings", None)
        assert refresh(store, by_journal) is True
    with monkeypatch.context() as patched:
        patched.setattr(Store, "changes_since", lambda *_: None)
        assert refresh(store, by_comparison) is True
    assert by_journal.ids.tolist() == by_comparison.ids.tolist()
    for dense in (by_journal, by_comparison):
        assert dense.generation == store.generation
        assert_searches_like_brute_force(store, dense)


def test_codes_of_a_store(store):
    """Written as a publish writes them, opened with the store behind them, and followed through changes."""
    with store.writer() as writer:
        for n in range(400):
            stage_text(writer, f"d{n}", f"word{n} word{n % 20} word{n % 7}")
        writer.publish(roots=["/docs"])
    assert describe_dense(store).kind == "flat"
    dense = DenseIndex.gather(store.live_embeddings(), store.vectors, dimension=64, flat_limit=100)
    record(store, dense)
    assert describe_dense(store) == dense.description
    opened = open_dense(store)
    assert (opened.notice, opened.description) == (None, dense.description)
    assert opened.description.kind == "ivf-sq8"
    publish_texts(store, {"d3": "something else"}, remove=["d4"])
    refresh(store, opened)
    ids, vectors = store.vectors()
    assert opened.ids.tolist() == ids.tolist()
    scores, found = opened.search(vectors, 1)
    assert found[:, 0].tolist() == ids.tolist()
    np.testing.assert_allclose(scores, 1.0, atol=1e-6)


def record(store, dense):
    """Put an index in the place of the recorded search file."""
    import sqlite3
    from contextlib import closing

    path = store.folder / store.artefact().file
    sha256 = dense.save(path)
    with closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE artefacts SET sha256 = ?, bytes = ?", (sha256, path.stat().st_size))


def test_an_index_without_a_file_describes_nothing(store):
    assert describe_dense(store) is None


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "folder"])
def test_a_missing_or_damaged_file_is_noticed_and_made_up_for(store, damage):
    publish_texts(store, {"a": "one", "b": "two"})
    path = store.folder / "dense-000001.faiss"
    data = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(data[:-1])
    elif damage == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif damage == "folder":
        path.mkdir()
    dense = open_dense(store)
    assert "rebuilt in memory" in dense.notice
    assert "dense-000001.faiss" in dense.notice
    assert_searches_like_brute_force(store, dense)
    assert store.verify() != []
    if damage == "folder":
        path.rmdir()
    with store.writer() as writer:
        assert writer.publish(roots=(), rewrite_dense=True) == 2
    assert dense_files(store) == ["dense-000002.faiss"]
    assert open_dense(store).notice is None
    assert store.verify() == []


def test_a_publish_replaces_a_file_that_is_missing(store):
    publish_texts(store, {"a": "one"})
    (store.folder / "dense-000001.faiss").unlink()
    publish_texts(store, {"b": "two"})
    assert open_dense(store).notice is None
    assert dense_files(store) == ["dense-000002.faiss"]


def test_a_record_does_not_lead_out_of_the_folder(store, tmp_path):
    publish_texts(store, {"a": "one"})
    outside = tmp_path / "outside.faiss"
    (store.folder / "dense-000001.faiss").rename(outside)
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(store.folder / "index.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE artefacts SET file = '../outside.faiss'")
    assert open_dense(store).notice is not None
    publish_texts(store, {"b": "two"})
    assert outside.exists()


def test_a_reader_that_loses_the_race_looks_again(store, monkeypatch):
    """Between a reader's look at the record and at the file, another process replaces both."""
    publish_texts(store, {"a": "one"})
    really = DenseIndex.load
    raced = []

    def load(path, sha256, **options):
        if not raced:
            raced.append(path)
            with Store.open(store.folder) as other, other.writer() as writer:
                stage_text(writer, "a", "two")
                writer.publish(roots=[], rewrite_dense=True)
        return really(path, sha256, **options)

    monkeypatch.setattr(DenseIndex, "load", load)
    dense = open_dense(store)
    assert dense.notice is None
    assert dense.generation == 2
    assert_searches_like_brute_force(store, dense)


def test_another_encoder_replaces_the_vectors(store):
    from doubles import manifest_of

    publish_texts(store, {"a": "one"})
    dense = open_dense(store)
    other = HashEncoder(dimension=8)
    with beside(store, manifest_of(other), wait_seconds=0.0) as draft:
        with draft.writer(locked=True) as writer:
            stage_text(writer, "a", "one", encoder=other)
            writer.publish(roots=[], after=store.generation)
        switch(store.home, draft.folder, previous=store.folder)
    refresh(store, dense)
    for index in (dense, open_dense(store)):
        assert index.dimension == 8
        assert index.notice is None
        assert_searches_like_brute_force(store, index)


# ---- failures at every step ------------------------------------------------------------------------------------------

WATCHED = {each.__file__ for each in (retrieval.dense, retrieval.database, retrieval.store, retrieval.writer)}
OLD, NEW = {"a": "old", "b": "kept"}, {"a": "new", "b": "kept", "c": "more"}


def prepare(folder):
    with new_store(folder) as store:
        publish_texts(store, OLD)


def change(folder):
    with Store.open(folder) as store, store.writer() as writer:
        stage_text(writer, "a", NEW["a"])
        stage_text(writer, "c", NEW["c"])
        writer.commit_batch()
        writer.publish(roots=["/docs"], rewrite_dense=True)


def assert_old_or_new(folder):
    with Store.open(folder) as store:
        state = {row.doc_id: store.document(row.doc_id).text for row in store.documents()}
        assert (store.generation, state) in [(1, OLD), (2, NEW)]
        dense = open_dense(store)
        assert dense.notice is None
        assert_searches_like_brute_force(store, dense)
        assert store.verify() == []
        with store.writer():
            pass
        assert dense_files(store) == [store.artefact().file], "the next writer cleans up"
        return store.generation


# An error at the very line that closes a file leaves the closing to the interpreter, which complains.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_error_at_any_line_leaves_the_old_or_the_new_state(tmp_path):
    def fail():
        raise FaultError

    prepare(tmp_path / "0")
    lines = run_until_line(0, lambda: change(tmp_path / "0"), fail, files=WATCHED)
    assert lines > 100
    outcomes = set()
    for number in range(1, lines + 1, 11):  # every line would take minutes
        folder = tmp_path / str(number)
        prepare(folder)
        with pytest.raises(FaultError):
            run_until_line(number, lambda folder=folder: change(folder), fail, files=WATCHED)
        outcomes.add(assert_old_or_new(folder))
    assert outcomes == {1, 2}
