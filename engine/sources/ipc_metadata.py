"""What Arrow IPC files say about their batches: where they lie, how many records and how many bytes, without decoding.

Covers the parts of the format's FlatBuffers (``File.fbs`` and ``Message.fbs``) that PyArrow has no names for: the
blocks of a footer, and the lengths and buffers of record and dictionary batches. Does not cover schemas and data, which
PyArrow reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = ["FileLayout", "Message", "decoded_bytes", "file_layout", "next_message", "stream_layout"]

_CONTINUATION = 0xFFFFFFFF
_FILE_TAIL_BYTES = 10  # the length of the footer, and b"ARROW1"
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3  # of the union MessageHeader
_LITTLE_ENDIAN = 0
_NOT_COMPRESSED = -1

_BYTE, _SHORT, _INT, _LONG = (struct.Struct(form) for form in ("<b", "<h", "<i", "<q"))
_UNSIGNED_SHORT, _UNSIGNED_INT = struct.Struct("<H"), struct.Struct("<I")
_BLOCK = struct.Struct("<qi4xq")  # where the message begins, bytes of its metadata, bytes of its body
_BUFFER = struct.Struct("<qq")  # where it begins in the body, bytes


class Message(NamedTuple):
    """One message of a file: a batch, a dictionary, or something else.

    Attributes
    ----------
    offset
        Where it begins in the file.
    metadata_bytes
        From there to its body.
    rows
        Records of the batch, or entries of the dictionary.
    dictionary_id
        Which dictionary it is of.
    is_delta
        Whether its entries come after those that the dictionary has already, and do not replace them.
    """

    offset: int
    metadata_bytes: int
    body_bytes: int
    rows: int
    is_batch: bool
    is_dictionary: bool
    is_compressed: bool
    dictionary_id: int = 0
    is_delta: bool = False

    @property
    def end(self) -> int:
        """Where the next message of a stream begins."""
        return self.offset + self.metadata_bytes + self.body_bytes


class FileLayout(NamedTuple):
    """The messages of one file, in the order in which they are read."""

    batches: tuple[Message, ...]
    dictionaries: tuple[Message, ...]
    is_native: bool
    """Whether the file has this machine's order of bytes, so that nothing has to be copied to swap them."""
    is_complete: bool
    """Whether these are all; a damaged stream tells only what comes before the damage."""

    @property
    def is_compressed(self) -> bool:
        """Whether anything in it has to be decompressed."""
        return any(message.is_compressed for message in (*self.batches, *self.dictionaries))


def file_layout(handle: pa.NativeFile) -> FileLayout:
    """Return what the footer of a file, and the metadata of its batches, say.

    Raises
    ------
    pyarrow.ArrowInvalid
        The footer, or one of the messages, is damaged.
    """
    size_bytes = handle.size()
    (footer_bytes,) = _unpacked(_INT, _read(handle, _INT.size, size_bytes - _FILE_TAIL_BYTES))
    footer = _Table.root(_read(handle, footer_bytes, size_bytes - _FILE_TAIL_BYTES - footer_bytes))
    found = []
    for field in (2, 3):
        blocks = footer.structs(field, _BLOCK)
        found.append(tuple(_message(handle, offset, metadata_bytes) for offset, metadata_bytes, _ in blocks))
    schema = footer.table(1)
    return FileLayout(found[1], found[0], schema is not None and _is_native(schema), True)


def stream_layout(handle: pa.NativeFile) -> FileLayout:
    """Return what the messages of a stream say, up to its end or the first one that is damaged."""
    batches, dictionaries = [], []
    is_native = is_complete = True
    try:
        message = next_message(handle, 0)
        if message is not None:
            schema = _header(handle, message)
            is_native = schema is not None and _is_native(schema)
        while message is not None:
            if message.is_batch:
                batches.append(message)
            elif message.is_dictionary:
                dictionaries.append(message)
            if message.end > handle.size():
                raise pa.ArrowInvalid("a message goes on beyond the end of the file")
            message = next_message(handle, message.end)
    except pa.ArrowInvalid:
        is_complete = False  # whoever reads that far is told
    return FileLayout(tuple(batches), tuple(dictionaries), is_native, is_complete)


