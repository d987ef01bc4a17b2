"""Settings: defaults, then rag.toml, then RAG_* variables, then flags, into one frozen Config.

The only reader of the environment. Knows names, types and ranges; never what a setting does, and opens nothing but the
one settings file.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from retrieval.errors import ConfigError

FILE_NAME = "rag.toml"
MAX_FILE_BYTES = 1_000_000
LEAST_TOKEN_CHARS = 16
_SECRETS = {"server_key": "RAG_SERVER_KEY", "token": "RAG_TOKEN"}
"""Settings that only come from the environment, and are never shown."""

NOT_SETTINGS = frozenset({"RAG_CONFIG", "RAG_TEST_DATA", "RAG_STRESS"})
"""Variables that begin with RAG_ and are no settings: where rag.toml is, and where the tests find their data."""


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, checked. Paths are absolute.

    encoder: "" means the profile's own; pooling is mean, cls, pooler, or auto for what the model says of itself.
    candidates is how many chunks are looked at before the best `top_k` are kept; never fewer than top_k.
    chunk_tokens counts all the encoder reads; chunk_overlap is a share of it in [0, 0.5].
    parse_seconds, parse_memory_mb (MiB) and parse_chars limit what parsing one file may cost; parse_workers 0 = one
    for every two cores.
    threads 0 = all cores; min_evidence None = the reader's own threshold, else in [0, 1].
    sentences is how many the extractive reader may quote, 1 to 3.
    dictionary: words of unspaced scripts; synonyms: groups of words that mean the same; None = there is no such file.
    max_per_document 0 = no cap; diversity in [0, 1], 0 = the order of the scores.
    fusion: "adaptive", or to compare with it "dense", "bm25", "rrf".
    reranker: "interaction", "none", or a cross-encoder by name or absolute path.
    model is the language model of the zephyr reader, by name or absolute path; quantization and kv_cache are how its
    weights and its memory of the prompt are kept; rope_scaling and device_map go to transformers as they are.
    server_url, server_model: the OpenAI-compatible server of the server reader; server_key only comes from the
    environment; tokenizer counts for it. window: tokens of prompt and answer together, 0 = what model or server say.
    max_answer_tokens, temperature (0 = greedy), repetition_penalty, seed (None = by chance): how an answer is written.
    compress: show the model only the sentences that matter. prompts: a folder of own prompts; chats: where
    conversations are kept. verifier: a sentence-pair model that has a say in checking citations, "" = none.
    offline: rag models fetch refuses; nothing else ever opens a connection, except to server_url.
    host, port: where rag serve listens; token: what its users must bring, only from the environment, "" = the one in
    token_file, made when there is none. queue: questions that may wait or be answered at once, of either kind.
    request_seconds: the longest a request may take. uploads: where documents that were uploaded are kept; runs: where
    evaluation runs are looked for.
    `file` is the settings file that was read; `hub_cache` is where Hugging Face models lie on this machine;
    `origins` says, for every key that is not a default, where it was set.
    """

    index: Path
    cache: Path
    profile: str = "auto"
    encoder: str = ""
    pooling: str = "auto"
    device: str = "auto"
    reader: str = "auto"
    top_k: int = 5
    candidates: int = 100
    chunk_tokens: int = 512
    chunk_overlap: float = 0.1
    heading_context: bool = True
    max_file_mb: float = 50.0
    parse_seconds: float = 60.0
    parse_memory_mb: int = 1024
    parse_chars: int = 50_000_000
    parse_workers: int = 0
    threads: int = 0
    min_evidence: float | None = None
    sentences: int = 2
    dictionary: Path | None = None
    synonyms: Path | None = None
    max_per_document: int = 0
    diversity: float = 0.0
    neighbours: bool = False
    split_questions: bool = True
    fusion: str = "adaptive"
    reranker: str = "interaction"
    model: str = "HuggingFaceH4/zephyr-7b-beta"
    quantization: str = "4bit"
    kv_cache: str = "full"
    device_map: str = "auto"
    rope_scaling: Mapping[str, object] | None = None
    server_url: str = ""
    server_model: str = ""
    server_key: str = field(default="", repr=False)
    server_timeout: float = 120.0
    tokenizer: str = ""
    window: int = 0
    max_answer_tokens: int = 500
    temperature: float = 0.2
    repetition_penalty: float = 1.1
    seed: int | None = None
    compress: bool = True
    prompts: Path | None = None
    chats: Path = Path()
    verifier: str = ""
    offline: bool = False
    host: str = "127.0.0.1"
    port: int = 8300
    token: str = field(default="", repr=False)
    token_file: Path = Path()
    queue: int = 128
    request_seconds: float = 300.0
    uploads: Path = Path()
    runs: Path = Path()
    file: Path | None = None
    hub_cache: Path = Path()
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)


