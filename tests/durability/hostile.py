"""Index folders as somebody would make them who means harm: every checksum and record fits what they put there.

Each case changes the index of one version in a folder. Runs in children of the fork server.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from examine import Report, examine

from retrieval.store import DATABASE

CASES: dict[str, Callable[[Path], None]] = {}
_DEEP = "[" * 100_000


def examine_hostile(index: str, docs: str, name: str, truths: str) -> Report:
    """Make an index hostile, then examine it."""
    CASES[name](Path(index))
    return examine(index, docs, truths)


def examine_retyped(index: str, docs: str, seed: int, truths: str) -> Report:
    """Put a value of any type into a column of every row of a table, or of one, then examine the index."""
    chance = random.Random(seed)  # noqa: S311 - reproducible
    values = (
        None,
        0,
        -1,
        2**62,
        1.5,
        float("inf"),
        "",
        "text",
        b"",
        b"\xff",
        b"{}",
        b"[]",
        b"null",
        chance.randbytes(50),
    )
    with _database(Path(index)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        table = chance.choice([name for (name,) in tables.fetchall() if not name.startswith("sqlite_")])
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        where = chance.choice(["", f"WHERE {columns[0]} = (SELECT max({columns[0]}) FROM {table})"])  # noqa: S608
        column, value = chance.choice(columns), chance.choice(values)
        with suppress(sqlite3.IntegrityError):  # a key that takes numbers only: then nothing is changed
            sql = f"UPDATE OR IGNORE {table} SET {column} = ? {where}"  # noqa: S608 - names from its own schema
            connection.execute(sql, (value,))
    report = examine(index, docs, truths)
    report["changed"] = f"{table}.{column} = {value!r} {where}"
    return report


# ---- tools -----------------------------------------------------------------------------------------------------------


def case(name: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Put a function under a name."""

    def put(function: Callable[[Path], None]) -> Callable[[Path], None]:
        CASES[name] = function
        return function

    return put


@contextmanager
def _database(index: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(index / DATABASE, isolation_level=None)) as connection:
        yield connection


def _sql(script: str) -> Callable[[Path], None]:
    def act(index: Path) -> None:
        with _database(index) as connection:
            connection.executescript(script)

    return act


def _setting(key: str, value: object) -> Callable[[Path], None]:
    def act(index: Path) -> None:
        with _database(index) as connection:
            connection.execute("UPDATE manifest SET value = ? WHERE key = ?", (value, key))

    return act


def _encoder(**fields: object) -> Callable[[Path], None]:
    def act(index: Path) -> None:
        with _database(index) as connection:
            ((spec,),) = connection.execute("SELECT value FROM manifest WHERE key = 'encoder'").fetchall()
            changed = json.dumps({**json.loads(spec), **fields})
            connection.execute("UPDATE manifest SET value = ? WHERE key = 'encoder'", (changed,))

    return act


def _dense(index: Path) -> Path:
    (path,) = index.glob("dense-*.faiss")
    return path


def _lexical(index: Path) -> Path:
    (path,) = index.glob("lexical-*")
    return path


def _record(index: Path, kind: str, sha256: str, size: int) -> None:
    with _database(index) as connection:
        connection.execute("UPDATE artefacts SET sha256 = ?, bytes = ? WHERE kind = ?", (sha256, size, kind))


def _put_dense(index: Path, data: bytes) -> None:
    _dense(index).write_bytes(data)
    _record(index, "dense", hashlib.sha256(data).hexdigest(), len(data))


def _put_listing(index: Path, data: bytes) -> None:
    listing = _lexical(index) / "listing.json"
    listing.unlink()
    listing.write_bytes(data)
    _record(index, "lexical", hashlib.sha256(data).hexdigest(), 1)