def next_message(handle: pa.NativeFile, offset: int) -> Message | None:
    """Return the message of a stream that begins there, None at the end of the stream.

    Raises
    ------
    pyarrow.ArrowInvalid
        It is damaged.
    """
    head = _read_at(handle, 8, offset)
    if not head:
        return None
    prefix_bytes = 4
    (metadata_bytes,) = _unpacked(_UNSIGNED_INT, head)
    if metadata_bytes == _CONTINUATION:  # which Arrow has written since 0.15
        prefix_bytes = 8
        (metadata_bytes,) = _unpacked(_UNSIGNED_INT, head, 4)
    return None if not metadata_bytes else _message(handle, offset, prefix_bytes + metadata_bytes)


def decoded_bytes(
    handle: pa.NativeFile, message: Message, schema: pa.Schema, names: Sequence[str]
) -> tuple[int, int]:
    """Return the bytes in memory of these columns of a batch, and those that they have in the file.

    Of a dictionary, those of all its entries. A compressed buffer begins with its length, which is read.

    Raises
    ------
    pyarrow.ArrowInvalid
        The metadata is damaged.
    """
    batch = _batch(handle, message)
    if batch is None:
        return 0, 0
    buffers = batch.structs(2, _BUFFER)
    if message.is_batch:
        buffers = _of_columns(buffers, [number for (number,) in batch.structs(4, _LONG)], schema, names)
    if any(nbytes < 0 for _, nbytes in buffers):
        raise pa.ArrowInvalid("its metadata have a negative length")
    stored_bytes = sum(nbytes for _, nbytes in buffers)
    if not message.is_compressed:
        return stored_bytes, stored_bytes
    body = message.offset + message.metadata_bytes
    total_bytes = 0
    for offset, nbytes in buffers:
        if nbytes:
            (length,) = _unpacked(_LONG, _read(handle, _LONG.size, body + offset))
            if length < _NOT_COMPRESSED:
                raise pa.ArrowInvalid(f"a compressed buffer says that it has {length} bytes")
            total_bytes += nbytes - _LONG.size if length == _NOT_COMPRESSED else length
    return total_bytes, stored_bytes