Parse = Callable[[object, Path], object]
"""A raw value (typed in TOML, text from the environment) and the folder that relative paths start from."""


def _choice(*allowed: str) -> Parse:
    def parse(raw: object, _base: Path) -> object:
        if raw in allowed:
            return raw
        raise ValueError(f"one of {', '.join(allowed)}")

    return parse


def _number(kind: type[int | float], low: float, high: float) -> Parse:
    word = "a whole number" if kind is int else "a number"

    def parse(raw: object, _base: Path) -> object:
        expected = ValueError(f"{word} from {low:g} to {high:g}")
        if isinstance(raw, bool) or not isinstance(raw, str | int | float) or (kind is int and isinstance(raw, float)):
            raise expected
        try:
            value = kind(raw)
        except (ValueError, OverflowError):  # a whole number may be too large to be one with a fraction
            raise expected from None
        if not low <= value <= high:  # also false for nan
            raise expected
        return value

    return parse


def _switch(raw: object, _base: Path) -> object:
    words = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.lower() in words:
        return words[raw.lower()]
    raise ValueError("true or false")


def _path(raw: object, base: Path) -> object:
    if not isinstance(raw, str | Path) or not str(raw) or "\0" in str(raw):
        raise ValueError("the path of a folder")
    try:
        return Path(os.path.normpath(base / Path(raw).expanduser()))
    except RuntimeError:  # "~name" of nobody
        raise ValueError("the path of a folder (this ~ has no home folder)") from None


def _file(raw: object, base: Path) -> object:
    if raw == "none":
        return None
    try:
        return _path(raw, base)
    except ValueError:
        raise ValueError("the path of a file, or none") from None


def _reranker(raw: object, base: Path) -> object:
    if isinstance(raw, str) and raw.strip():
        return _model(raw, base)
    raise ValueError("interaction, none, or a cross-encoder's name or folder")


def _model(raw: object, base: Path) -> object:
    """A hub name stays as it is; what can only be a path (./m, ../m, ~/m) becomes absolute."""
    if not isinstance(raw, str) or "\0" in raw:
        raise ValueError("a model name or the path of a model folder")
    return str(_path(raw, base)) if raw.startswith((".", "~")) else raw


def _text(raw: object, _base: Path) -> object:
    if isinstance(raw, str) and raw.isprintable():
        return raw.strip()
    raise ValueError("a name on one line")


def _url(raw: object, _base: Path) -> object:
    if isinstance(raw, str) and re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", raw):
        return raw
    raise ValueError("an address like http://127.0.0.1:8000/v1, without a user or a query")


def _secret(raw: object, _base: Path) -> object:
    if isinstance(raw, str) and raw.isascii() and raw.isprintable():
        return raw.strip()
    raise ValueError("letters, digits and signs on one line")


def _host(raw: object, _base: Path) -> object:
    if isinstance(raw, str) and re.fullmatch(r"[A-Za-z0-9.:-]{1,253}", raw):
        return raw
    raise ValueError("an address or a name of this machine, like 127.0.0.1 or ::1")


def _token(raw: object, base: Path) -> object:
    found = str(_secret(raw, base))
    if len(found) >= LEAST_TOKEN_CHARS and " " not in found:
        return found
    raise ValueError(f"at least {LEAST_TOKEN_CHARS} letters, digits and signs without a space")


def _table(raw: object, _base: Path) -> object:
    """A table of TOML, or the same as JSON in a variable."""
    with suppress(json.JSONDecodeError, RecursionError):
        found = json.loads(raw) if isinstance(raw, str) else raw
        if isinstance(found, dict) and found:
            return MappingProxyType(found)
    raise ValueError('a table like { rope_type = "yarn", factor = 2.0 }, as JSON in a variable')


