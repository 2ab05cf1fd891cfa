"""LLVM loops that compare or measure eight strings at once, around the functions of ``strings`` for one.

A comparison with a short literal needs no loop over bytes: the first (or last) bytes of eight strings are gathered
into registers, shifted and masked, and compared with the literal as a number. Lengths are differences of offsets
as long as the eight strings are ASCII, which their bytes, being side by side, tell together. What is left over at
the end, and strings that are not so, go to the function for one. Not covered, and one by one: ``<``, ``in``, longer
literals, two columns; and string views but for equality with what a view holds inline.
"""

from __future__ import annotations

from collections.abc import Sequence

from dataflare.kernels.llvm.emit import Code
from dataflare.kernels.llvm.layout import ColumnForm
from dataflare.kernels.udf.ir import StringOp

__all__ = ["grouped_function", "takes_groups"]

_LANES = 8
_MAX_LITERAL_BYTES = 16
_MAX_INLINE_BYTES = 12
_ALL = "<8 x i1> splat (i1 true)"
_OFFSET_FORMS = (ColumnForm.STRING32, ColumnForm.STRING64)


def takes_groups(op: StringOp, forms: Sequence[ColumnForm | None]) -> bool:
    """Return whether an operation on columns of these forms (None for a literal) is done in groups."""
    if op.name == "length":
        return forms[0] in _OFFSET_FORMS
    if op.name not in ("eq", "startswith", "endswith") or forms[1] is not None:
        return False
    size = len(_literal(op))
    if forms[0] is ColumnForm.VIEW:
        return op.name == "eq" and size <= _MAX_INLINE_BYTES
    return forms[0] in _OFFSET_FORMS and size <= _MAX_LITERAL_BYTES


def _literal(op: StringOp) -> bytes:
    text = op.leaves[1].text
    assert text is not None
    return text.encode()


def grouped_function(name: str, rest: str, op: StringOp, form: ColumnForm) -> tuple[str, list[str]]:
    """Return the LLVM function ``name`` and its declarations; ``rest`` is the function for one string.

    Both have the signature that ``strings`` says.
    """
    code = Code()
    code.label("entry")
    code.add(f"%whole = and i64 %rows, -{_LANES}")
    some = code.value("icmp ne i64 %whole, 0")
    code.add(f"br i1 {some}, label %groups, label %leftover")  # fewer rows may have no offsets at all
    code.label("groups")
    for slot in (2, 3):
        address = code.value(f"getelementptr i64, ptr %column0, i64 {slot}")
        code.add(f"%slot{slot} = load i64, ptr {address}, align 8")
        code.add(f"%place{slot} = inttoptr i64 %slot{slot} to ptr")
    end = "%whole"
    if form in _OFFSET_FORMS:
        last = _offset_at(code, form, code.value("add i64 %first, %rows"))
        code.add(f"%last = add i64 {last}, 0")
        room = code.value(f"icmp uge i64 %last, {_gathered_bytes(op)}")
        end = code.value(f"select i1 {room}, i64 %whole, i64 0")
    code.add("br label %head")
    code.label("head")
    phi = len(code.lines)
    more = code.value(f"icmp ult i64 %i, {end}")
    code.add(f"br i1 {more}, label %body, label %leftover")
    code.label("body")
    code.add("%row = add i64 %first, %i")
    if op.name == "length":
        _lengths(code, op, form, rest)
    else:
        flags = _inline_equal(code, op) if form is ColumnForm.VIEW else _literal_at(code, op, form)
        bytes_ = code.value(f"zext <8 x i1> {flags} to <8 x i8>")
        target = code.value("getelementptr i8, ptr %out, i64 %i")
        code.add(f"store <8 x i8> {bytes_}, ptr {target}, align 1")
    code.add(f"%following = add i64 %i, {_LANES}")
    code.lines.insert(phi, f"  %i = phi i64 [ 0, %groups ], [ %following, %{code.block} ]")
    code.add("br label %head")
    code.label("leftover")
    code.add("%done = phi i64 [ 0, %entry ], [ %i, %head ]")
    _call_rest(code, op, rest, "%done", code.value("sub i64 %rows, %done"))
    code.add("ret void")
    head = f"define void @{name}(ptr %column0, ptr %column1, i64 %first, i64 %rows, ptr noalias %out) #0 {{"
    return "\n".join([head, *code.lines, "}"]), list(code.declarations)


