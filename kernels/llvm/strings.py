"""LLVM loops over the bytes of strings: one function for each operation and form of column.

``void @name(ptr column slots, ptr other slots, i64 first row, i64 rows, ptr results)`` writes one byte a row (a
flag) or one int64 (a length, a place). The fused loop calls it for a tile; for a dictionary column it runs once over
the distinct values.
"""

from __future__ import annotations

from dataflare.kernels.llvm.arguments import Arguments
from dataflare.kernels.llvm.automata import automaton_globals, emit_automaton
from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.llvm.layout import ColumnForm
from dataflare.kernels.udf.ir import StringLeaf, StringOp

__all__ = ["result_bits", "result_bytes", "string_function", "string_globals"]

_LOAD = "align 1"


def result_bytes(op: StringOp) -> int:
    """Return the bytes that one result takes."""
    return 8 if op.gives_integers else 1


def result_bits(op: StringOp) -> int:
    """Return the bits that one result takes where they are packed."""
    return 64 if op.gives_integers else 1


def string_globals(name: str, op: StringOp) -> list[str]:
    """Return the constants that a string function reads."""
    lines = [] if op.automaton is None else automaton_globals(name, op.automaton)
    for position, leaf in enumerate(op.leaves):
        if leaf.text is not None:
            data = leaf.text.encode()
            escaped = "".join(f"\\{byte:02X}" for byte in data)
            lines.append(
                f'@{name}.{position} = private unnamed_addr constant [{len(data)} x i8] c"{escaped}", align 16'
            )
    return lines


def string_function(
    name: str,
    op: StringOp,
    forms: tuple[ColumnForm | None, ...],
    *,
    nullable: bool,
    all_ones: str = Arguments.all_ones,
    aligned: bool = False,
) -> tuple[str, list[str]]:
    """Return the LLVM function for ``op`` and the declarations it needs.

    ``forms`` gives the form of each leaf, None for a literal; ``all_ones`` is a pointer to a byte of ones. ``aligned``
    says that offsets and views begin where values of their size may: a GPU loads others byte by byte.
    """
    code = Code()
    code.block = "loop"
    pointers: list[tuple[str, str]] = []
    entry: list[str] = []
    for position, form in enumerate(forms):
        if form is not None:
            for slot in range(4):
                entry.append(f"  %a{position}.{slot}p = getelementptr i64, ptr %column{position}, i64 {slot}")
                entry.append(f"  %a{position}.{slot} = load i64, ptr %a{position}.{slot}p, align 8")
    code.lines.append("  %row = add i64 %first, %i")
    for position, (leaf, form) in enumerate(zip(op.leaves, forms, strict=True)):
        bits = all_ones if nullable else None
        pointers.append(_string_at(code, name, position, leaf, form, bits, aligned=aligned))
    result = _operation(code, name, op, pointers)
    width, store = ("i64", result) if op.gives_integers else ("i8", code.value(f"zext i1 {result} to i8"))
    code.add(f"%address = getelementptr {width}, ptr %out, i64 %i")
    code.add(f"store {width} {store}, ptr %address, align {result_bytes(op)}")
    code.add("%next = add i64 %i, 1")
    code.add("%more = icmp ult i64 %next, %rows")
    code.add("br i1 %more, label %loop, label %done")
    head = [
        f"define void @{name}(ptr %column0, ptr %column1, i64 %first, i64 %rows, ptr noalias %out) #0 {{",
        "entry:",
        *entry,
        "  %some = icmp ugt i64 %rows, 0",
        "  br i1 %some, label %loop, label %done",
        "loop:",
        f"  %i = phi i64 [ 0, %entry ], [ %next, %{code.block} ]",
    ]
    return "\n".join([*head, *code.lines, "done:", "  ret void", "}"]), list(code.declarations)


