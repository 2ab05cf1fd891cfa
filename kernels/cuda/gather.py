"""Kernels that gather records: those that a filter keeps, of columns that its own kernels do not write.

The numbers of the kept records are listed first; the other kernels take by that list. Values of any fixed width are
taken by threads and bits by warps. Strings are in three steps: bytes for each segment of the result, the running sum
over these (``primitives``), and the copies, where a warp moves one string after the other. Each string may also come
from one of several columns or literals, by the number of the source that a program wrote.

Does not cover memory and launches: that is ``taking``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from dataflare.kernels.cuda.filtering import SEGMENT_ROWS
from dataflare.kernels.cuda.kernel_text import KernelText, kernel_of
from dataflare.kernels.cuda.reading import VECTOR_BYTES, Reader
from dataflare.kernels.cuda.threads import WARP_THREADS, Threads, only_if, popcount
from dataflare.kernels.llvm.counting import counted_loop
from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.llvm.target import Target

__all__ = [
    "STRING_SLOTS",
    "StringGather",
    "copy_strings_kernel",
    "kept_rows_kernel",
    "string_lengths_kernel",
    "take_bits_kernel",
    "take_values_kernel",
]

STRING_SLOTS = 10
"""Slots of the kernels for strings before those of their sources."""

_SOURCE_SLOTS = 5


class StringGather(NamedTuple):
    """What the kernels for strings are made for.

    Their slots: strings of the result, the list of rows, the numbers of the sources, their validity and its bit
    offset, the bytes of each segment (i64), the counter of valid strings; then of the result validity, offsets and
    bytes; then of each source validity and its bit offset, offsets, bytes, and 0 if it is a literal (1 otherwise).
    """

    offset_bytes: int
    """Bytes of an offset, 4 or 8, in the sources and in the result."""
    sources: int
    is_chosen: bool
    """Whether each record says by a number which source it takes; otherwise there is one."""
    is_listed: bool
    """Whether the rows of the sources are listed; otherwise they are those of the result."""


def kept_rows_kernel(target: Target) -> KernelText:
    """Return the kernel that lists the rows that a filter keeps.

    Slots: rows, the bits of who is kept, how many are kept before each segment (i64), the list (i64).
    """
    body = _Body()
    code, reader, threads = body.code, body.reader, body.threads
    place = code.variable("i64", "place")
    with body.segments() as (segment, first, end):
        before = code.value(f"getelementptr i64, ptr {reader.pointer(2)}, i64 {segment}")
        code.add(f"store i64 {code.value(f'load i64, ptr {before}, align 8')}, ptr {place}, align 8")
        with body.steps(first, end) as (start, row, _):
            word_index = code.value(f"lshr i64 {start}, 5")
            address = code.value(f"getelementptr i32, ptr {reader.pointer(1)}, i64 {word_index}")
            word = code.value(f"load i32, ptr {address}, align 4")
            shifted = code.value(f"lshr i32 {word}, {threads.special('laneid')}")
            at = code.value(f"load i64, ptr {place}, align 8")
            rank = code.value(f"zext i32 {threads.before_me(word)} to i64")
            with only_if(code, code.value(f"trunc i32 {shifted} to i1")):
                mine = code.value(f"add i64 {at}, {rank}")
                target_address = code.value(f"getelementptr i64, ptr {reader.pointer(3)}, i64 {mine}")
                code.add(f"store i64 {row}, ptr {target_address}, align 8")
            kept = code.value(f"zext i32 {popcount(code, word)} to i64")
            code.add(f"store i64 {code.value(f'add i64 {at}, {kept}')}, ptr {place}, align 8")
    return kernel_of(code, "kept_rows", 4, target)


def take_values_kernel(width_bytes: int, target: Target) -> KernelText:
    """Return the kernel that takes values of a width by a list of rows. Slots: length, list, values, result."""
    body = _Body()
    code, reader, threads = body.code, body.reader, body.threads
    unit = min(width_bytes & -width_bytes, VECTOR_BYTES)
    parts = width_bytes // unit
    with counted_loop(code, "record", threads.index(), reader.slot(0), threads.count()) as record:
        row = body.listed(1, record)
        source, result = (code.value(f"mul i64 {index}, {parts}") for index in (row, record))
        for part in range(parts):
            element = f"i{8 * unit}"
            from_index, to_index = (code.value(f"add i64 {index}, {part}") for index in (source, result))
            address = code.value(f"getelementptr {element}, ptr {reader.pointer(2)}, i64 {from_index}")
            value = code.value(f"load {element}, ptr {address}, align {unit}")
            address = code.value(f"getelementptr {element}, ptr {reader.pointer(3)}, i64 {to_index}")
            code.add(f"store {element} {value}, ptr {address}, align {unit}")
    return kernel_of(code, f"take{width_bytes}", 4, target)


def take_bits_kernel(target: Target) -> KernelText:
    """Return the kernel that takes bits by a list of rows. Slots: length, list, bitmap, its bit offset, result."""
    body = _Body()
    code, reader, threads = body.code, body.reader, body.threads
    flag = code.variable("i1", "flag")
    with body.segments() as (_, first, end), body.steps(first, end) as (start, record, inside):
        code.add(f"store i1 0, ptr {flag}, align 1")
        with only_if(code, inside):
            code.add(f"store i1 {reader.bit(2, body.listed(1, record))}, ptr {flag}, align 1")
        word = threads.ballot(code.value(f"load i1, ptr {flag}, align 1"))
        with threads.one_of():
            body.store_word(4, start, word)
    return kernel_of(code, "take_bits", 5, target)


def string_lengths_kernel(spec: StringGather, target: Target) -> KernelText:
    """Return the kernel that adds up the bytes of each segment, and writes which strings are valid."""
    body = _Strings(spec)
    code, reader, threads = body.code, body.reader, body.threads
    total, valid = code.variable("i64", "total"), code.variable("i64", "valid")
    with body.segments() as (segment, first, end):
        code.add(f"store i64 0, ptr {total}, align 8")
        with body.steps(first, end) as (start, record, inside):
            body.locate(record, inside)
            old, more = (code.value(f"load i64, ptr {name}, align 8") for name in (total, body.length))
            code.add(f"store i64 {code.value(f'add i64 {old}, {more}')}, ptr {total}, align 8")
            word = threads.ballot(code.value(f"load i1, ptr {body.valid}, align 1"))
            old, more = code.value(f"load i64, ptr {valid}, align 8"), popcount(code, word)
            more = code.value(f"zext i32 {more} to i64")
            code.add(f"store i64 {code.value(f'add i64 {old}, {more}')}, ptr {valid}, align 8")
            with threads.one_of(), only_if(code, code.value(f"icmp ne i64 {reader.slot(7)}, 0")):
                body.store_word(7, start, word)
        address = code.value(f"getelementptr i64, ptr {reader.pointer(5)}, i64 {segment}")
        mine = code.value(f"load i64, ptr {total}, align 8")
        code.value(f"atomicrmw add ptr {address}, i64 {mine} monotonic, align 8")
    with threads.one_of():
        mine = code.value(f"load i64, ptr {valid}, align 8")
        code.value(f"atomicrmw add ptr {reader.pointer(6)}, i64 {mine} monotonic, align 8")
    return kernel_of(code, "string_lengths", body.slots, target)


def copy_strings_kernel(spec: StringGather, target: Target) -> KernelText:
    """Return the kernel that writes offsets and bytes, once the segments have their running sum."""
    body = _Strings(spec)
    code, reader = body.code, body.reader
    base = code.variable("i64", "base")
    integer = f"i{8 * spec.offset_bytes}"

    def store_offset(index: str, offset: str) -> None:
        narrow = offset if integer == "i64" else code.value(f"trunc i64 {offset} to {integer}")
        address = code.value(f"getelementptr {integer}, ptr {reader.pointer(8)}, i64 {index}")
        code.add(f"store {integer} {narrow}, ptr {address}, align {spec.offset_bytes}")

    with body.segments() as (segment, first, end):
        address = code.value(f"getelementptr i64, ptr {reader.pointer(5)}, i64 {segment}")
        code.add(f"store i64 {code.value(f'load i64, ptr {address}, align 8')}, ptr {base}, align 8")
        with body.steps(first, end) as (_, record, inside):
            body.locate(record, inside)
            length = code.value(f"load i64, ptr {body.length}, align 8")
            source = code.value(f"load i64, ptr {body.start}, align 8")
            up_to = body.sum_up_to_me(length)
            begun = code.value(f"load i64, ptr {base}, align 8")
            after = code.value(f"add i64 {begun}, {up_to}")
            offset = code.value(f"sub i64 {after}, {length}")
            with only_if(code, inside):
                store_offset(record, offset)
                following = code.value(f"add i64 {record}, 1")
                is_last = code.value(f"icmp eq i64 {following}, {reader.slot(0)}")
                with only_if(code, is_last):
                    store_offset(following, after)
            body.copy_by_warp(source, offset, length)
            last = body.of_lane(after, str(WARP_THREADS - 1))
            code.add(f"store i64 {last}, ptr {base}, align 8")
    return kernel_of(code, "copy_strings", body.slots, target)


class _Body:
    """What the kernels have in common: the code under construction, and the loops over records."""

    def __init__(self) -> None:
        self.code = Code()
        self.code.block = "start"
        self.reader = Reader(self.code, aligned=False)
        self.threads = Threads(self.code)

    def listed(self, slot: int, record: str) -> str:
        """Return the row that the list at ``slot`` has for a record."""
        address = self.code.value(f"getelementptr i64, ptr {self.reader.pointer(slot)}, i64 {record}")
        return self.code.value(f"load i64, ptr {address}, align 8")

    @contextmanager
    def segments(self) -> Iterator[tuple[str, str, str]]:
        """Repeat what is emitted inside for the segments of this warp: number, first record, end."""
        code, rows = self.code, self.reader.slot(0)
        shift = SEGMENT_ROWS.bit_length() - 1
        code.declare("declare i64 @llvm.umin.i64(i64, i64)")
        rounded = code.value(f"add i64 {rows}, {SEGMENT_ROWS - 1}")
        count = code.value(f"lshr i64 {rounded}, {shift}")
        warp = code.value(f"lshr i64 {self.threads.index()}, 5")
        warps = code.value(f"lshr i64 {self.threads.count()}, 5")
        with counted_loop(code, "segment", warp, count, warps) as segment:
            first = code.value(f"shl i64 {segment}, {shift}")
            full = code.value(f"add i64 {first}, {SEGMENT_ROWS}")
            yield segment, first, code.value(f"call i64 @llvm.umin.i64(i64 {full}, i64 {rows})")

    @contextmanager
    def steps(self, first: str, end: str) -> Iterator[tuple[str, str, str]]:
        """Repeat what is emitted inside for 32 records at a time: the first, this thread's, whether there is one."""
        code = self.code
        with counted_loop(code, "step", first, end, str(WARP_THREADS)) as start:
            record = code.value(f"add i64 {start}, {self.threads.lane()}")
            yield start, record, code.value(f"icmp ult i64 {record}, {end}")

    def store_word(self, slot: int, start: str, word: str) -> None:
        """Store the bits of the records from ``start`` on; for one thread of a warp."""
        index = self.code.value(f"lshr i64 {start}, 5")
        address = self.code.value(f"getelementptr i32, ptr {self.reader.pointer(slot)}, i64 {index}")
        self.code.add(f"store i32 {word}, ptr {address}, align 4")