def _gathered_bytes(op: StringOp) -> int:
    """Return how many bytes one gather of a lane reads."""
    return 8 if op.name == "length" or len(_literal(op)) > 4 else 4


def _call_rest(code: Code, op: StringOp, rest: str, start: str, count: str) -> None:
    """Let the function for one string do ``count`` rows from the row ``start`` of these."""
    row = code.value(f"add i64 %first, {start}")
    element = "i64" if op.name == "length" else "i8"
    target = code.value(f"getelementptr {element}, ptr %out, i64 {start}")
    code.add(f"call void @{rest}(ptr %column0, ptr %column1, i64 {row}, i64 {count}, ptr {target})")


def _offset_at(code: Code, form: ColumnForm, row: str) -> str:
    """Return one offset, as i64."""
    width = "i32" if form is ColumnForm.STRING32 else "i64"
    address = code.value(f"getelementptr {width}, ptr %place2, i64 {row}")
    offset = code.value(f"load {width}, ptr {address}, align 1")
    return offset if width == "i64" else code.value(f"zext i32 {offset} to i64")


def _offsets(code: Code, form: ColumnForm) -> tuple[str, str]:
    """Return where the strings of a group begin and end in the bytes, as <8 x i64>."""
    width = "i32" if form is ColumnForm.STRING32 else "i64"
    found = []
    for shift in (0, 1):
        row = code.value(f"add i64 %row, {shift}")
        address = code.value(f"getelementptr {width}, ptr %place2, i64 {row}")
        offsets = code.value(f"load <8 x {width}>, ptr {address}, align 1")
        found.append(offsets if width == "i64" else code.value(f"zext <8 x i32> {offsets} to <8 x i64>"))
    return found[0], found[1]


def _literal_at(code: Code, op: StringOp, form: ColumnForm) -> str:
    """Return which strings of a group are, begin or end with the literal."""
    literal = _literal(op)
    starts, ends = _offsets(code, form)
    sizes = code.value(f"sub <8 x i64> {ends}, {starts}")
    order = "eq" if op.name == "eq" else "uge"
    fits = code.value(f"icmp {order} <8 x i64> {sizes}, splat (i64 {len(literal)})")
    if not literal:
        return fits
    if op.name == "endswith":
        starts = code.value(f"sub <8 x i64> {ends}, splat (i64 {len(literal)})")
    places = code.value(f"select <8 x i1> {fits}, <8 x i64> {starts}, <8 x i64> zeroinitializer")
    result = fits
    for begin in (0,) if len(literal) <= 8 else (0, len(literal) - 8):  # the second may overlap the first
        here = code.value(f"add <8 x i64> {places}, splat (i64 {begin})") if begin else places
        piece = literal[begin : begin + 8]
        same = _bytes_equal(code, here, piece, _gathered_bytes(op))
        result = code.value(f"and <8 x i1> {result}, {same}")
    return result