def _string_at(
    code: Code,
    name: str,
    position: int,
    leaf: StringLeaf,
    form: ColumnForm | None,
    all_ones: str | None,
    *,
    aligned: bool,
) -> tuple[str, str]:
    """Return the address and the length in bytes of the string in the current row."""
    if form is None:
        assert leaf.text is not None
        return f"@{name}.{position}", str(len(leaf.text.encode()))
    a = f"%a{position}"
    if form is ColumnForm.VIEW:
        return _view_at(code, a, all_ones, _alignment(4, aligned=aligned))
    width = "i32" if form is ColumnForm.STRING32 else "i64"
    alignment = _alignment(4 if width == "i32" else 8, aligned=aligned)
    offsets = code.value(f"inttoptr i64 {a}.2 to ptr")
    start_address = code.value(f"getelementptr {width}, ptr {offsets}, i64 %row")
    start = code.value(f"load {width}, ptr {start_address}, {alignment}")
    end_address = code.value(f"getelementptr {width}, ptr {start_address}, i64 1")
    end = code.value(f"load {width}, ptr {end_address}, {alignment}")
    if width == "i32":
        start, end = code.value(f"zext i32 {start} to i64"), code.value(f"zext i32 {end} to i64")
    data = code.value(f"inttoptr i64 {a}.3 to ptr")
    return code.value(f"getelementptr i8, ptr {data}, i64 {start}"), code.value(f"sub i64 {end}, {start}")


def _alignment(width_bytes: int, *, aligned: bool) -> str:
    return f"align {width_bytes if aligned else 1}"


def _view_at(code: Code, a: str, all_ones: str | None, alignment: str) -> tuple[str, str]:
    """Read a string view: up to 12 bytes inline, else in one of the buffers. A null one may hold anything.

    ``all_ones`` stands for an absent bitmap, and is None where there are no nulls.
    """
    views = code.value(f"inttoptr i64 {a}.2 to ptr")
    view = code.value(f"getelementptr [16 x i8], ptr {views}, i64 %row")
    size = code.value(f"load i32, ptr {view}, {alignment}")
    if all_ones is not None:
        bit = code.value(f"add i64 {a}.1, %row")
        byte = code.value(f"lshr i64 {bit}, 3")
        bitmap = code.value(f"inttoptr i64 {a}.0 to ptr")
        address = code.value(f"getelementptr i8, ptr {bitmap}, i64 {byte}")
        has_bitmap = code.value(f"icmp ne i64 {a}.0, 0")
        address = code.value(f"select i1 {has_bitmap}, ptr {address}, ptr {all_ones}")
        loaded = code.value(f"load i8, ptr {address}, {_LOAD}")
        shift = code.value(f"trunc i64 {bit} to i8")
        shift = code.value(f"and i8 {shift}, 7")
        loaded = code.value(f"lshr i8 {loaded}, {shift}")
        valid = code.value(f"trunc i8 {loaded} to i1")
        size = code.value(f"select i1 {valid}, i32 {size}, i32 0")
    inline = code.value(f"getelementptr i8, ptr {view}, i64 4")
    is_long = code.value(f"icmp ugt i32 {size}, 12")
    before, far, done = code.block, code.fresh_label("far"), code.fresh_label("got")
    code.add(f"br i1 {is_long}, label %{far}, label %{done}")
    code.label(far)
    index_address = code.value(f"getelementptr i8, ptr {view}, i64 8")
    index = code.value(f"load i32, ptr {index_address}, {alignment}")
    index = code.value(f"zext i32 {index} to i64")
    offset_address = code.value(f"getelementptr i8, ptr {view}, i64 12")
    offset = code.value(f"load i32, ptr {offset_address}, {alignment}")
    offset = code.value(f"zext i32 {offset} to i64")
    table = code.value(f"inttoptr i64 {a}.3 to ptr")
    entry = code.value(f"getelementptr i64, ptr {table}, i64 {index}")
    buffer = code.value(f"load i64, ptr {entry}, align 8")
    base = code.value(f"inttoptr i64 {buffer} to ptr")
    text = code.value(f"getelementptr i8, ptr {base}, i64 {offset}")
    code.add(f"br label %{done}")
    code.label(done)
    pointer = code.value(f"phi ptr [ {inline}, %{before} ], [ {text}, %{far} ]")
    return pointer, code.value(f"zext i32 {size} to i64")


