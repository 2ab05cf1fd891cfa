"""Finds the files of a source: paths, lists, globs, directories and URLs, local or remote.

Covers what a user may pass as "the files", the order they are read in, and the errors for what is not there.
Does not cover reading them, nor folders named ``key=value``: they are walked like any other folder.

Rules: a list keeps its order; what one glob or one directory gives is in natural order (``part-2`` before
``part-10``). Directories are walked to the bottom for files with one of the format's suffixes. Names that
begin with ``.`` or ``_`` are left out unless named outright: that is where writers keep what is not finished.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.fs as pa_fs

from dataflare.kernels.errors import OptionError, ReadError, nearest

if TYPE_CHECKING:
    from dataflare.kernels.errors import DataFlareError

__all__ = [
    "InputFile",
    "PathsArgument",
    "filesystem_for_url",
    "find_files",
    "is_url",
    "read_failure",
    "wrapped_filesystem",
]

PathsArgument: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"

_WILDCARD = re.compile(r"[*?\[]")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]+://")
_SHOWN_NAMES = 5


@dataclass(frozen=True)
class InputFile:
    """One file to read.

    Attributes
    ----------
    filesystem
        Where it is.
    path
        Its path for `filesystem`; absolute if local, so that a later change of folder does no harm.
    shown
        The path for messages: as the user wrote it, as far as possible.
    size_bytes
        Size when it was found.
    """

    filesystem: pa_fs.FileSystem
    path: str
    shown: str
    size_bytes: int

    @property
    def is_local(self) -> bool:
        """Whether the operating system can open it by its path."""
        return isinstance(self.filesystem, pa_fs.LocalFileSystem)

    @property
    def suffix(self) -> str:
        """The last extension in lower case, with its dot."""
        return PurePosixPath(self.path).suffix.lower()

    def open(self) -> pa.NativeFile:
        """Open for reading at any position.

        Raises
        ------
        ReadError
            It is gone or may not be read.
        """
        try:
            return self.filesystem.open_input_file(self.path)
        except OSError as error:
            raise read_failure(self.shown, error) from error

    def open_stream(self) -> pa.NativeFile:
        """Open for reading from the start, decompressed as the suffix says (.gz .bz2 .zst .lz4).

        Raises
        ------
        ReadError
            It is gone or may not be read.
        """
        try:
            return self.filesystem.open_input_stream(self.path, compression="detect")
        except OSError as error:
            raise read_failure(self.shown, error) from error


def is_url(path: str) -> bool:
    """Whether a path names its file system, as in ``s3://bucket/key``."""
    return _URL.match(path) is not None


def filesystem_for_url(url: str, error_class: type[DataFlareError]) -> tuple[pa_fs.FileSystem, str]:
    """Return the file system of a URL and the path in it: pyarrow's own, else fsspec's.

    Parameters
    ----------
    url
        Such as ``s3://bucket/key?region=eu-west-1`` or ``memory://folder/file``. Credentials come from where
        the file system's library looks for them.
    error_class
        What to raise when no file system can be had.
    """
    try:
        filesystem, path = pa_fs.FileSystem.from_uri(url)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as reason:
        scheme = url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]
        except ImportError:
            raise error_class(
                f"{url}: PyArrow has no file system for {scheme}:// ({_first_line(reason)}). "
                f"Install fsspec with its package for {scheme}, or check the address."
            ) from reason
        try:
            other, path = url_to_fs(url)
        except (ValueError, ImportError, OSError) as failure:
            raise error_class(
                f"{url}: no file system for {scheme}://. PyArrow: {_first_line(reason)}. "
                f"fsspec: {_first_line(failure)}."
            ) from failure
        return wrapped_filesystem(other), path
    except OSError as failure:
        raise error_class(f"{url}: {_first_line(failure)}.") from failure
    return filesystem, path


def find_files(
    paths: PathsArgument, *, suffixes: Sequence[str], filesystem: pa_fs.FileSystem | Any | None = None
) -> tuple[InputFile, ...]:
    """Return the files that `paths` means, at least one, in reading order.

    Parameters
    ----------
    paths
        A path, a glob (``*``, ``?``, ``[...]``, and ``**`` for any depth), a directory, a URL of any of
        these, or a sequence of them. A file that has a wildcard in its very name is found, too.
    suffixes
        What files in directories must end with, such as ``(".parquet",)``. Files named outright may end as
        they like.
    filesystem
        Where plain paths are: pyarrow's or fsspec's; the local disk when None.

    Raises
    ------
    ReadError
        Nothing is there; the message has the nearest names.
    OptionError
        `paths` is empty or not a path.
    """
    if filesystem is not None:
        filesystem = wrapped_filesystem(filesystem)
    items = [paths] if isinstance(paths, str | os.PathLike) else _as_list(paths)
    if not items:
        raise OptionError("no input: the list of paths is empty.")
    files: list[InputFile] = []
    for item in items:
        files.extend(_expand(_as_text(item), tuple(suffixes), filesystem))
    return tuple(files)