def _seal(index: Path, change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
    """Make the listing fit the files, then change it."""
    folder = _lexical(index)
    fields = json.loads((folder / "listing.json").read_bytes())
    for path in folder.iterdir():
        if path.name in fields["files"]:
            data = path.read_bytes()
            fields["files"][path.name] = len(data), hashlib.sha256(data).hexdigest()
    change(fields)
    _put_listing(index, json.dumps(fields).encode())


def _meta(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def act(index: Path) -> None:
        path = _lexical(index) / "meta.json"
        fields = json.loads(path.read_bytes())
        change(fields)
        path.unlink()
        path.write_text(json.dumps(fields))
        _seal(index)

    return act


def _in_place_of(name: str, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Something else where a file is: `name` is a pattern below the index."""

    def act(index: Path) -> None:
        (path,) = [*index.glob(name)][:1] or [index / name]
        if path.exists():
            path.unlink()
        make(path)

    return act


# ---- cases -----------------------------------------------------------------------------------------------------------

_PLACES = (
    *(DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", "write.lock", "live.json", "dense-*.faiss"),
    *("lexical-*/listing.json", "lexical-*/meta.json", "lexical-*/*.term"),
)
for _place in _PLACES:
    CASES[f"a pipe as {_place}"] = _in_place_of(_place, os.mkfifo)
    CASES[f"a folder as {_place}"] = _in_place_of(_place, Path.mkdir)
    CASES[f"a link to /dev/zero as {_place}"] = _in_place_of(_place, lambda path: path.symlink_to("/dev/zero"))
    CASES[f"a link to itself as {_place}"] = _in_place_of(_place, lambda path: path.symlink_to(path.name))

for _name, _data in {
    "nothing": b"", "no JSON": b"\x00", "a number": b"7", "depth": _DEEP.encode(),
    "a path": b'{"live": "../elsewhere", "previous": null}',
    "no such version": b'{"live": "version-000007", "previous": null}',
    "no name": b'{"live": ["version-000007"], "previous": null}', "itself twice": b'{"live": ".", "previous": "."}',
    "a lost previous": b'{"live": ".", "previous": "version-000007"}',
}.items():  # fmt: skip
    CASES[f"a pointer of {_name}"] = lambda index, data=_data: (index / "live.json").write_bytes(data)  # type: ignore[misc]

for _name, _data in {
    "nothing": b"", "no JSON": b"{", "a list": b"[]", "depth": _DEEP.encode(),
    "numbers": b'{"files": {"meta.json": 5}}', "other fields": b'{"files": {}, "more": 1}',
    "no files": b'{"analyzer": "", "passages": 0, "deleted": 0, "files": {}}',
}.items():  # fmt: skip
    CASES[f"a listing of {_name}"] = lambda index, data=_data: _put_listing(index, data)  # type: ignore[misc]

for _name in ("../../outside", "/etc/passwd", "..", "a/b", "\0", "x" * 5000, "listing.json", "-" * 32 + ".term"):
    CASES[f"a listing that names {_name[:20]!r}"] = lambda index, name=_name: _seal(  # type: ignore[misc]
        index, lambda fields: fields["files"].update({name: (5, "0" * 64)})
    )


@case("a listing that counts wrong")
def _(index: Path) -> None:
    _seal(index, lambda fields: fields.update(passages=2**40, deleted=-3))


def _first_segment(**fields: object) -> Callable[[Path], None]:
    return _meta(lambda meta: meta["segments"][0].update(fields))


CASES |= {
    "a segment of 2^32 passages": _first_segment(max_doc=2**32 - 1),
    "a segment of no passages": _first_segment(max_doc=0),
    "a segment of another name": _first_segment(segment_id="0" * 32),
    "a segment without its name": _first_segment(segment_id="../../outside"),
    "a segment with deletions": _first_segment(deletes={"num_deleted_docs": 2**32 - 1, "opstamp": 1}),
    "a segment twice": _meta(lambda meta: meta["segments"].append(meta["segments"][0])),
    "no segments": _meta(lambda meta: meta["segments"].clear()),
    "a late opstamp": _meta(lambda meta: meta.update(opstamp=2**64 - 1)),
    "another schema": _meta(lambda meta: meta["schema"].pop()),
    "another tokenizer": _meta(lambda meta: meta["schema"][0]["options"]["indexing"].update(tokenizer="unknown")),
    "a long payload": _meta(lambda meta: meta.update(payload="x" * 3_000_000)),
}


@case("a meta.json of depth")
def _(index: Path) -> None:
    path = _lexical(index) / "meta.json"
    path.unlink()
    path.write_text('{"segments": ' + _DEEP)
    _seal(index)


@case("a segment file of other bytes")
def _(index: Path) -> None:
    for path in _lexical(index).glob("*.term"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(random.Random(1).randbytes(len(data)))  # noqa: S311 - reproducible
    _seal(index)


def _faiss_number(place: int, value: int) -> Callable[[Path], None]:
    """One of the places in the FAISS file that hold the number of vectors holds another one."""

    def act(index: Path) -> None:
        import faiss
        import numpy as np

        data = _dense(index).read_bytes()
        count = faiss.deserialize_index(np.frombuffer(data[1024:], dtype=np.uint8)).ntotal
        old, new = count.to_bytes(8, "little"), value.to_bytes(8, "little")
        places = [at for at in range(1024, len(data) - 8) if data[at : at + 8] == old]
        at = places[place]
        _put_dense(index, data[:at] + new + data[at + 8 :])

    return act


CASES |= {
    f"a FAISS file that claims {value} ({place})": _faiss_number(place, value)
    for place in range(2)
    for value in (0, 1, 2**31, 2**36, 2**60, 2**63)
}

for _seed in range(12):

    @case(f"a FAISS file with other bytes ({_seed})")
    def _(index: Path, seed: int = _seed) -> None:
        chance, data = random.Random(seed), bytearray(_dense(index).read_bytes())  # noqa: S311 - reproducible
        for _ in range(1 + seed % 4):
            at = 1024 + chance.randrange(120)
            data[at] = chance.choice([0, 255, chance.randrange(256)])
        _put_dense(index, bytes(data))


@case("a FAISS file that never ends")
def _(index: Path) -> None:
    path = _dense(index)
    path.unlink()
    path.symlink_to("/dev/zero")
    _record(index, "dense", "0" * 64, 0)


_ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"

CASES |= {
    "no tables": _sql("".join(f"DROP TABLE {name};" for name in ("chunks", "documents", "manifest", "artefacts"))),
    "a table missing": _sql("DROP TABLE failures;"),
    "another version": _sql("PRAGMA user_version = 99;"),
    "no version": _sql("PRAGMA user_version = 0;"),
    "another program's file": _sql("PRAGMA application_id = 1;"),
    "a view without end": _sql(
        f"DROP TABLE manifest; CREATE VIEW manifest (key, value) AS {_ENDLESS} 'x' || i, '1' FROM n;"
    ),
    "a view as a table": _sql("ALTER TABLE failures RENAME TO f; CREATE VIEW failures AS SELECT * FROM f;"),
    "a trigger": _sql(
        "CREATE TRIGGER t AFTER INSERT ON embeddings BEGIN DELETE FROM chunks; UPDATE documents SET text = x'41'; END;"
    ),
    "a trigger without end": _sql(
        f"CREATE TRIGGER t AFTER INSERT ON changes BEGIN INSERT INTO roots {_ENDLESS} i FROM n; END;"
    ),
    "another column": _sql("ALTER TABLE failures RENAME COLUMN reason TO cause;"),
    "one column more": _sql("ALTER TABLE chunks ADD COLUMN more;"),
    "an index that costs": _sql("CREATE INDEX costs ON chunks (hex(zeroblob(100000)));"),
    "many dimensions": _encoder(dimension=10**9),
    "no dimension": _encoder(dimension=0),
    "a dimension less": _encoder(dimension=63),
    "a dimension in words": _encoder(dimension="sixty-four"),
    "a long encoder name": _encoder(name="x" * 10_000_000),
    "a generation below 0": _setting("generation", "-5"),
    "a generation in words": _setting("generation", '"x"'),
    "a high generation": _setting("generation", str(2**62)),
    "a generation of digits": _setting("generation", "9" * 5000),
    "settings of depth": _setting("encoder", _DEEP),
    "chunks outside of their text": _sql("UPDATE chunks SET start_byte = -5, end_byte = 1 << 40;"),
    "chunks the wrong way round": _sql("UPDATE chunks SET start_byte = end_byte, end_byte = 0;"),
    "records from the future": _sql("UPDATE artefacts SET generation = 1 << 62;"),
    "records of other embeddings": _sql("UPDATE artefacts SET ids = x'0102030405';"),
    "codes without a width": _sql("UPDATE token_codes SET width = 0;"),
    "codes of another width": _sql("UPDATE token_codes SET width = 1;"),
}