def _operation(code: Code, name: str, op: StringOp, strings: list[tuple[str, str]]) -> str:
    if op.name == "length":
        return _length(code, *strings[0])
    if op.automaton is not None:
        return emit_automaton(code, name, op.automaton, *strings[0])
    (a, a_size), (b, b_size) = strings
    if op.name == "lt":
        return _less(code, a, a_size, b, b_size)
    if op.name in ("contains", "find"):
        code.declare("declare ptr @memmem(ptr, i64, ptr, i64) #1")
        found = code.value(f"call ptr @memmem(ptr {a}, i64 {a_size}, ptr {b}, i64 {b_size})")
        empty = code.value(f"icmp eq i64 {b_size}, 0")
        hit = code.value(f"icmp ne ptr {found}, null")
        hit = code.value(f"or i1 {empty}, {hit}")
        return hit if op.name == "contains" else _place(code, a, found, empty, hit)
    fits = code.value(f"icmp {'eq' if op.name == 'eq' else 'uge'} i64 {a_size}, {b_size}")
    before, compare, done = code.block, code.fresh_label("compare"), code.fresh_label("done")
    code.add(f"br i1 {fits}, label %{compare}, label %{done}")
    code.label(compare)
    start = a
    if op.name == "endswith":
        gap = code.value(f"sub i64 {a_size}, {b_size}")
        start = code.value(f"getelementptr i8, ptr {a}, i64 {gap}")
    code.declare("declare i32 @memcmp(ptr, ptr, i64) #1")
    difference = code.value(f"call i32 @memcmp(ptr {start}, ptr {b}, i64 {b_size})")
    equal = code.value(f"icmp eq i32 {difference}, 0")
    code.add(f"br label %{done}")
    code.label(done)
    return code.value(f"phi i1 [ false, %{before} ], [ {equal}, %{compare} ]")


def _less(code: Code, a: str, a_size: str, b: str, b_size: str) -> str:
    code.declare("declare i32 @memcmp(ptr, ptr, i64) #1")
    shorter = code.value(f"icmp ult i64 {a_size}, {b_size}")
    size = code.value(f"select i1 {shorter}, i64 {a_size}, i64 {b_size}")
    difference = code.value(f"call i32 @memcmp(ptr {a}, ptr {b}, i64 {size})")
    below = code.value(f"icmp slt i32 {difference}, 0")
    same = code.value(f"icmp eq i32 {difference}, 0")
    prefix = code.value(f"and i1 {same}, {shorter}")
    return code.value(f"or i1 {below}, {prefix}")


def _place(code: Code, text: str, found: str, empty: str, hit: str) -> str:
    """Return how many code points are before ``found``; -1 where it is not, 0 where what is sought is empty."""
    start, end = (code.value(f"ptrtoint ptr {pointer} to i64") for pointer in (text, found))
    before = code.value(f"sub i64 {end}, {start}")
    nowhere = code.value(f"xor i1 {hit}, true")
    skips = code.value(f"or i1 {empty}, {nowhere}")
    before = code.value(f"select i1 {skips}, i64 0, i64 {before}")
    place = _length(code, text, before)
    return code.value(f"select i1 {hit}, i64 {place}, i64 -1")


def _length(code: Code, text: str, size: str) -> str:
    """Count the bytes that begin a code point: those that are not 10xxxxxx."""
    before, head, done = code.block, code.fresh_label("count"), code.fresh_label("counted")
    some = code.value(f"icmp ugt i64 {size}, 0")
    code.add(f"br i1 {some}, label %{head}, label %{done}")
    code.label(head)
    index, total = code.name("k"), code.name("n")
    following, sum_name = code.name("k"), code.name("n")
    code.add(f"{index} = phi i64 [ 0, %{before} ], [ {following}, %{head} ]")
    code.add(f"{total} = phi i64 [ 0, %{before} ], [ {sum_name}, %{head} ]")
    address = code.value(f"getelementptr i8, ptr {text}, i64 {index}")
    byte = code.value(f"load i8, ptr {address}, {_LOAD}")
    begins = code.value(f"icmp sgt i8 {byte}, -65")
    one = code.value(f"zext i1 {begins} to i64")
    code.add(f"{sum_name} = add i64 {total}, {one}")
    code.add(f"{following} = add i64 {index}, 1")
    more = code.value(f"icmp ult i64 {following}, {size}")
    code.add(f"br i1 {more}, label %{head}, label %{done}")
    code.label(done)
    return code.value(f"phi i64 [ 0, %{before} ], [ {sum_name}, %{head} ]")