SETTINGS: Mapping[str, Parse] = MappingProxyType(
    {
        "index": _path,
        "cache": _path,
        "profile": _choice("auto", "embedded", "gpu"),
        "encoder": _model,
        "pooling": _choice("auto", "mean", "cls", "pooler"),
        "device": _choice("auto", "cpu", "cuda"),
        "reader": _choice("auto", "extractive", "zephyr", "server"),
        "top_k": _number(int, 1, 1000),
        "candidates": _number(int, 1, 10_000),
        "chunk_tokens": _number(int, 16, 8192),
        "chunk_overlap": _number(float, 0.0, 0.5),
        "heading_context": _switch,
        "max_file_mb": _number(float, 0.001, 10_000),
        "parse_seconds": _number(float, 1.0, 86_400),
        "parse_memory_mb": _number(int, 128, 1_000_000),
        "parse_chars": _number(int, 1000, 1_000_000_000),
        "parse_workers": _number(int, 0, 256),
        "threads": _number(int, 0, 1024),
        "min_evidence": _number(float, 0.0, 1.0),
        "sentences": _number(int, 1, 3),
        "dictionary": _file,
        "synonyms": _file,
        "max_per_document": _number(int, 0, 1000),
        "diversity": _number(float, 0.0, 1.0),
        "neighbours": _switch,
        "split_questions": _switch,
        "fusion": _choice("adaptive", "dense", "bm25", "rrf"),
        "reranker": _reranker,
        "model": _model,
        "quantization": _choice("4bit", "8bit", "none"),
        "kv_cache": _choice("full", "8bit", "4bit"),
        "device_map": _text,
        "rope_scaling": _table,
        "server_url": _url,
        "server_model": _text,
        "server_key": _secret,
        "server_timeout": _number(float, 1.0, 3600.0),
        "tokenizer": _model,
        "window": _number(int, 0, 10_000_000),
        "max_answer_tokens": _number(int, 1, 100_000),
        "temperature": _number(float, 0.0, 2.0),
        "repetition_penalty": _number(float, 0.5, 2.0),
        "seed": _number(int, 0, 2**32 - 1),
        "compress": _switch,
        "prompts": _path,
        "chats": _path,
        "verifier": _model,
        "offline": _switch,
        "host": _host,
        "port": _number(int, 0, 65_535),
        "token": _token,
        "token_file": _path,
        "queue": _number(int, 1, 100_000),
        "request_seconds": _number(float, 1.0, 86_400),
        "uploads": _path,
        "runs": _path,
    }
)


def process_environment() -> Mapping[str, str]:
    """The environment of this process, for the one place that starts the program."""
    return os.environ