def read_failure(shown: str, error: Exception) -> ReadError:
    """Return what to raise for a system's error on a path, with the way out where there is a usual one."""
    if isinstance(error, FileNotFoundError):
        return ReadError(f"{shown}: the file is not there any more.")
    if isinstance(error, PermissionError):
        return ReadError(f"{shown}: permission denied. This user ({_user()}) may not read it.")
    if isinstance(error, IsADirectoryError):
        return ReadError(f"{shown}: is a directory, not a file.")
    return ReadError(f"{shown}: cannot be read: {_first_line(error)}.")


def wrapped_filesystem(filesystem: Any) -> pa_fs.FileSystem:
    """Return pyarrow's file systems as they are, and fsspec's with pyarrow's interface."""
    if isinstance(filesystem, pa_fs.FileSystem):
        return filesystem
    handler: Any = pa_fs.FSSpecHandler  # abstract only in the stubs
    return pa_fs.PyFileSystem(handler(filesystem))


def _user() -> str:
    return f"uid {os.geteuid()}" if hasattr(os, "geteuid") else "of this process"


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")


def _as_list(paths: Any) -> list[Any]:
    if isinstance(paths, bytes) or not isinstance(paths, Iterable):
        raise OptionError(f"paths are text, pathlib paths or a list of them, not {type(paths).__name__}.")
    return list(paths)


def _as_text(item: Any) -> str:
    if not isinstance(item, str | os.PathLike):
        raise OptionError(f"a path is text or a pathlib path, not {type(item).__name__}: {item!r}.")
    text = os.fspath(item)
    if not isinstance(text, str) or not text.strip():
        raise OptionError(f"a path must not be empty: {item!r}.")
    return text


def _expand(shown: str, suffixes: tuple[str, ...], filesystem: pa_fs.FileSystem | None) -> list[InputFile]:
    where, path, pattern_allowed = _locate(shown, filesystem)
    try:
        info = where.get_file_info(path)
        if info.type == pa_fs.FileType.File:
            return [InputFile(where, path, shown, info.size or 0)]
        if info.type == pa_fs.FileType.Directory:
            return _walk(where, path, shown, suffixes)
        if pattern_allowed and _WILDCARD.search(path):
            return _glob(where, path, shown)
        raise _missing(where, path, shown)
    except PermissionError as error:
        raise read_failure(shown, error) from error
    except OSError as error:  # the network's, mostly
        raise ReadError(f"{shown}: cannot be looked up: {_first_line(error)}.") from error


def _locate(shown: str, filesystem: pa_fs.FileSystem | None) -> tuple[pa_fs.FileSystem, str, bool]:
    if filesystem is not None:
        return filesystem, shown, True
    if is_url(shown):
        # "?" begins the options of a URL, so only "*" and "[" are wildcards there.
        base, mark, query = shown.partition("?")
        wildcard = re.search(r"[*\[]", base)
        if wildcard is None:
            return (*filesystem_for_url(shown, ReadError), False)
        fixed = base[: base.rindex("/", 0, wildcard.start()) + 1]
        where, path = filesystem_for_url(fixed + mark + query, ReadError)
        return where, path.rstrip("/") + "/" + base[len(fixed) :], True
    return pa_fs.LocalFileSystem(), str(Path(shown).expanduser().absolute()), True


