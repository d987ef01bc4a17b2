"""Find the files to ingest below the given paths, and read them safely. Knows no format: every file counts.

Only metadata is looked at while searching; nothing is opened but `.gitignore` files. Names are never trusted: a source
is always encodable as UTF-8, but it may hold control characters, which whoever prints it must escape.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.records import Skipped
from retrieval.errors import ParseError
from retrieval.records import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pathspec import GitIgnoreSpec

MAX_GITIGNORE_BYTES = 100_000
MAX_STARS = 3  # a pattern with n stars is tried in time (length of the name) ** n; three cost at most some 30 ms
ALWAYS_SKIPPED = frozenset(("__pycache__", "node_modules", ".git", ".hg", ".svn"))


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file to read. `root` (absolute) and `source` (relative to it) have POSIX separators; `path` is what to open.

    `size` in bytes and `modified` in seconds since 1970 are what the search saw; the file may have changed since.
    """

    root: str
    source: str
    path: Path
    size: int
    modified: float = 0.0


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a search found, each list sorted by root and source.

    `roots` are the folders that were searched as a whole: only of a source below one of them can it be said that it is
    gone. The root of a file that was named by itself is its folder, and is not among them unless it was named too.
    """

    roots: tuple[str, ...]
    files: tuple[FoundFile, ...]
    skipped: tuple[Skipped, ...]
    failures: tuple[Failure, ...]


def discover(paths: Sequence[Path], *, max_file_bytes: int, follow_hidden: bool = False) -> Discovery:
    """Search folders and take files, each file once, under the outermost given folder that holds it.

    Left aside, and listed in `skipped`: what `.gitignore` files inside the roots ignore, hidden files and folders
    (unless `follow_hidden`), `ALWAYS_SKIPPED`, special files, symbolic links that lead out of their root or nowhere.
    A path that is named itself is taken whatever it is called. Raises nothing: what cannot be read is a failure.
    """
    search = _Search(max_file_bytes, follow_hidden)
    folders, files = search.sort_out(paths)
    search.named = {*folders, *files}
    roots = [folder for folder in folders if not any(_lies_in(folder, other) for other in folders if other != folder)]
    for root in roots:
        search.folder(root, root)
        search.follow_links(root)
    for folder in folders:  # those inside a root that its search left aside, for being ignored or hidden
        root = _root_of(folder, roots) or folder
        search.folder(root, folder)
        search.follow_links(root)
    for file in files:
        search.file(_root_of(file, roots) or os.path.dirname(file), file)  # noqa: PTH120  (bytes-faithful)
    search.report_empty(roots)
    return search.result(roots)


def read_file(found: FoundFile, max_file_bytes: int) -> bytes:
    """Read a found file whole. Raises ParseError when it is gone, no regular file any more, unreadable or too large."""
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(found.path, flags)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ParseError("not a regular file any more", advice="ingest again when nothing writes to the folder")
            data = file.read(max_file_bytes + 1)
    except OSError as error:
        reason = f"cannot be read: {error.strerror or type(error).__name__}"
        raise ParseError(reason, advice="check that the file still exists and that you may read it") from error
    if len(data) > max_file_bytes:
        raise ParseError(f"larger than {_megabytes(max_file_bytes)}", advice=_RAISE_CAP)
    return data


_CHECK_RIGHTS = "check the rights of the file and its folder"
_RAISE_CAP = "raise the cap (setting max_file_mb, flag --max-file-mb), or split the file"


@dataclass(slots=True)
class _Rules:
    """One .gitignore and those of the folders above it."""

    base: str
    spec: GitIgnoreSpec | None
    above: _Rules | None

    def ignores(self, path: str, *, is_folder: bool) -> bool:
        """The innermost file with an opinion decides, as in git."""
        rules: _Rules | None = self
        while rules is not None:
            if rules.spec is not None:
                relative = _relative(path, rules.base) + "/" * is_folder
                verdict = rules.spec.check_file(relative).include
                if verdict is not None:
                    return verdict
            rules = rules.above
        return False


@dataclass(slots=True)
class _Search:
    """The state of one search. Paths are real, absolute strings as the operating system gives them."""

    max_file_bytes: int
    follow_hidden: bool
    named: set[str] = field(default_factory=set)
    seen: set[str] = field(default_factory=set)  # real paths of the files and folders already counted
    links: list[str] = field(default_factory=list)  # to look at when everything below their root is known
    files: list[FoundFile] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def sort_out(self, paths: Iterable[Path]) -> tuple[list[str], list[str]]:
        """Real paths of the given folders and of everything else, sorted, each once; what is missing is a failure."""
        folders: set[str] = set()
        others: set[str] = set()
        for path in paths:
            try:
                real = os.path.realpath(path, strict=True)
                (folders if stat.S_ISDIR(os.stat(real).st_mode) else others).add(real)  # noqa: PTH116
            except (OSError, ValueError) as error:
                parent, name = os.path.split(os.path.abspath(path))  # noqa: PTH100
                reason = error.strerror or type(error).__name__ if isinstance(error, OSError) else str(error)
                self._fail(parent, name, f"cannot be found: {reason}", "check the path: it is read from where you are")
        return sorted(folders), sorted(others)

    def folder(self, root: str, top: str, shown_as: str | None = None) -> None:
        """Search a folder and all below it; `shown_as` is its path through a symbolic link."""
        stack = [(top, shown_as or top, _Rules(top, None, None))]
        while stack:
            real, shown, above = stack.pop()
            if real in self.seen:
                continue
            self.seen.add(real)
            try:
                with os.scandir(real) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                advice = "give yourself the right to read the folder, or leave it out"
                self._fail(root, _relative(shown, root), f"folder cannot be read: {error.strerror}", advice)
                continue
            rules = self._rules(root, real, shown, listed, above)
            for entry in listed:
                place = os.path.join(shown, entry.name)  # noqa: PTH118
                try:
                    is_wanted_folder = self._is_kept(root, place, entry, rules) and self._is_folder(root, place, entry)
                except OSError as error:
                    self._fail(root, _relative(place, root), f"cannot be read: {error.strerror}", _CHECK_RIGHTS)
                    continue
                if is_wanted_folder:
                    stack.append((entry.path, place, rules))

    def file(self, root: str, real: str, shown_as: str | None = None) -> None:
        """Count a file once, if it is one and is not too large. Whether its name is welcome was decided before."""
        if real in self.seen:
            return
        self.seen.add(real)
        source = _relative(shown_as or real, root)
        try:
            status = os.lstat(real)
        except OSError as error:
            self._fail(root, source, f"cannot be read: {error.strerror}", _CHECK_RIGHTS)
            return
        if not stat.S_ISREG(status.st_mode):
            self._skip(root, source, f"not a regular file but a {_kind(status.st_mode)}")
        elif status.st_size > self.max_file_bytes:
            found, cap = _megabytes(status.st_size), _megabytes(self.max_file_bytes)
            self._fail(root, source, f"too large: {found}, the cap is {cap}", _RAISE_CAP)
        else:
            self.files.append(FoundFile(_safe(root), _safe(source), Path(real), status.st_size, status.st_mtime))

    def follow_links(self, root: str) -> None:
        """Count what links below a root lead to and no other path has reached, and so on for links met there."""
        while self.links:
            links, self.links = sorted(self.links), []
            for link in links:
                real = os.path.realpath(link)
                source = _relative(link, root)
                if not os.path.exists(real):  # noqa: PTH110
                    self._skip(root, source, "symbolic link to nowhere")
                elif not _lies_in(real, root):
                    self._skip(root, source, "symbolic link out of the folder")
                elif os.path.isdir(real):  # noqa: PTH112
                    self.folder(root, real, shown_as=link)
                else:
                    self.file(root, real, shown_as=link)

    def report_empty(self, roots: Iterable[str]) -> None:
        """A folder in which nothing at all was found is a failure: somebody expected documents there."""
        reached = {file.root for file in self.files} | {failure.root for failure in self.failures}
        for root in roots:
            if _safe(root) not in reached:
                aside = sum(skipped.root == _safe(root) for skipped in self.skipped)
                left = f" ({aside} entries left aside: hidden, ignored or links)" if aside else ""
                self._fail(root, ".", f"no files in this folder{left}", "check the path, or name the files themselves")

    def result(self, roots: Iterable[str]) -> Discovery:
        """Everything in a fixed order."""
        return Discovery(
            roots=tuple(_safe(root) for root in roots),
            files=tuple(sorted(self.files, key=lambda found: (found.root, found.source))),
            skipped=tuple(sorted(set(self.skipped), key=lambda row: (row.root, row.source))),
            failures=tuple(sorted(set(self.failures), key=lambda row: (row.root, row.source))),
        )

    def _is_kept(self, root: str, place: str, entry: os.DirEntry[str], rules: _Rules) -> bool:
        """Whether the name of an entry is welcome; if not, and nobody named it either, it is noted."""
        is_folder = entry.is_dir(follow_symlinks=False)
        if entry.name in ALWAYS_SKIPPED:
            reason = "never searched"
        elif entry.name.startswith(".") and not self.follow_hidden:
            reason = "hidden"
        elif rules.ignores(entry.path, is_folder=is_folder):
            reason = "ignored by .gitignore"
        else:
            return True
        if entry.path not in self.named:
            self._skip(root, _relative(place, root), f"{reason} (folder)" if is_folder else reason)
        return False

    def _is_folder(self, root: str, place: str, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is to be searched; a file is counted, and a link kept for later."""
        if entry.is_symlink():
            self.links.append(place)
            return False
        if entry.is_dir(follow_symlinks=False):
            return True
        self.file(root, entry.path, shown_as=place)
        return False

    def _rules(self, root: str, real: str, shown: str, entries: list[os.DirEntry[str]], above: _Rules) -> _Rules:
        """The rules that hold in a folder: its own .gitignore, if that is a regular file, before those above."""
        own = next((entry for entry in entries if entry.name == ".gitignore"), None)
        if own is None or not own.is_file(follow_symlinks=False):
            return above
        source = _relative(os.path.join(shown, own.name), root)  # noqa: PTH118
        try:
            data = read_file(FoundFile(root, source, Path(own.path), 0), MAX_GITIGNORE_BYTES)
        except ParseError as error:
            self._fail(root, source, f"its rules are not applied: {error.reason}", error.advice)
            return above
        spec, refused = _compiled(data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").split("\n"))
        if refused:
            reason = (
                f"rules not applied, malformed or with over {MAX_STARS} stars: lines {', '.join(map(str, refused))}"
            )
            self._fail(root, source, reason, "simplify these lines; what they name is ingested otherwise")
        return _Rules(real, spec, above)

    def _skip(self, root: str, source: str, reason: str) -> None:
        self.skipped.append(Skipped(_safe(root), _safe(source), reason))

    def _fail(self, root: str, source: str, reason: str, advice: str) -> None:
        self.failures.append(Failure(_safe(root), _safe(source), reason, advice))


def _compiled(lines: list[str]) -> tuple[GitIgnoreSpec, list[int]]:
    """The rules of a .gitignore, and the numbers of the lines (from 1) that are no rules or would be slow to try."""
    from pathspec import GitIgnoreSpec

    good: list[str] = []
    refused: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            GitIgnoreSpec.from_lines([line])
        except ValueError:
            refused.append(number)
        else:
            (good.append(line) if _stars(line) <= MAX_STARS else refused.append(number))
    return GitIgnoreSpec.from_lines(good), refused


def _stars(line: str) -> int:
    """How many runs of stars a rule has; whole-folder runs (**/) count apart, as there are few folders in a path."""
    if line.startswith("#"):
        return 0
    folders = len(re.findall(r"(?:^|/)\*\*(?=/|$)", line))
    return max(folders, len(re.findall(r"\*+", line)) - folders)


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _root_of(path: str, roots: Iterable[str]) -> str | None:
    return next((root for root in roots if _lies_in(path, root)), None)


def _relative(path: str, root: str) -> str:
    return path if not _lies_in(path, root) else path[len(root.rstrip(os.sep)) + 1 :] or "."


def _safe(name: str) -> str:
    r"""A path with POSIX separators that UTF-8 can encode.

    A part whose bytes are not UTF-8 gets them as \xNN and a fingerprint, so that it equals the name of no other file.
    """
    return "/".join(_safe_part(part) for part in name.replace(os.sep, "/").split("/"))


def _safe_part(part: str) -> str:
    try:
        part.encode("utf-8")
    except UnicodeEncodeError:
        raw = os.fsencode(part)
        return f"{raw.decode('utf-8', 'backslashreplace')}~{hashlib.sha256(raw).hexdigest()[:8]}"
    return part


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket", stat.S_IFLNK: "symbolic link", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "device")


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB" if size >= 100_000 else f"{size:,} bytes"
