"""Models on this machine: what is needed, what is here, whether it is sound; and nothing but fetch goes to the hub."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest
from typer.testing import CliRunner, Result

from app.cli.common import Session
from app.cli.root import app
from app.config import Config, load_config
from app.models import Model, check, fetch, look, needed
from ingest.records import Progress
from retrieval.errors import ConfigError, ModelError

BUNDLED = "all-MiniLM-L6-v2"
COPY_AGAIN = "copy the whole folder here again (on a machine with network access, rag models fetch NAME --to DIR)"
GPU_ENCODER, ZEPHYR = "thenlper/gte-small", "HuggingFaceH4/zephyr-7b-beta"


def settings(tmp_path: Path, **flags: object) -> Config:
    return load_config(flags, {"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}, tmp_path)


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> Path:
    """A model as its authors would publish it, in two files of weights, with what nobody should fetch beside it."""
    import numpy as np
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("published") / "model"
    (folder / "sub").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text(json.dumps({"of": name}))
    for name in ("chat_template.jinja", "sub/notes.txt", "README.md", "modeling_evil.py", "tokenizer.model"):
        (folder / name).write_text(f"text of {name}")
    shards = {letter: f"model-0000{n}-of-00002.safetensors" for n, letter in enumerate("ab", 1)}
    for letter, name in shards.items():
        save_file({letter: np.ones((600, 1000), np.float32)}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    (folder / "consolidated.safetensors").write_bytes(b"a second time")
    return folder


def wanted(folder: Path) -> dict[str, bytes]:
    """What the product needs of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
        and (path.suffix in (".json", ".safetensors", ".txt", ".jinja") or path.name == "tokenizer.model")
        and not path.name.startswith("consolidated")
    }


def blob_name(path: Path) -> str:
    """As the hub names a file: weights by SHA-256, small files as git does."""
    data = path.read_bytes()
    if path.suffix in (".safetensors", ".model", ".bin"):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def put_in_cache(published: Path, hub: Path, name: str = "org/small") -> Path:
    """The layout of Hugging Face's cache, by hand."""
    place = hub / ("models--" + name.replace("/", "--"))
    snapshot = place / "snapshots" / ("c" * 40)
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("c" * 40)
    for path in wanted(published):
        blob = place / "blobs" / blob_name(published / path)
        shutil.copy(published / path, blob)
        link = snapshot / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return snapshot


def silent(_: Progress) -> None:
    """Nobody looks."""


def checked(name: str | Path, hub: Path) -> Model:
    return check(look(str(name), hub_cache=hub), report=silent)


# ---- what is needed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({}, [(BUNDLED, "encoder"), (GPU_ENCODER, "encoder"), (ZEPHYR, "model")]),
        ({"profile": "embedded"}, [(BUNDLED, "encoder")]),
        ({"profile": "gpu"}, [(GPU_ENCODER, "encoder"), (ZEPHYR, "model")]),
        ({"profile": "gpu", "reader": "extractive"}, [(GPU_ENCODER, "encoder")]),
        ({"profile": "embedded", "reader": "zephyr", "model": "a/b"}, [(BUNDLED, "encoder"), ("a/b", "model")]),
        ({"profile": "gpu", "server_url": "http://127.0.0.1:1/v1"}, [(GPU_ENCODER, "encoder")]),
        (
            {"profile": "embedded", "encoder": "a/e", "reranker": "a/r", "verifier": "a/v"},
            [("a/e", "encoder"), ("a/r", "reranker"), ("a/v", "verifier")],
        ),
        ({"profile": "embedded", "reader": "zephyr", "tokenizer": "a/t"}, [(BUNDLED, "encoder"), (ZEPHYR, "model")]),
        (
            {"profile": "embedded", "server_url": "http://127.0.0.1:1/v1", "tokenizer": "a/t"},
            [(BUNDLED, "encoder"), ("a/t", "tokenizer")],
        ),
        (
            {"profile": "embedded", "server_url": "http://127.0.0.1:1/v1", "tokenizer": "a/b", "verifier": "a/b"},
            [(BUNDLED, "encoder"), ("a/b", "verifier")],
        ),
    ],
)
def test_what_the_settings_need(tmp_path, flags, expected):
    assert [(need.name, need.setting) for need in needed(settings(tmp_path, **flags))] == expected


# ---- what is here ----------------------------------------------------------------------------------------------------