def _natural_key(path: str) -> list[tuple[int, int, str]]:
    """Digits compare as numbers: part-2 before part-10."""
    return [
        (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
        for piece in re.split(r"(\d+)", path)
        if piece
    ]


def _hidden(relative: str) -> bool:
    return any(part.startswith((".", "_")) for part in relative.split("/"))


def _listed(where: pa_fs.FileSystem, base: str, *, recursive: bool) -> list[pa_fs.FileInfo]:
    selector = pa_fs.FileSelector(base, recursive=recursive, allow_not_found=True)
    found: list[pa_fs.FileInfo] = [info for info in where.get_file_info(selector) if info.is_file]
    return found


def _walk(where: pa_fs.FileSystem, path: str, shown: str, suffixes: tuple[str, ...]) -> list[InputFile]:
    base = path.rstrip("/")
    found = [
        (info, _below(info.path, base))
        for info in _listed(where, base, recursive=True)
        if not _hidden(_below(info.path, base))
    ]
    wanted = [(info, name) for info, name in found if name.lower().endswith(suffixes)]
    if not wanted:
        names = sorted((name for _, name in found), key=_natural_key)[:_SHOWN_NAMES]
        there = f"It has {len(found)} other file(s), such as {', '.join(names)}" if found else "It is empty"
        raise ReadError(
            f"{shown}: the directory has no file that ends with {' or '.join(suffixes)}. {there}. "
            "Name the files, or use a glob."
        )
    wanted.sort(key=lambda pair: _natural_key(pair[1]))
    return [
        InputFile(where, info.path, f"{shown.rstrip('/')}/{name}", info.size or 0) for info, name in wanted
    ]


def _glob(where: pa_fs.FileSystem, path: str, shown: str) -> list[InputFile]:
    wildcard = _WILDCARD.search(path)
    assert wildcard is not None
    base = path[: path.rfind("/", 0, wildcard.start())] if "/" in path[: wildcard.start()] else ""
    pattern = path[len(base) :].lstrip("/")
    matches = re.compile(_glob_expression(pattern)).fullmatch
    hidden_wanted = _hidden(pattern)
    found = [
        info
        for info in _listed(where, base or "/", recursive="/" in pattern or "**" in pattern)
        if matches(_below(info.path, base)) and (hidden_wanted or not _hidden(_below(info.path, base)))
    ]
    if not found:
        raise ReadError(
            f"{shown}: no file matches. {_neighbours(where, base, PurePosixPath(pattern).name)}".rstrip()
        )
    found.sort(key=lambda info: _natural_key(info.path))
    prefix = shown.removesuffix(pattern)
    as_written = prefix != shown
    return [
        InputFile(
            where, info.path, prefix + _below(info.path, base) if as_written else info.path, info.size or 0
        )
        for info in found
    ]


def _glob_expression(pattern: str) -> str:
    expression = ""
    position = 0
    while position < len(pattern):
        if pattern.startswith("**/", position):
            expression += "(?:.*/)?"
            position += 3
        elif pattern.startswith("**", position):
            expression += ".*"
            position += 2
        elif pattern[position] == "*":
            expression += "[^/]*"
            position += 1
        elif pattern[position] == "?":
            expression += "[^/]"
            position += 1
        elif pattern[position] == "[" and (end := pattern.find("]", position + 2)) > 0:
            inside = pattern[position + 1 : end].replace("\\", "\\\\")
            expression += f"[{'^' + inside[1:] if inside[0] == '!' else inside}]"
            position = end + 1
        else:
            expression += re.escape(pattern[position])
            position += 1
    return expression


def _below(path: str, base: str) -> str:
    """Return the path relative to the folder `base`."""
    return path[len(base) :].lstrip("/") if path.startswith(base) else path.lstrip("/")


def _missing(where: pa_fs.FileSystem, path: str, shown: str) -> ReadError:
    folder, _, name = path.rstrip("/").rpartition("/")
    message = f"{shown}: there is no such file."
    # Name the first folder that is missing: that is where the typing error is.
    parts = folder.split("/")
    for count in range(1, len(parts) + 1):
        part = "/".join(parts[:count])
        if part and where.get_file_info(part).type == pa_fs.FileType.NotFound:
            above = part.rpartition("/")[0]
            message = f"{shown}: there is no such file: the folder {part} does not exist."
            return ReadError(f"{message} {_neighbours(where, above, parts[count - 1])}".rstrip())
    hint = _neighbours(where, folder, name)
    if (
        not hint
        and isinstance(where, pa_fs.LocalFileSystem)
        and not is_url(shown)
        and not shown.startswith(("/", "~"))
    ):
        hint = f"The path is relative to {Path.cwd()}."
    return ReadError(f"{message} {hint}".rstrip())


def _neighbours(where: pa_fs.FileSystem, folder: str, name: str) -> str:
    try:
        entries = where.get_file_info(pa_fs.FileSelector(folder or "/", allow_not_found=True))
    except OSError:
        return ""
    return nearest(name, sorted(info.base_name for info in entries))
