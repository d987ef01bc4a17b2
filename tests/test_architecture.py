"""The shape of the house, read from its imports: who knows whom, and what is only loaded when it is used."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("app", "eval", "ingest", "prompts", "reader", "retrieval")
MAY_IMPORT = {
    "prompts": set(),
    "retrieval": set(),
    "ingest": {"retrieval"},
    "reader": {"retrieval", "prompts"},
    "eval": {"retrieval", "reader", "prompts"},
    "app": {"eval", "ingest", "prompts", "reader", "retrieval"},
}
LIGHT_SIBLINGS = {"eval.errors", "retrieval.records", "retrieval.errors", "reader.records", "ingest.records"}

HEAVY = {
    "accelerate", "anyio", "bitsandbytes", "docutils", "docx", "faiss", "fastapi", "hqq", "httpx", "huggingface_hub",
    "ir_measures", "langchain", "langchain_core", "langchain_text_splitters", "matplotlib", "mcp", "openTSNE",
    "openvino", "prometheus_client", "pydantic", "safetensors", "scipy", "selectolax", "sentence_transformers",
    "sklearn", "starlette", "tokenizers", "torch", "transformers", "uvicorn",
}  # fmt: skip
"""Imported inside functions only: what a command does not use, it must not wait for."""

SEAMS = {
    "retrieval/langchain.py": {"langchain_core", "pydantic"},
    "ingest/langchain.py": {"langchain_core", "langchain_text_splitters"},
    "reader/langchain.py": {"langchain_core", "pydantic"},
}
"""Our classes for LangChain users derive from LangChain's, so these import langchain_core when imported."""

SERVING = {"anyio", "fastapi", "mcp", "prometheus_client", "pydantic", "starlette"}
"""Routes are declared with these; only `rag serve` and `rag mcp` import app.server."""

NOT_FOR_HELP = HEAVY | {"numpy", "scipy", "sqlite3", "asyncio"}
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


def _name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        return [str(node.module)]
    return []


def _all_imports(file: Path) -> set[str]:
    """Every module named by an import, inside functions and type-checking blocks too, and by import_module("...")."""
    found = {name for node in ast.walk(_tree(file)) for name in _imported(node)}
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call) and _called(node) in ("import_module", "importlib.import_module", "__import__"):
            found.update(
                part.value for part in node.args if isinstance(part, ast.Constant) and isinstance(part.value, str)
            )
    return found


def _imports_when_imported(file: Path) -> set[str]:
    """What importing a module imports: all but function bodies and `if TYPE_CHECKING:`."""

    def walk(node: ast.AST) -> set[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            return set()
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            return {name for child in node.orelse for name in walk(child)}
        return set(_imported(node)).union(*(walk(child) for child in ast.iter_child_nodes(node)))

    return walk(_tree(file))


def _called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_the_rooms_are_there():
    assert {_name(file).split("/")[0] for file in FILES} == set(ROOMS)


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_who_may_import_whom(file):
    room = _name(file).split("/")[0]
    known = {name.split(".")[0] for name in _all_imports(file)} & set(ROOMS)
    assert known - {room} <= MAY_IMPORT[room]


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_heavy_libraries_are_imported_inside_functions(file):
    heavy = {name.split(".")[0] for name in _imports_when_imported(file)} & HEAVY
    allowed = SERVING if file.parent.name == "server" else SEAMS.get(_name(file), set())
    assert heavy <= allowed


@pytest.mark.parametrize("file", [file for file in FILES if _name(file).startswith("app/")], ids=_name)
def test_the_front_loads_only_records_until_it_works(file):
    """A module of app imports other rooms' records and errors at once, and all else inside functions."""
    others = {name for name in _imports_when_imported(file) if name.split(".")[0] in set(ROOMS) - {"app"}}
    assert others <= LIGHT_SIBLINGS
    assert "numpy" not in {name.split(".")[0] for name in _imports_when_imported(file)}


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_nothing_that_runs_data_as_code(file):
    assert not {name.split(".")[0] for name in _all_imports(file)} & {"pickle", "cPickle", "dill", "cloudpickle",
                                                                      "joblib", "marshal", "shelve"}  # fmt: skip
    for node in ast.walk(_tree(file)):
        if not isinstance(node, ast.Call):
            continue
        where = f"{_name(file)}:{node.lineno}"
        assert _called(node) not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"), where
        for keyword in node.keywords:
            on = not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            assert not (keyword.arg in ("shell", "trust_remote_code", "allow_pickle") and on), where
        if _called(node) in ("torch.load", "yaml.load", "np.load", "numpy.load"):
            safe = {keyword.arg for keyword in node.keywords}
            assert safe & {"weights_only", "allow_pickle"}, where


def _reads_environment(node: ast.AST) -> bool:
    """os.environ or os.getenv, but for `os.environ[...] = ...`, which sets what a library reads."""
    return ast.unparse(node) in ("os.environ", "os.getenv", "os.environb") if isinstance(node, ast.Attribute) else False


@pytest.mark.parametrize("file", FILES, ids=_name)
def test_only_the_configuration_reads_the_environment(file):
    if _name(file) == "app/config.py":
        return
    tree = _tree(file)
    setting = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
    }
    assert [node.lineno for node in ast.walk(tree) if _reads_environment(node) and id(node) not in setting] == []
    assert not any(
        {alias.name for alias in node.names} & {"environ", "getenv"}
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "os"
    )


def _loaded_by(code: str) -> set[str]:
    """Top-level modules that a fresh Python has loaded after some code."""
    script = f"import sys\n{code}\nprint('\\n' + ' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAG_", "COV_", "COVERAGE_"))}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_heavy():
    code = (
        "from app.__main__ import main\nsys.argv = ['rag', '--help']\ntry:\n    main()\nexcept SystemExit as done:\n"
        "    assert not done.code, done.code"
    )
    loaded = _loaded_by(code)
    assert "typer" in loaded
    assert loaded & NOT_FOR_HELP == set()


def test_importing_every_package_does_nothing_heavy():
    packages = sorted({_name(file.parent).replace("/", ".") for file in FILES if file.name == "__init__.py"})
    assert len(packages) >= len(ROOMS)
    loaded = _loaded_by("\n".join(f"import {package}" for package in [*packages, *sorted(LIGHT_SIBLINGS)]))
    assert loaded & (HEAVY | {"numpy", "sqlite3"}) == set()


def test_nobody_imports_app():
    outside = [file for file in FILES if not _name(file).startswith("app/")]
    assert [file for file in outside if any(name.split(".")[0] == "app" for name in _all_imports(file))] == []