class _Strings(_Body):
    """The kernels for strings: where the string of a record is, and how a warp copies one."""

    def __init__(self, spec: StringGather) -> None:
        super().__init__()
        self.slots = STRING_SLOTS + _SOURCE_SLOTS * spec.sources
        self.start = self.code.variable("i64", "start")
        self.length = self.code.variable("i64", "length")
        self.valid = self.code.variable("i1", "valid")
        self._spec = spec

    def locate(self, record: str, inside: str) -> None:
        """Set the address and the bytes of the string of a record; no bytes where there is none or it is null."""
        code, spec = self.code, self._spec
        code.add(f"store i64 0, ptr {self.start}, align 8")
        code.add(f"store i64 0, ptr {self.length}, align 8")
        code.add(f"store i1 0, ptr {self.valid}, align 1")
        with only_if(code, inside):
            row = self.listed(1, record) if spec.is_listed else record
            if not spec.is_chosen:
                self._read(0, row)
                return
            with only_if(code, self.reader.bit(3, record)):
                address = code.value(f"getelementptr i32, ptr {self.reader.pointer(2)}, i64 {record}")
                number = code.value(f"load i32, ptr {address}, align 4")
                for source in range(spec.sources):
                    with only_if(code, code.value(f"icmp eq i32 {number}, {source}")):
                        self._read(source, row)

    def _read(self, source: int, row: str) -> None:
        code, reader, width = self.code, self.reader, self._spec.offset_bytes
        first_slot = STRING_SLOTS + _SOURCE_SLOTS * source
        row = code.value(f"mul i64 {row}, {reader.slot(first_slot + 4)}")
        valid = reader.bit(first_slot, row)
        code.add(f"store i1 {valid}, ptr {self.valid}, align 1")
        with only_if(code, valid):
            integer = f"i{8 * width}"
            address = code.value(f"getelementptr {integer}, ptr {reader.pointer(first_slot + 2)}, i64 {row}")
            ends = []
            for position in range(2):
                here = code.value(f"getelementptr {integer}, ptr {address}, i64 {position}")
                offset = code.value(f"load {integer}, ptr {here}, align {width}")
                ends.append(offset if integer == "i64" else code.value(f"zext i32 {offset} to i64"))
            code.add(f"store i64 {code.value(f'sub i64 {ends[1]}, {ends[0]}')}, ptr {self.length}, align 8")
            start = code.value(f"add i64 {reader.slot(first_slot + 3)}, {ends[0]}")
            code.add(f"store i64 {start}, ptr {self.start}, align 8")

    def of_lane(self, value: str, lane: str) -> str:
        """Return the value (i64) that the thread ``lane`` (i32) of the warp has."""
        return self._shuffled("idx", value, lane, WARP_THREADS - 1)

    def sum_up_to_me(self, value: str) -> str:
        """Return the sum of the values (i64) of the threads of the warp up to this one."""
        code = self.code
        distance = 1
        while distance < WARP_THREADS:
            other = self._shuffled("up", value, str(distance), 0)
            has = code.value(f"icmp uge i32 {self.threads.special('laneid')}, {distance}")
            before = code.value(f"select i1 {has}, i64 {other}, i64 0")
            value = code.value(f"add i64 {value}, {before}")
            distance *= 2
        return value

    def _shuffled(self, way: str, value: str, by: str, clamp: int) -> str:
        code = self.code
        name = f"@llvm.nvvm.shfl.sync.{way}.i32"
        code.declare(f"declare i32 {name}(i32, i32, i32, i32) #4")
        halves = []
        for shift in (0, 32):
            half = code.value(f"trunc i64 {code.value(f'lshr i64 {value}, {shift}')} to i32")
            moved = code.value(f"call i32 {name}(i32 -1, i32 {half}, i32 {by}, i32 {clamp})")
            halves.append(code.value(f"zext i32 {moved} to i64"))
        return code.value(f"or i64 {code.value(f'shl i64 {halves[1]}, 32')}, {halves[0]}")

    def copy_by_warp(self, source: str, offset: str, length: str) -> None:
        """Copy the strings of all threads of the warp to the result, each with all threads."""
        code, threads = self.code, self.threads
        with counted_loop(code, "string", "0", str(WARP_THREADS), "1") as number:
            lane = code.value(f"trunc i64 {number} to i32")
            start, to, size = (self.of_lane(value, lane) for value in (source, offset, length))
            with counted_loop(code, "byte", threads.lane(), size, str(WARP_THREADS)) as byte:
                address = code.value(f"add i64 {start}, {byte}")
                global_source = code.value(f"inttoptr i64 {address} to ptr addrspace(1)")
                value = code.value(f"load i8, ptr addrspace(1) {global_source}, align 1")
                index = code.value(f"add i64 {to}, {byte}")
                target = code.value(f"getelementptr i8, ptr {self.reader.pointer(9)}, i64 {index}")
                code.add(f"store i8 {value}, ptr {target}, align 1")
