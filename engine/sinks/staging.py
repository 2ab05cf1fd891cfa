"""Temporary places for output that becomes visible as a whole: local files, local directories, remote ones.

Covers names, checks before a run, making visible and taking back. Does not cover what is written.

Temporary names begin with a dot and end with ``.tmp``, so that no reader of the folder takes them for data.
They are in the same folder as the output, since only there a rename is atomic.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.fs as pa_fs

from dataflare.kernels.errors import OptionError, OutputExistsError, SinkError
from dataflare.sources.paths import filesystem_for_url, is_url, wrapped_filesystem

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Staging", "stage", "write_failure"]

_PART_NAME = re.compile(r"part-\d{5,}\..+")
_NO_SPACE = {
    errno.ENOSPC: "no space is left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would exceed the largest allowed size",
}


class Staging(Protocol):
    """Where output is written until all of it is there. Belongs to one sink."""

    shown: str
    """The output's path for messages."""
    is_directory: bool
    """Whether the output is a directory of parts rather than one file."""

    def prepare(self) -> None:
        """Check that the output may be written, and make the temporary place.

        Raises
        ------
        OutputExistsError
            Something is there already.
        SinkError
            It cannot be written there.
        """

    def create(self, name: str) -> pa.NativeFile:
        """Create the output's file, or, in a directory, one of this name."""

    def finish(self, name: str) -> None:
        """Make sure that a file which has been closed survives a crash."""

    def publish(self) -> tuple[str, ...]:
        """Make everything visible and return the paths."""

    def discard(self) -> None:
        """Remove everything that is not visible; raises nothing."""


def stage(path: str | os.PathLike[str], *, overwrite: bool, filesystem: Any | None) -> Staging:
    """Return the staging for an output path: a file, or a directory when it ends with a slash.

    Parameters
    ----------
    path
        A path or a URL such as ``s3://bucket/key``.
    overwrite
        Whether what is there is replaced.
    filesystem
        Where plain paths are: pyarrow's or fsspec's; the local disk when None.
    """
    given: Any = path
    shown: Any = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(shown, str) or not shown:
        raise OptionError(f"an output path is text or a pathlib path, not {path!r}.")
    if filesystem is not None:
        return RemoteStaging(wrapped_filesystem(filesystem), shown, shown, overwrite)
    if is_url(shown):
        where, inside = filesystem_for_url(shown, SinkError)
        if not isinstance(where, pa_fs.LocalFileSystem):
            plain = shown.partition("?")[0]
            return RemoteStaging(where, inside + "/" * plain.endswith("/"), shown, overwrite)
        shown = inside + "/" * shown.endswith("/")
    final = Path(shown).expanduser().absolute()
    if final.is_symlink():
        final = final.resolve()  # or the link would be replaced, and not what it leads to
    if shown.endswith((os.sep, "/")):
        return DirectoryStaging(final, shown, overwrite)
    return FileStaging(final, shown, overwrite)


def write_failure(shown: str, error: OSError, written_bytes: int | None = None) -> SinkError:
    """Return what to raise for a system's error on an output, with the way out where there is a usual one."""
    number = error.errno
    if number is None:  # pyarrow says it in the message only, at times
        match = re.search(r"\[errno (\d+)\]", str(error), re.IGNORECASE)
        number = int(match[1]) if match else None
    done = "" if written_bytes is None else f" after {written_bytes:,} bytes"
    if number in _NO_SPACE:
        return SinkError(f"{shown}: cannot be written{done}: {_NO_SPACE[number]}. Nothing was left behind.")
    if number in (errno.EACCES, errno.EPERM):
        return SinkError(f"{shown}: permission denied: this user may not write there.")
    if number == errno.EROFS:
        return SinkError(f"{shown}: is on a file system that is read-only.")
    if error.strerror:
        place = f": {error.filename}" if error.filename else ""
        return SinkError(f"{shown}: cannot be written{done}: {error.strerror}{place}.")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    return SinkError(f"{shown}: cannot be written{done}: {reason}.")


def _exists(shown: str, what: str = "is there already") -> OutputExistsError:
    return OutputExistsError(f"{shown}: {what}. Nothing was written; overwrite=True replaces it.")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.ENOTSUP,
        ):  # some file systems cannot, for directories mostly
            raise
    finally:
        os.close(descriptor)


