"""The compiled Snappy decompressor against PyArrow's and a plain one, on good blocks and on damaged ones."""

from __future__ import annotations

import ctypes

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.routine import DECLARATIONS
from dataflare.kernels.cpu.snappy import SNAPPY_SLACK_BYTES, snappy_routine
from dataflare.kernels.cpu.target import host_target

_FAILURE = 7
_GUARD = 0xA5


@pytest.fixture(scope="module", params=[True, False], ids=["for numbers", "for text"])
def decompress(request: pytest.FixtureRequest):  # type: ignore[no-untyped-def]
    """Return what decompresses a block to a size: the bytes, or None where that fails."""
    text = "\n\n".join(
        [
            f'target triple = "{host_target().triple}"',
            DECLARATIONS,
            snappy_routine("snappy", _FAILURE, pairs=request.param).replace("define internal", "define"),
        ]
    )
    code = jit.load_object(jit.assemble(text, host_target()))
    function = code.function("snappy", ctypes.CFUNCTYPE(ctypes.c_int64, *[ctypes.c_int64] * 4))

    def run(block: bytes, size: int) -> bytes | None:
        source = np.frombuffer(block or b"\0", np.uint8).copy()
        out = np.full(size + SNAPPY_SLACK_BYTES + 64, _GUARD, np.uint8)
        start = source.ctypes.data
        status = function(start, start + len(block), out.ctypes.data, size)
        assert (out[size + SNAPPY_SLACK_BYTES :] == _GUARD).all()
        assert status in (0, _FAILURE)
        assert code is not None  # keeps the machine code
        return None if status else out[:size].tobytes()

    return run


def plain(block: bytes, size: int) -> bytes | None:
    """Decompress as the format says, byte by byte."""
    length = shift = position = 0
    while True:
        if position >= len(block) or shift > 28:
            return None
        byte = block[position]
        position += 1
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            break
    if length != size:
        return None
    out = bytearray()
    while position < len(block):
        tag, kind = block[position], block[position] & 3
        position += 1
        if kind == 0:
            count = (tag >> 2) + 1
            if count > 60:
                extra = count - 60
                if position + extra > len(block):
                    return None
                count = int.from_bytes(block[position : position + extra], "little") + 1
                position += extra
            if position + count > len(block) or len(out) + count > size:
                return None
            out += block[position : position + count]
            position += count
            continue
        follows = (0, 1, 2, 4)[kind]
        if position + follows > len(block):
            return None
        distance = int.from_bytes(block[position : position + follows], "little")
        position += follows
        count = (tag >> 2) + 1
        if kind == 1:
            count = (tag >> 2 & 7) + 4
            distance |= tag >> 5 << 8
        if not 0 < distance <= len(out) or len(out) + count > size:
            return None
        for _ in range(count):
            out.append(out[-distance])
    return bytes(out) if len(out) == size else None


@st.composite
def contents(draw: st.DrawFn) -> bytes:
    """Bytes as columns have them: numbers with few low bytes, words, repeats, noise, in any mixture."""
    pieces = []
    seed = draw(st.integers(0, 2**32 - 1))
    random = np.random.default_rng(seed)
    for _ in range(draw(st.integers(0, 4))):
        kind, count = (
            draw(st.sampled_from(["noise", "numbers", "words", "run", "again"])),
            draw(st.integers(1, 3_000)),
        )
        if kind == "noise":
            pieces.append(random.bytes(count))
        elif kind == "numbers":
            limit = 1 << draw(st.integers(1, 40))
            pieces.append(random.integers(0, limit, count).astype("<i8").tobytes())
        elif kind == "words":
            words = [random.bytes(length) for length in random.integers(1, 40, 50)]
            pieces.append(b" ".join(words[index] for index in random.integers(0, 50, count // 10)))
        elif kind == "run":
            pieces.append(random.bytes(draw(st.integers(1, 20))) * count)
        elif pieces:
            pieces.append(pieces[0][: draw(st.integers(1, 70))])
    return b"".join(pieces)


@given(contents())
def test_it_gives_back_what_pyarrow_compressed(decompress, content: bytes) -> None:  # type: ignore[no-untyped-def]
    block = pa.Codec("snappy").compress(content, asbytes=True)
    assert decompress(block, len(content)) == content
    assert decompress(block, len(content) + 1) is None


tags = st.one_of(
    st.binary(min_size=1, max_size=20).map(lambda data: bytes([len(data) - 1 << 2]) + data),
    st.binary(min_size=61, max_size=90).map(lambda data: bytes([60 << 2, len(data) - 1]) + data),
    st.tuples(st.integers(4, 11), st.integers(0, 80)).map(
        lambda pair: bytes([pair[1] >> 8 << 5 | pair[0] - 4 << 2 | 1, pair[1] & 255])
    ),
    st.tuples(st.integers(1, 64), st.integers(0, 80)).map(
        lambda pair: bytes([pair[0] - 1 << 2 | 2]) + pair[1].to_bytes(2, "little")
    ),
    st.tuples(st.integers(1, 64), st.integers(0, 80)).map(
        lambda pair: bytes([pair[0] - 1 << 2 | 3]) + pair[1].to_bytes(4, "little")
    ),
)


@given(st.lists(tags, max_size=40), st.integers(0, 400))
def test_any_sequence_of_tags_means_what_the_format_says(decompress, tags: list[bytes], size: int) -> None:  # type: ignore[no-untyped-def]
    body = b"".join(tags)
    for claimed in {size, _length(body)}:
        block = _varint(claimed) + body
        assert decompress(block, claimed) == plain(block, claimed)


@given(contents(), st.data())
def test_damaged_blocks_fail_or_mean_something_else(decompress, content: bytes, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    block = bytearray(pa.Codec("snappy").compress(content, asbytes=True))
    for _ in range(data.draw(st.integers(1, 5))):
        block[data.draw(st.integers(0, len(block) - 1))] = data.draw(st.integers(0, 255))
    block = block[: data.draw(st.integers(0, len(block)))]
    assert decompress(bytes(block), len(content)) == plain(bytes(block), len(content))


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _length(body: bytes) -> int:
    """Return what a sequence of tags says that it comes to, whether it is sound or not."""
    total = position = 0
    while position < len(body):
        tag, kind = body[position], body[position] & 3
        count = (tag >> 2) + 1
        if kind == 0 and count > 60:
            count = body[position + 1] + 1
            position += 1
        if kind == 1:
            count = (tag >> 2 & 7) + 4
        position += 1 + (count if kind == 0 else (0, 1, 2, 4)[kind])
        total += count
    return total