def test_the_bundled_encoder_is_here_and_every_file_of_it_has_a_checksum(tmp_path):
    model = checked(BUNDLED, tmp_path)
    assert (model.state, model.problems, model.unknown) == ("here", (), 0)
    assert {"config.json", "model.safetensors", "1_Pooling/config.json"} <= {file.path for file in model.files}
    assert model.bytes > 90_000_000


def test_a_model_in_the_cache_is_checked_against_the_names_of_its_blobs(tmp_path, published):
    snapshot = put_in_cache(published, tmp_path / "hub")
    model = checked("org/small", tmp_path / "hub")
    assert (model.folder, model.state, model.unknown) == (snapshot, "here", 0)
    assert {file.path: file.bytes for file in model.files} == {
        path: len(data) for path, data in wanted(published).items()
    }


def test_a_folder_without_notes_is_checked_as_far_as_it_goes(tmp_path, published):
    model = checked(published, tmp_path)
    assert (model.state, model.unknown) == ("here", len(model.files))


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-", "tokenizer.model"])
def test_a_byte_that_changed_is_found_and_the_blob_named(tmp_path, published, name):
    put_in_cache(published, tmp_path / "hub")
    before = look("org/small", hub_cache=tmp_path / "hub")
    file = next(file for file in before.files if file.path.startswith(name))
    blob = (before.folder / file.path).resolve()
    data = bytearray(blob.read_bytes())
    data[-3] ^= 1
    blob.write_bytes(data)
    model = checked("org/small", tmp_path / "hub")
    assert model.state == "broken"
    assert model.problems == (
        f"{file.path} has other bytes than the hub said; delete {blob} and run: rag models fetch org/small",
    )
    assert before.problems == (), "a look reads no weights"


def _header(table: object) -> bytes:
    data = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(data)) + data


TENSOR = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "weights",
    [
        b"",
        b"\x80\x02.pickle pretending to be weights",
        struct.pack("<Q", 1 << 62) + b"{}",
        _header(b"[" * 90_000),
        _header({"a": TENSOR}) + bytes(7),
        _header({"a": TENSOR}) + bytes(9),
        _header({"a": {**TENSOR, "data_offsets": [0, 4]}}) + bytes(8),
        _header({"a": TENSOR, "b": {**TENSOR, "data_offsets": [4, 12]}}) + bytes(12),
        _header({"a": {**TENSOR, "shape": [1 << 62, 4]}}) + bytes(8),
        _header({"a": {**TENSOR, "dtype": "PICKLE"}}) + bytes(8),
    ],
)
def test_weights_that_do_not_match_their_own_table_are_found(tmp_path, published, weights):
    folder = shutil.copytree(published, tmp_path / "model")
    (folder / "model-00001-of-00002.safetensors").write_bytes(weights)
    (problem,) = checked(folder, tmp_path).problems
    assert problem.startswith("model-00001-of-00002.safetensors cannot be read (")
    assert problem.endswith(COPY_AGAIN)


def test_what_is_missing_is_named(tmp_path, published):
    snapshot = put_in_cache(published, tmp_path / "hub")
    first, second = sorted(path.name for path in snapshot.glob("model-*-of-*.safetensors"))[:2]
    (snapshot / first).unlink()
    (snapshot / second).resolve().unlink()  # the link stays, and leads nowhere
    model = checked("org/small", tmp_path / "hub")
    assert model.state == "broken"
    assert model.problems == (f"{second}, {first} missing in {snapshot}; run: rag models fetch org/small",)