def _bytes_equal(code: Code, places: str, piece: bytes, width: int) -> str:
    """Return where the bytes at ``places`` are ``piece``; never reads past the last string."""
    element, bits = f"i{8 * width}", 8 * width
    vector = f"<8 x {element}>"
    limit = code.value(f"sub i64 %last, {width}")
    one = code.value(f"insertelement <8 x i64> poison, i64 {limit}, i64 0")
    limits = code.value(f"shufflevector <8 x i64> {one}, <8 x i64> poison, <8 x i32> zeroinitializer")
    code.declare("declare <8 x i64> @llvm.umin.v8i64(<8 x i64>, <8 x i64>)")
    inside = code.value(f"call <8 x i64> @llvm.umin.v8i64(<8 x i64> {places}, <8 x i64> {limits})")
    addresses = code.value(f"getelementptr i8, ptr %place3, <8 x i64> {inside}")
    gather = f"@llvm.masked.gather.v8{element}.v8p0"
    code.declare(f"declare {vector} {gather}(<8 x ptr>, i32, <8 x i1>, {vector})")
    found = code.value(f"call {vector} {gather}(<8 x ptr> {addresses}, i32 1, {_ALL}, {vector} poison)")
    skipped = code.value(f"sub <8 x i64> {places}, {inside}")
    skipped = code.value(f"shl <8 x i64> {skipped}, splat (i64 3)")
    skipped = code.value(f"and <8 x i64> {skipped}, splat (i64 {bits - 1})")  # more only where nothing fits
    if width == 4:
        skipped = code.value(f"trunc <8 x i64> {skipped} to {vector}")
    found = code.value(f"lshr {vector} {found}, {skipped}")
    mask = (1 << (8 * len(piece))) - 1
    found = code.value(f"and {vector} {found}, splat ({element} {_signed(mask, bits)})")
    wanted = _signed(int.from_bytes(piece, "little"), bits)
    return code.value(f"icmp eq {vector} {found}, splat ({element} {wanted})")


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def _inline_equal(code: Code, op: StringOp) -> str:
    """Return which string views of a group hold the literal: size, four bytes and eight more bytes inline."""
    literal = _literal(op)
    address = code.value("getelementptr [16 x i8], ptr %place2, i64 %row")
    words = code.value(f"load <16 x i64>, ptr {address}, align 1")
    result = ""
    padded = len(literal).to_bytes(4, "little") + literal.ljust(_MAX_INLINE_BYTES, b"\0")
    relevant = b"\xff" * (4 + len(literal)) + b"\0" * (_MAX_INLINE_BYTES - len(literal))
    for half in (0, 1):
        lanes = ", ".join(f"i32 {2 * lane + half}" for lane in range(_LANES))
        word = code.value(f"shufflevector <16 x i64> {words}, <16 x i64> poison, <8 x i32> <{lanes}>")
        wanted, mask = (
            _signed(int.from_bytes(data[8 * half : 8 * half + 8], "little"), 64)
            for data in (padded, relevant)
        )
        word = code.value(f"and <8 x i64> {word}, splat (i64 {mask})")
        same = code.value(f"icmp eq <8 x i64> {word}, splat (i64 {wanted})")
        result = same if not result else code.value(f"and <8 x i1> {result}, {same}")
    return result


def _lengths(code: Code, op: StringOp, form: ColumnForm, rest: str) -> None:
    """Store the code points of a group: its bytes if all are ASCII, else what the function for one counts."""
    first = _offset_at(code, form, "%row")
    end = _offset_at(code, form, code.value(f"add i64 %row, {_LANES}"))
    before = code.block
    scan, step, tail, ascii_, other, done = (
        code.fresh_label(stem) for stem in ("scan", "step", "tail", "ascii", "other", "measured")
    )
    code.add(f"br label %{scan}")
    code.label(scan)
    place, bits, following, all_bits = (code.name(stem) for stem in ("place", "bits", "place", "bits"))
    code.add(f"{place} = phi i64 [ {first}, %{before} ], [ {following}, %{step} ]")
    code.add(f"{bits} = phi i64 [ 0, %{before} ], [ {all_bits}, %{step} ]")
    code.add(f"{following} = add i64 {place}, 8")
    whole = code.value(f"icmp ule i64 {following}, {end}")
    code.add(f"br i1 {whole}, label %{step}, label %{tail}")
    code.label(step)
    word = _word_at(code, place)
    code.add(f"{all_bits} = or i64 {bits}, {word}")
    code.add(f"br label %{scan}")
    # The last word may begin in the strings before: at worst the group is counted one by one.
    code.label(tail)
    enough = code.value(f"icmp uge i64 {end}, 8")
    back = code.value(f"sub i64 {end}, 8")
    back = code.value(f"select i1 {enough}, i64 {back}, i64 0")
    total = code.value(f"or i64 {bits}, {_word_at(code, back)}")
    high = code.value(f"and i64 {total}, {_signed(0x8080808080808080, 64)}")
    plain = code.value(f"icmp eq i64 {high}, 0")
    code.add(f"br i1 {plain}, label %{ascii_}, label %{other}")
    code.label(ascii_)
    starts, ends = _offsets(code, form)
    sizes = code.value(f"sub <8 x i64> {ends}, {starts}")
    target = code.value("getelementptr i64, ptr %out, i64 %i")
    code.add(f"store <8 x i64> {sizes}, ptr {target}, align 1")
    code.add(f"br label %{done}")
    code.label(other)
    _call_rest(code, op, rest, "%i", str(_LANES))
    code.add(f"br label %{done}")
    code.label(done)


def _word_at(code: Code, place: str) -> str:
    address = code.value(f"getelementptr i8, ptr %place3, i64 {place}")
    return code.value(f"load i64, ptr {address}, align 1")