class _Table:
    """A table of a FlatBuffer. What points out of the buffer is an error, not a value."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self._position = position
        (distance,) = _unpacked(_INT, data, position)
        self._fields = position - distance
        (self._fields_bytes,) = _unpacked(_UNSIGNED_SHORT, data, self._fields)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        """Return the table that a buffer is of."""
        return cls(data, *_unpacked(_UNSIGNED_INT, data))

    def number(self, field: int, form: struct.Struct) -> int:
        """Return a number; 0, which is the default of all that are asked for, where it is left out."""
        position = self._place(field)
        return int(_unpacked(form, self._data, position)[0]) if position else 0

    def table(self, field: int) -> _Table | None:
        """Return a table, or what a union holds; None where it is left out."""
        position = self._place(field)
        return _Table(self._data, self._target(position)) if position else None

    def structs(self, field: int, form: struct.Struct) -> list[tuple[Any, ...]]:
        """Return a vector of structs or numbers; empty where it is left out."""
        position = self._place(field)
        if not position:
            return []
        target = self._target(position)
        (count,) = _unpacked(_UNSIGNED_INT, self._data, target)
        part = memoryview(self._data)[target + 4 :][: count * form.size]
        if len(part) != count * form.size:
            raise pa.ArrowInvalid("its metadata points out of itself")
        return list(form.iter_unpack(part))

    def _place(self, field: int) -> int:
        entry = 4 + 2 * field
        if entry >= self._fields_bytes:
            return 0
        (distance,) = _unpacked(_UNSIGNED_SHORT, self._data, self._fields + entry)
        return self._position + distance if distance else 0

    def _target(self, position: int) -> int:
        return int(position + _unpacked(_UNSIGNED_INT, self._data, position)[0])


def _unpacked(form: struct.Struct, data: bytes, position: int = 0) -> tuple[Any, ...]:
    if position < 0 or position + form.size > len(data):
        raise pa.ArrowInvalid("its metadata points out of itself")
    return form.unpack_from(data, position)


def _read(handle: pa.NativeFile, nbytes: int, offset: int) -> bytes:
    if nbytes < 0 or offset < 0 or offset + nbytes > handle.size():
        raise pa.ArrowInvalid("its metadata points out of the file")
    return _read_at(handle, nbytes, offset)


def _read_at(handle: pa.NativeFile, nbytes: int, offset: int) -> bytes:
    return handle.read_at(nbytes, offset)  # type: ignore[call-arg] # the stubs do not know of the offset


def _root(handle: pa.NativeFile, offset: int, metadata_bytes: int) -> _Table:
    data = _read(handle, metadata_bytes, offset)
    (head,) = _unpacked(_UNSIGNED_INT, data)
    return _Table.root(data[8 if head == _CONTINUATION else 4 :])


def _message(handle: pa.NativeFile, offset: int, metadata_bytes: int) -> Message:
    root = _root(handle, offset, metadata_bytes)
    kind, header = root.number(1, _BYTE), root.table(2)
    batch = header.table(1) if kind == _DICTIONARY_BATCH and header is not None else header
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        batch = None
    message = Message(
        offset,
        metadata_bytes,
        root.number(3, _LONG),
        0 if batch is None else batch.number(0, _LONG),
        kind == _RECORD_BATCH,
        kind == _DICTIONARY_BATCH,
        batch is not None and batch.table(3) is not None,
        header.number(0, _LONG) if kind == _DICTIONARY_BATCH and header is not None else 0,
        kind == _DICTIONARY_BATCH and header is not None and bool(header.number(2, _BYTE)),
    )
    if message.body_bytes < 0 or message.rows < 0:
        raise pa.ArrowInvalid("its metadata have a negative length")
    return message


def _header(handle: pa.NativeFile, message: Message) -> _Table | None:
    return _root(handle, message.offset, message.metadata_bytes).table(2)


def _batch(handle: pa.NativeFile, message: Message) -> _Table | None:
    header = _header(handle, message)
    return header.table(1) if message.is_dictionary and header is not None else header


def _is_native(schema: _Table) -> bool:
    # DataFlare runs on nothing but little-endian machines.
    return schema.number(0, _SHORT) == _LITTLE_ENDIAN


def _of_columns(
    buffers: list[tuple[Any, ...]], view_buffers: Sequence[int], schema: pa.Schema, names: Sequence[str]
) -> list[tuple[Any, ...]]:
    """Return the buffers of some columns; all, where the file counts them in its own way (unions before Arrow 1.0)."""
    counts = iter(view_buffers)
    wanted, found, position = set(names), [], 0
    for field in schema:
        count = _buffer_count(field.type, counts)
        if field.name in wanted:
            found += buffers[position : position + count]
        position += count
    return found if position == len(buffers) else buffers


def _buffer_count(data_type: pa.DataType, view_buffers: Iterator[int]) -> int:
    """Return how many buffers a column has in a message, those of its children included."""
    if isinstance(data_type, pa.BaseExtensionType):
        return _buffer_count(data_type.storage_type, view_buffers)
    kinds = pa.types
    if kinds.is_null(data_type):
        return 0
    if kinds.is_dictionary(data_type):
        return 2
    if kinds.is_string_view(data_type) or kinds.is_binary_view(data_type):
        return 2 + next(view_buffers, 0)
    if kinds.is_union(data_type):
        count = 1 if data_type.mode == "sparse" else 2
    elif kinds.is_run_end_encoded(data_type):
        count = 0
    else:
        count = data_type.num_buffers
    fields = (data_type.field(number).type for number in range(data_type.num_fields))
    return count + sum(_buffer_count(kind, view_buffers) for kind in fields)