def load_config(flags: Mapping[str, object], environ: Mapping[str, str], cwd: Path) -> Config:
    """Settle every setting: defaults < rag.toml < RAG_* < flags. A flag of None was not given.

    The file is `flags["config"]`, else RAG_CONFIG, else rag.toml in `cwd` when there is one. An empty variable counts
    as not set. Raises ConfigError that names the key, where it was set, what was found and what was expected.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    file = _find_file(given.pop("config", None), environ, cwd)
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for layer, base in _layers(file, environ, given, cwd):
        for key, (raw, origin) in layer.items():
            values[key] = _parsed(key, raw, origin, base)
            origins[key] = origin
    return _settle(values, origins, environ, file)


Layer = Mapping[str, tuple[object, str]]
"""key -> (raw value, where it was set)"""


def _layers(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, object], cwd: Path
) -> Iterable[tuple[Layer, Path]]:
    """The layers, weakest first, each with the folder that its relative paths start from."""
    if file is not None:
        yield {key: (raw, f"{key} in {file}") for key, raw in _read_file(file).items()}, file.parent
    yield _environment_layer(environ), cwd
    yield {key: (raw, "--" + key.replace("_", "-")) for key, raw in flags.items()}, cwd


def _environment_layer(environ: Mapping[str, str]) -> Layer:
    layer: dict[str, tuple[object, str]] = {}
    for name, raw in environ.items():
        if not name.startswith("RAG_") or name in NOT_SETTINGS:
            continue
        key = name.removeprefix("RAG_").lower()
        if name != name.upper() or key not in SETTINGS:
            known = sorted(NOT_SETTINGS.union("RAG_" + setting.upper() for setting in SETTINGS))
            raise ConfigError(_unknown(name, "the environment", name.upper(), known))
        if raw:
            layer[key] = (raw, name)
    return layer


def _find_file(flag: object, environ: Mapping[str, str], cwd: Path) -> Path | None:
    for named, origin in ((flag, "--config"), (environ.get("RAG_CONFIG"), "RAG_CONFIG")):
        if named:
            file = Path(str(_parsed("config", named, origin, cwd)))
            if not _is_file(file):
                raise ConfigError(f"{origin}: there is no file {file}; name an existing rag.toml or leave it out")
            return file
    usual = cwd / FILE_NAME
    return usual if _is_file(usual) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name too long, a folder that may not be entered
        shown = f"{str(path)[:200]!r}"
        raise ConfigError(f"the settings file {shown} cannot be looked for ({error.strerror}); name another") from error


def _read_file(file: Path) -> Mapping[str, object]:
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}); check its permissions") from error
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError(f"{file} is larger than {MAX_FILE_BYTES:,} bytes; a settings file is a few lines")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: bytes that are no text, no TOML, a number without end
        raise ConfigError(f"{file} is not valid TOML: {error}; write lines like  top_k = 5") from error


def _parsed(key: str, raw: object, origin: str, base: Path) -> object:
    if key == "config":
        parse: Parse | None = _path
    else:
        parse = SETTINGS.get(key)
    if (variable := _SECRETS.get(key, origin)) != origin:
        raise ConfigError(f"{origin}: a secret is not kept in a settings file; set it in the environment as {variable}")
    if parse is None:
        raise ConfigError(_unknown(key, origin.removeprefix(f"{key} in "), key, sorted(SETTINGS)))
    try:
        return parse(raw, base)
    except ValueError as error:
        found = _shown(raw)
        hidden = key in _SECRETS or (key == "server_url" and "@" in found)
        found = "what is not shown here" if hidden else found
        raise ConfigError(f"{origin}: found {found}, expected {error}") from None


def _shown(raw: object) -> str:
    try:
        found = repr(raw)
    except ValueError:  # Python does not write whole numbers of over 4,300 digits
        return "a number without end"
    return found if len(found) <= 80 else f"{found[:77]}..."


def _unknown(name: str, origin: str, like: str, known: list[str]) -> str:
    near = get_close_matches(like.replace("-", "_"), known, n=1)
    advice = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
    return f"unknown setting {name!r} in {origin}; {advice}"


def _settle(
    values: Mapping[str, object], origins: Mapping[str, str], environ: Mapping[str, str], file: Path | None
) -> Config:
    """Fill in what depends on the machine or on other settings, and refuse contradictions."""
    whole: dict[str, object] = {
        "index": _base_folder(environ, "XDG_DATA_HOME", ".local/share") / "rag" / "index",
        "cache": _base_folder(environ, "XDG_CACHE_HOME", ".cache") / "rag",
        "chats": _base_folder(environ, "XDG_DATA_HOME", ".local/share") / "rag" / "chats",
        "token_file": _base_folder(environ, "XDG_DATA_HOME", ".local/share") / "rag" / "token",
        "offline": _is_set(environ.get("HF_HUB_OFFLINE", "")),
        **values,
    }
    index = Path(str(whole["index"]))
    whole = {"uploads": index.with_name(f"{index.name}-uploads"), "runs": index.with_name("eval"), **whole}
    defaults = {setting.name: setting.default for setting in fields(Config)}
    top_k, candidates = (whole.get(key, defaults[key]) for key in ("top_k", "candidates"))
    if top_k > candidates:  # type: ignore[operator]  # both were parsed as int
        if "candidates" in values:
            raise ConfigError(
                f"{origins.get('top_k', 'top_k')} asks for {top_k} hits but {origins['candidates']} looks at "
                f"{candidates} candidates only; raise candidates or lower top_k"
            )
        whole["candidates"] = top_k
    return Config(**whole, file=file, hub_cache=_hub_cache(environ), origins=MappingProxyType(dict(origins)))  # type: ignore[arg-type]  # each value was parsed to its field's type


def _base_folder(environ: Mapping[str, str], variable: str, otherwise: str) -> Path:
    """A base folder of the XDG specification: a relative value is ignored, as it demands."""
    named = environ.get(variable, "")
    if Path(named).is_absolute():
        return Path(named)
    home = _expanded(environ.get("HOME") or "~", "HOME")
    if not home.is_absolute():
        raise ConfigError(f"HOME: {_shown(str(home))} does not start at the root; set HOME to a whole path")
    return home / otherwise


def _is_set(value: str) -> bool:
    """Whether a variable of Hugging Face is on, by that library's own rules."""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _hub_cache(environ: Mapping[str, str]) -> Path:
    """Where Hugging Face keeps downloaded models, by that library's own rules."""
    if named := environ.get("HF_HUB_CACHE"):
        return _expanded(named, "HF_HUB_CACHE")
    home = environ.get("HF_HOME")
    folder = _expanded(home, "HF_HOME") if home else _base_folder(environ, "XDG_CACHE_HOME", ".cache") / "huggingface"
    return folder / "hub"


def _expanded(named: str, variable: str) -> Path:
    try:
        return Path(named).expanduser()
    except RuntimeError as error:  # "~name" of nobody, or nobody's own
        raise ConfigError(f"{variable}: {_shown(named)} has no home folder; set {variable} to a whole path") from error
