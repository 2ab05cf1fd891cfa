"""Guarded memory: what is allowed goes on as ever, and what is not ends the process with a word about where.

Whatever ends a process runs in one of its own.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dataflare.kernels.errors import OptionError
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.memory.guarded import (
    GUARD_VARIABLE,
    POISON,
    GuardedPool,
    guarded_column,
    placement_asked_for,
)
from dataflare.kernels.memory.pool import ALIGNMENT_BYTES, SLACK_BYTES
from dataflare.testing import every_type, sample_array

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="protects pages of memory")


def ended(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    head = "import ctypes\nimport pyarrow as pa\n"
    head += "from dataflare.kernels.memory.guarded import GuardedPool, guarded_column\n"
    head += "from dataflare.kernels.memory.column import HostColumn\n"
    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", head + script],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **environment},
        check=False,
    )


@pytest.mark.parametrize("placement", ["end", "start", "alternate"])
@pytest.mark.parametrize("nbytes", [0, 1, 63, 64, 65, 4032, 4096, 100_000])
def test_a_block_is_aligned_poisoned_and_writable_up_to_its_slack(placement, nbytes) -> None:
    pool = GuardedPool(placement)
    for _ in range(2):
        block = pool.acquire(nbytes)
        assert block.address % ALIGNMENT_BYTES == 0
        assert block.capacity_bytes == nbytes + SLACK_BYTES
        assert (np.asarray(block) == POISON).all()
        ctypes.memset(block.address, 1, nbytes + SLACK_BYTES)
        assert pool.statistics().in_use_bytes == nbytes + SLACK_BYTES
        del block
        assert pool.statistics().in_use_bytes == 0
    assert pool.statistics().acquisitions == 2


@pytest.mark.parametrize(
    ("placement", "place"), [("end", "4096 - 64 + 64"), ("end", "5000"), ("start", "-1"), ("start", "-64")]
)
@pytest.mark.parametrize("access", ["ctypes.string_at(address, 1)", "ctypes.memset(address, 1, 1)"])
def test_a_byte_beside_the_pages_of_a_block_is_a_fault(placement, place, access) -> None:
    done = ended(
        f"block = GuardedPool({placement!r}).acquire(4096 - 64)\naddress = block.address + {place}\n{access}\n"
    )
    assert done.returncode == -signal.SIGSEGV
    assert "Segmentation fault" in done.stderr  # and where, by faulthandler
    assert "line 7" in done.stderr


@pytest.mark.parametrize(
    ("placement", "place", "where"),
    [
        ("end", "100 + 64", "0 bytes behind it and its slack of 64"),
        ("start", "100 + 64 + 9", "9 bytes behind it and its slack of 64"),
        ("end", "-3", "3 bytes before it"),
    ],
)
def test_a_write_between_a_block_and_its_pages_is_found_when_it_goes(placement, place, where) -> None:
    done = ended(
        f"block = GuardedPool({placement!r}).acquire(100)\nctypes.memset(block.address + {place}, 1, 1)\ndel block\n"
    )
    assert done.returncode == -signal.SIGABRT
    assert f"memory was written {where}: the block of 100 bytes" in done.stderr
    assert "<string>:5 asked for" in done.stderr


def test_a_block_that_went_is_a_fault() -> None:
    done = ended(
        "block = GuardedPool().acquire(100)\naddress = block.address\ndel block\nctypes.string_at(address, 1)\n"
    )
    assert done.returncode == -signal.SIGSEGV


def test_many_blocks_come_and_go_in_few_mappings() -> None:
    pool = GuardedPool()
    for _ in range(20_000):
        pool.acquire(64)
    gc.collect()
    assert pool.statistics().in_use_bytes == 0
    assert len(Path("/proc/self/maps").read_text().splitlines()) < 40_000


def test_no_block_has_less_than_no_bytes() -> None:
    with pytest.raises(OptionError, match="-1 bytes"):
        GuardedPool().acquire(-1)


# -- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_a_guarded_column_has_the_same_rows(data_type, at_end) -> None:
    whole = sample_array(data_type, 40)
    for start, length in ((0, 40), (1, 39), (13, 20), (8, 8), (40, 0), (5, 1)):
        part = whole.slice(start, length)
        made = guarded_column(HostColumn.from_arrow(part), at_end=at_end).to_arrow()
        made.validate(full=True)
        assert made.type == part.type
        assert made.to_pylist() == part.to_pylist()


def test_buffers_have_not_a_byte_more_than_the_rows_need() -> None:
    texts = pa.array(["left out", "ab", None, "é"] * 5).slice(9)
    column = guarded_column(HostColumn.from_arrow(texts))
    validity, offsets, data = column.to_arrow().buffers()
    assert column.offset == 1
    assert [validity.size, offsets.size] == [2, 4 * 13]
    assert [buffer.address + buffer.size for buffer in (validity, offsets, data)] == [
        -(-(buffer.address + buffer.size) // 4096) * 4096 for buffer in (validity, offsets, data)
    ]


def test_the_values_of_a_dictionary_are_guarded_too() -> None:
    script = "column = guarded_column(HostColumn.from_arrow(pa.array(['a', 'b'] * 3).dictionary_encode()))\n"
    script += "text = column.dictionary.addresses[2]\nctypes.string_at(text, 2 + {})\n"
    assert ended(script.format(0)).returncode == 0
    assert ended(script.format(1)).returncode == -signal.SIGSEGV


def test_values_under_a_null_are_poison() -> None:
    column = guarded_column(HostColumn.from_arrow(pa.array([1, None, 3], pa.int16())))
    words = np.frombuffer(column.to_arrow().buffers()[1], np.int16)
    assert words.tolist() == [1, int(np.array(POISON << 8 | POISON, np.uint16).view(np.int16)), 3]


@pytest.mark.parametrize(
    ("array", "buffer", "place"),
    [
        ("pa.array([1, 2, 3], pa.int16())", 1, 6),
        ("pa.array([True] * 9)", 1, 2),
        ("pa.array([1, None])", 0, 1),
        ("pa.array(['a', 'bc'])", 1, 12),
        ("pa.array(['a', 'bc'])", 2, 3),
        ("pa.array(['a text that is no view', 'b'], pa.string_view())", 2, 22),
        ("pa.array(['a', 'b'], pa.string_view())", 1, 32),
        ("pa.array(['a', 'b'] * 3).dictionary_encode()", 1, 24),
    ],
)
@pytest.mark.parametrize("at_end", [True, False])
def test_every_buffer_of_a_column_is_guarded(array, buffer, place, at_end) -> None:
    script = f"column = guarded_column(HostColumn.from_arrow({array}), at_end={at_end})\n"
    script += f"found = column.to_arrow().buffers()[{buffer}]\nassert found.size == {place}\n"
    allowed = "ctypes.string_at(found.address, found.size)\n"
    outside = f"ctypes.string_at(found.address + {place if at_end else -1}, 1)\n"
    assert ended(script + allowed).returncode == 0
    assert ended(script + outside).returncode == -signal.SIGSEGV
    assert ended(script + "ctypes.memset(found.address, 1, 1)\n").returncode == -signal.SIGSEGV  # read-only


# -- the environment variable --------------------------------------------------------------------------------


def test_the_variable_guards_a_process() -> None:
    script = "from dataflare.kernels.memory.pool import default_pool\nprint(type(default_pool()).__name__)\n"
    for text, name in (("1", "GuardedPool"), ("start", "GuardedPool"), ("0", "HostPool")):
        assert ended(script, **{GUARD_VARIABLE: text}).stdout.split() == [name]


def test_the_variable_says_which_side(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, placement in (("", None), ("0", None), ("1", "alternate"), ("end", "end"), ("start", "start")):
        monkeypatch.setenv(GUARD_VARIABLE, text)
        assert placement_asked_for() == placement
    monkeypatch.setenv(GUARD_VARIABLE, "yes")
    with pytest.raises(OptionError, match="DATAFLARE_GUARD_MEMORY must be"):
        placement_asked_for()