@pytest.mark.parametrize("index", ["{", "[]", "{}", '{"weight_map": 1}', '{"weight_map": {"a": 1}}', "[" * 100_000])
def test_an_index_of_weights_that_cannot_be_read_is_a_finding(tmp_path, published, index):
    folder = shutil.copytree(published, tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(index)
    (problem,) = look(str(folder), hub_cache=tmp_path).problems
    assert problem.startswith("model.safetensors.index.json cannot be read (")


def test_an_index_that_points_elsewhere_is_a_finding(tmp_path, published):
    folder = shutil.copytree(published, tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    assert look(str(folder), hub_cache=tmp_path).problems == (f"../../etc/passwd missing in {folder}; {COPY_AGAIN}",)


def test_pickled_weights_are_refused_with_what_to_do(tmp_path, published):
    folder = shutil.copytree(published, tmp_path / "model")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    (problem,) = checked(folder, tmp_path).problems
    assert "has weights only as pytorch_model.bin, which can hold programs; expected *.safetensors" in problem
    (folder / "pytorch_model.bin").unlink()
    (problem,) = checked(folder, tmp_path).problems
    assert problem == f"{folder} has no weights in *.safetensors; name another model"


def test_a_tokenizer_is_needed(tmp_path, published):
    folder = shutil.copytree(published, tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer.model"):
        (folder / name).unlink(missing_ok=True)
    assert look(str(folder), hub_cache=tmp_path).problems == (f"tokenizer.json missing in {folder}; {COPY_AGAIN}",)
    assert look(str(folder), hub_cache=tmp_path, weights=False).state == "broken"


def test_where_a_tokenizer_is_all_that_is_needed_weights_may_be_missing(tmp_path, published):
    folder = shutil.copytree(published, tmp_path / "model", ignore=shutil.ignore_patterns("model-*", "*.bin"))
    assert look(str(folder), hub_cache=tmp_path).state == "broken"
    model = look(str(folder), hub_cache=tmp_path, weights=False)
    assert (model.state, model.problems) == ("here", ())
    assert "tokenizer.json" in {file.path for file in model.files}


def test_a_folder_that_is_not_there_or_holds_no_model_is_not_fetched(tmp_path):
    (missing,) = look(f"{tmp_path}/none", hub_cache=tmp_path).problems
    assert missing == f"there is no folder {tmp_path}/none; copy the model there, or correct the setting that names it"
    model = look(str(tmp_path), hub_cache=tmp_path)
    assert model.problems == (f"{tmp_path} holds no config.json; expected the folder of a model: {COPY_AGAIN}",)
    assert check(model, report=silent) == model
    with pytest.raises(ModelError, match=r"is a folder's place; expected a model's name on the hub, like thenlper"):
        fetch(f"{tmp_path}/none", config=settings(tmp_path), to=None, note=print)


@pytest.mark.parametrize("name", ["org/none", "a/b/c", "", "x\0y", "no such name"])
def test_a_missing_model_names_the_folders_and_the_command(tmp_path, name):
    model = look(name, hub_cache=tmp_path / "hub")
    assert (model.folder, model.state, model.files) == (None, "missing", ())
    assert str(tmp_path / "hub") in model.problems[0] or "null" in model.problems[0]
    assert model.problems[0].endswith(f"run: rag models fetch {name}")
    assert check(model, report=silent) == model


def test_progress_counts_every_byte_once(tmp_path, published):
    put_in_cache(published, tmp_path / "hub")
    told: list[Progress] = []
    model = check(look("org/small", hub_cache=tmp_path / "hub"), report=told.append)
    assert told[-1] == Progress("checking org/small", model.bytes // 1_000_000, model.bytes // 1_000_000, "MB")
    assert [progress.done for progress in told] == sorted(progress.done for progress in told)


# ---- fetching --------------------------------------------------------------------------------------------------------


class Hub:
    """A model hub on loopback that serves one folder as org/small, and writes down what it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, list[str]()
        self.broken: set[str] = set()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                hub.answer(self, body=False)

            def do_GET(self) -> None:
                hub.answer(self, body=True)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = handler.path.partition("?")[0]
        headers = {"X-Repo-Commit": "c" * 40}
        status, data = 200, b""
        if path == "/api/models/org/gated":
            status, headers["X-Error-Code"] = 403, "GatedRepo"
        elif path in ("/api/models/org/small", "/api/models/org/small/revision/main"):
            data = json.dumps({"id": "org/small", "sha": "c" * 40, "siblings": self.listed("rfilename")}).encode()
        elif path.startswith("/api/models/org/small/tree/"):
            data = json.dumps([{"type": "file", "oid": "0" * 40, **file} for file in self.listed("path")]).encode()
        elif path.startswith("/org/small/resolve/"):
            name = path.split("/", 5)[5]
            self.asked.append(name)
            data = (self.folder / name).read_bytes()
            headers["ETag"] = f'"{blob_name(self.folder / name)}"'
            if name in self.broken:
                data = data[:-3] + b"xxx"
        else:
            status, headers["X-Error-Code"] = 404, "RepoNotFound"
        handler.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            handler.send_header(key, value)
        handler.end_headers()
        if body:
            handler.wfile.write(data)

    def listed(self, key: str) -> list[dict[str, object]]:
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        return [{key: path.relative_to(self.folder).as_posix(), "size": path.stat().st_size} for path in files]


@pytest.fixture
def hub(published) -> Iterator[Hub]:
    served = Hub(published)
    yield served
    served.server.shutdown()
    served.server.server_close()


Rag = Callable[..., tuple[int, str, str]]


@pytest.fixture
def rag(hub, fresh_python) -> Rag:
    """Runs `rag models ...` of a new user whose hub is the one on loopback."""

    def run(*arguments: str, **environ: str) -> tuple[int, str, str]:
        done = fresh_python(
            "-m", "app", "models", *arguments, check=False, HF_ENDPOINT=hub.url, COLUMNS="400", **environ
        )
        return done.returncode, done.stdout, done.stderr

    return run


def test_fetch_brings_what_is_needed_and_nothing_else(rag, hub, tmp_path):
    code, printed, said = rag("fetch", "org/small")
    assert (code, printed) == (0, ""), said
    folder = tmp_path / "home/.cache/huggingface/hub/models--org--small/snapshots" / ("c" * 40)
    assert said.splitlines()[-1] == f"org/small is in {folder}"
    assert "org/small: 9 files, 4.8 MB" in said
    assert set(hub.asked) == set(wanted(hub.folder))
    assert wanted(folder) == wanted(hub.folder)
    assert rag("where", "org/small") == (0, f"{folder}\n", "")
    code, printed, _ = rag("check", "org/small")
    assert (code, printed) == (0, f"org/small: right, 9 files, 4.8 MB, in {folder}\n")
    shutil.rmtree(folder.parents[1])
    code, printed, said = rag("where", "org/small")
    assert (code, printed) == (1, "")
    assert said.endswith("run: rag models fetch org/small\n")


def test_fetch_brings_no_weights_where_only_the_tokenizer_is_needed(rag, hub, tmp_path):
    server = {"RAG_SERVER_URL": "http://127.0.0.1:1/v1", "RAG_TOKENIZER": "org/small"}
    code, _, said = rag("fetch", "--profile", "embedded", **server)
    assert code == 0, said
    assert set(hub.asked) == {name for name in wanted(hub.folder) if not name.endswith(".safetensors")}
    snapshot = tmp_path / "home/.cache/huggingface/hub/models--org--small/snapshots" / ("c" * 40)
    assert said.splitlines()[-1] == f"org/small is in {snapshot}"
    assert rag("fetch", "org/small")[0] == 0
    assert set(hub.asked) == set(wanted(hub.folder)), "asked for as a whole, the weights come too"


def test_fetch_into_a_folder_says_how_to_carry_it_over(rag, tmp_path):
    code, printed, said = rag("fetch", "org/small", "--to", str(tmp_path / "disk"), RAG_ENCODER="org/small")
    folder = tmp_path / "disk" / "org--small"
    assert (code, printed) == (0, ""), said
    assert said.splitlines()[-1] == (
        f"org/small is in {folder}; copy the whole folder to the other machine and put into rag.toml there: "
        'encoder = "/folder/on/that/machine/org--small"'
    )
    carried = shutil.copytree(folder, tmp_path / "other" / "small")
    model = checked(carried, tmp_path)
    assert (model.state, model.unknown) == ("here", 0), "the checksums travel with the folder"
    (carried / "config.json").write_text("{}")
    assert checked(carried, tmp_path).problems[0].startswith("config.json has other bytes than the hub said")


def test_fetch_checks_what_arrived(rag, hub):
    hub.broken.add("tokenizer.json")
    code, _, said = rag("fetch", "org/small")
    assert code == 1
    assert "tokenizer.json has other bytes than the hub said" in said


def test_fetch_refuses_pickled_weights_before_it_downloads_anything(rag, hub, tmp_path):
    hub.folder = shutil.copytree(hub.folder, tmp_path / "pickled", ignore=shutil.ignore_patterns("model-*"))
    code, _, said = rag("fetch", "org/small")
    assert code == 1
    assert "error: org/small has weights only as pytorch_model.bin, which can hold programs" in said
    assert hub.asked == []


def test_errors_of_the_hub_say_what_to_do(rag, hub):
    for name, expected in {
        "org/none": f"error: {hub.url} has no model 'org/none', or keeps it private",
        "no such name": f"error: {hub.url} has no model 'no such name', or keeps it private",
        "org/gated": f"accept them at {hub.url}/org/gated and log in with: hf auth login",
    }.items():
        code, printed, said = rag("fetch", name)
        assert (code, printed) == (1, "")
        assert expected in said
    hub.server.shutdown()
    hub.server.server_close()
    code, printed, said = rag("fetch", "org/small")
    assert (code, printed) == (1, "")
    assert f"error: org/small could not be fetched from {hub.url} (ConnectError" in said


def test_fetch_refuses_offline_and_says_how_to_go_on(tmp_path):
    for key, origin in (("offline in rag.toml", "offline in rag.toml"), (None, "HF_HUB_OFFLINE")):
        config = settings(tmp_path)
        config = Config(
            index=config.index,
            cache=config.cache,
            offline=True,
            origins=MappingProxyType({"offline": key} if key else {}),
        )
        with pytest.raises(ConfigError, match=f"{origin} says .* rag models fetch org/small --to FOLDER"):
            fetch("org/small", config=config, to=None, note=print)


def test_the_bundled_encoder_is_not_fetched(tmp_path):
    with pytest.raises(ModelError, match="is part of the installation and not on the hub; run: make setup"):
        fetch(BUNDLED, config=settings(tmp_path), to=None, note=print)


# ---- the command line ------------------------------------------------------------------------------------------------


def run(tmp_path: Path, *arguments: str, **environ: str) -> Result:
    session = Session(environ={"HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub"), **environ}, cwd=tmp_path)
    return CliRunner().invoke(app, ["models", *arguments], obj=session, env={"COLUMNS": "300"})


def test_list_shows_what_is_here_and_how_to_get_the_rest(tmp_path, published):
    put_in_cache(published, tmp_path / "hub", GPU_ENCODER)
    result = run(tmp_path, "list")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert [(row[0], "here" in row, "missing" in row) for row in rows[1:]] == [
        (BUNDLED, True, False), (GPU_ENCODER, True, False), (ZEPHYR, False, True),
    ]  # fmt: skip
    assert result.stderr == f"{ZEPHYR} is not in {tmp_path / 'hub'}; run: rag models fetch {ZEPHYR}\n"


def test_list_and_check_in_json(tmp_path, published):
    snapshot = put_in_cache(published, tmp_path / "hub")
    listed = json.loads(run(tmp_path, "list", "--json", "--profile", "embedded", RAG_ENCODER="org/small").stdout)
    assert listed["hub_cache"] == str(tmp_path / "hub")
    (model,) = listed["models"]
    files = model.pop("files")
    assert model == {
        "name": "org/small", "used": "encoder", "setting": "encoder", "state": "here", "folder": str(snapshot),
        "bytes": sum(map(len, wanted(published).values())), "problems": [],
    }  # fmt: skip
    assert {"path": "config.json", "bytes": 21, "digest": blob_name(published / "config.json")} in files
    (snapshot / "config.json").resolve().write_text("{}")
    result = run(tmp_path, "check", "org/small", "--json")
    assert result.exit_code == 1
    (model,) = json.loads(result.stdout)["models"]
    assert (model["state"], model["used"]) == ("broken", None)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [((), 0), ((BUNDLED,), 0), (("org/none",), 1), ((BUNDLED, "org/none"), 1), (("--profile", "gpu"), 1)],
)
def test_check_fails_where_what_was_asked_for_is_missing(tmp_path, arguments, code):
    result = run(tmp_path, "check", *arguments)
    assert result.exit_code == code, result.output
    assert (f"{BUNDLED}: right, 11 files, 91.6 MB, in " in result.stdout) == (BUNDLED in arguments or not arguments)


def test_where_prints_the_folder_and_nothing_else(tmp_path, published):
    snapshot = put_in_cache(published, tmp_path / "hub")
    assert run(tmp_path, "where", "org/small").output == f"{snapshot}\n"
    assert run(tmp_path, "where", str(published)).output == f"{published}\n"
    result = run(tmp_path, "where", "org/none")
    assert (result.exit_code, result.stdout) == (1, "")
    assert str(tmp_path / "hub") in result.stderr


def test_fetch_without_a_name_is_a_usage_error(tmp_path):
    result = run(tmp_path, "fetch")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "name a model, or --profile gpu for all it needs" in result.stderr
    result = run(tmp_path, "fetch", "--profile", "embedded")
    assert (result.exit_code, result.stderr) == (0, "nothing to fetch: what is needed is here\n")