class _Folders:
    """The folders that were made for an output, to be removed again if nothing comes of it."""

    def __init__(self) -> None:
        self._made: list[Path] = []

    def make(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file, not a folder")
        for each in reversed(missing):
            each.mkdir()
            self._made.append(each)

    def remove(self) -> None:
        for folder in reversed(self._made):
            with suppress(OSError):  # somebody else may use it by now
                folder.rmdir()
        self._made = []


class FileStaging:
    """One local file, made visible by a rename."""

    is_directory = False

    def __init__(self, final: Path, shown: str, overwrite: bool) -> None:
        self.shown = shown
        self._final = final
        self._overwrite = overwrite
        self._temporary = final.with_name(f".{final.name}.{secrets.token_hex(6)}.tmp")
        self._folders = _Folders()

    def prepare(self) -> None:
        """See `Staging.prepare`; a file that cannot be created shows here, not after the work."""
        try:
            if self._final.is_dir():
                raise OutputExistsError(
                    f"{self.shown}: is a directory. For part files in it, end the path with a slash."
                )
            if self._final.exists() and not self._overwrite:
                raise _exists(self.shown)
            if self._final.exists() and not stat.S_ISREG(self._final.stat().st_mode):
                raise SinkError(f"{self.shown}: is a device or a pipe, not a file that could be replaced.")
            self._folders.make(self._final.parent)
            self._temporary.touch(exist_ok=False)
        except SinkError:
            raise
        except OSError as error:
            self.discard()
            raise write_failure(self.shown, error) from error

    def create(self, name: str) -> pa.NativeFile:
        """Open the temporary file."""
        return pa.OSFile(str(self._temporary), "wb")

    def finish(self, name: str) -> None:
        """Write the file through to the disk."""
        _sync(self._temporary)

    def publish(self) -> tuple[str, ...]:
        """Rename; where nothing may be replaced, in a way that fails if something has appeared meanwhile."""
        if self._overwrite:
            self._temporary.replace(self._final)
        else:
            try:
                self._final.hardlink_to(self._temporary)
            except FileExistsError as error:
                raise _exists(self.shown, "appeared while the run was under way") from error
            except OSError as error:  # a file system without hard links
                if self._final.exists():
                    raise _exists(self.shown, "appeared while the run was under way") from error
                self._temporary.rename(self._final)
            else:
                self._temporary.unlink()
        _sync(self._final.parent)
        return (self.shown,)

    def discard(self) -> None:
        """Remove the temporary file and the folders that were made for it."""
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)
        self._folders.remove()


class DirectoryStaging:
    """A local directory of part files, made visible by one rename."""

    is_directory = True

    def __init__(self, final: Path, shown: str, overwrite: bool) -> None:
        self.shown = shown
        self._final = final
        self._overwrite = overwrite
        token = secrets.token_hex(6)
        self._temporary = final.with_name(f".{final.name}.{token}.tmp")
        self._replaced = final.with_name(f".{final.name}.{token}.old.tmp")
        self._folders = _Folders()
        self._names: list[str] = []

    def prepare(self) -> None:
        """See `Staging.prepare`. A directory with anything but part files in it is never replaced."""
        try:
            self._check_free()
            self._folders.make(self._final.parent)
            self._temporary.mkdir()
        except SinkError:
            raise
        except OSError as error:
            self.discard()
            raise write_failure(self.shown, error) from error

    def create(self, name: str) -> pa.NativeFile:
        """Open a part."""
        self._names.append(name)
        return pa.OSFile(str(self._temporary / name), "wb")

    def finish(self, name: str) -> None:
        """Write the part through to the disk."""
        _sync(self._temporary / name)

    def publish(self) -> tuple[str, ...]:
        """Rename the directory; an old one is put aside, and put back if that fails."""
        _sync(self._temporary)
        self._check_free()
        old = self._final.exists()
        if old:
            self._final.rename(self._replaced)
        try:
            self._temporary.rename(self._final)
        except OSError:
            if old:
                self._replaced.rename(self._final)
            raise
        _sync(self._final.parent)
        if old:
            shutil.rmtree(self._replaced, ignore_errors=True)
        return tuple(f"{self.shown}{name}" for name in self._names)

    def discard(self) -> None:
        """Remove the temporary directory and the folders that were made for it."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._folders.remove()

    def _check_free(self) -> None:
        if not os.path.lexists(self._final):
            return
        if not self._final.is_dir():
            raise OutputExistsError(
                f"{self.shown}: is a file; without the slash at the end it can be replaced."
            )
        entries = sorted(entry.name for entry in self._final.iterdir())
        if not entries:
            return
        if not self._overwrite:
            raise _exists(self.shown, f"is there already, and has {len(entries)} entries")
        others = [name for name in entries if not _PART_NAME.fullmatch(name)]
        if others:
            raise OutputExistsError(
                f"{self.shown}: has {others[0]!r} in it, which is no part file, so the directory is not replaced. "
                "Remove it yourself, or write somewhere else."
            )


class RemoteStaging:
    """Files on another file system, uploaded under temporary names and moved to their own.

    A store of objects can move one object at a time: between the first and the last part of a directory
    others can see some of it.
    """

    def __init__(self, filesystem: pa_fs.FileSystem, path: str, shown: str, overwrite: bool) -> None:
        self.shown = shown
        self.is_directory = path.endswith("/")
        self._filesystem = filesystem
        self._path = path.rstrip("/")
        self._overwrite = overwrite
        folder, _, name = self._path.rpartition("/")
        token = secrets.token_hex(6)
        self._folder = self._path if self.is_directory else folder
        self._temporary = f"{folder}/.{name}.{token}.tmp" if folder else f".{name}.{token}.tmp"
        self._names: list[str] = []

    def prepare(self) -> None:
        """See `Staging.prepare`."""
        try:
            if not self.is_directory:
                info = self._filesystem.get_file_info(self._path)
                if info.type != pa_fs.FileType.NotFound and not (self._overwrite and info.is_file):
                    raise _exists(self.shown)
            else:
                self._old_parts()
            self._make_folder(self._folder)
        except SinkError:
            raise
        except OSError as error:
            raise write_failure(self.shown, error) from error

    def create(self, name: str) -> pa.NativeFile:
        """Begin an upload."""
        self._names.append(name)
        temporary = self._temporary_path(name)
        self._make_folder(temporary.rpartition("/")[0])
        return self._filesystem.open_output_stream(temporary)

    def finish(self, name: str) -> None:
        """Do nothing: what is uploaded is kept."""

    def publish(self) -> tuple[str, ...]:
        """Move everything to its own name, and what is replaced out of the way."""
        old = self._old_parts() if self.is_directory else []
        moved: list[str] = []
        try:
            for name in self._names:
                final = f"{self._path}/{name}" if self.is_directory else self._path
                self._filesystem.move(self._temporary_path(name), final)
                moved.append(final)
        except OSError:
            if not self._overwrite:
                for final in moved:
                    with suppress(OSError):
                        self._filesystem.delete_file(final)
            raise
        for path in set(old) - set(moved):
            self._filesystem.delete_file(path)
        self._remove_folder()
        return tuple(f"{self.shown}{name}" for name in self._names) if self.is_directory else (self.shown,)

    def discard(self) -> None:
        """Remove what was uploaded."""
        for name in self._names:
            with suppress(OSError):
                self._filesystem.delete_file(self._temporary_path(name))
        self._remove_folder()

    def _remove_folder(self) -> None:
        if self.is_directory:
            with suppress(OSError):
                self._filesystem.delete_dir(self._temporary)

    def _temporary_path(self, name: str) -> str:
        return f"{self._temporary}/{name}" if self.is_directory else self._temporary

    def _make_folder(self, folder: str) -> None:
        # Object stores have no folders; making one would leave a mark.
        if folder and not isinstance(self._filesystem, pa_fs.S3FileSystem):
            self._filesystem.create_dir(folder, recursive=True)

    def _old_parts(self) -> Sequence[str]:
        selector = pa_fs.FileSelector(self._path, allow_not_found=True)
        entries = [info for info in self._filesystem.get_file_info(selector) if info.base_name]
        if entries and not self._overwrite:
            raise _exists(self.shown, f"is there already, and has {len(entries)} entries")
        others = [info.base_name for info in entries if not _PART_NAME.fullmatch(info.base_name)]
        if others:
            raise OutputExistsError(
                f"{self.shown}: has {others[0]!r} in it, which is no part file, so it is not replaced."
            )
        return [info.path for info in entries]
