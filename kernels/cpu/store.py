"""Writes results: whole vectors where every record stays, compacted where a filter drops some.

Compaction permutes the kept lanes of a register to its front and stores the whole register, so the next store
overwrites the rest (as in Lemire and others' "left packing"); result buffers therefore have slack for one vector.
AVX-512 has an instruction for that (its form that writes memory is not used: Zen 4 runs it as slow microcode),
AVX2 permutes by a table. CPUs without a lane permutation get a store a lane that advances by the flag, without a
branch. Bits are appended to a bitmap with a parallel bit extract (BMI2 ``pext``) or its loop.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataflare.kernels.llvm.emit import Code, Emitter

__all__ = [
    "Mask",
    "append_bits",
    "compact",
    "compact_bits",
    "mask_of",
    "permutation_tables",
    "popcount_flags",
    "store_bits",
    "store_vector",
]


@dataclass(frozen=True)
class Mask:
    """Which lanes of a group are kept: as flags, as an integer with a bit a lane, and how many."""

    flags: str
    bits: str
    count: str


def permutation_tables() -> list[str]:
    """Return the tables that move kept lanes to the front: 4 lanes of 64 bits, 8 lanes of 32 bits."""
    quads = []
    for mask in range(16):
        kept = [lane for lane in range(4) if mask >> lane & 1]
        order = kept + [lane for lane in range(4) if lane not in kept]
        quads.append("<8 x i32> <" + ", ".join(f"i32 {2 * lane}, i32 {2 * lane + 1}" for lane in order) + ">")
    octets = []
    for mask in range(256):
        kept = [lane for lane in range(8) if mask >> lane & 1]
        order = kept + [lane for lane in range(8) if lane not in kept]
        octets.append("<8 x i8> <" + ", ".join(f"i8 {lane}" for lane in order) + ">")
    return [
        f"@order4 = private unnamed_addr constant [16 x <8 x i32>] [{', '.join(quads)}], align 32",
        f"@order8 = private unnamed_addr constant [256 x <8 x i8>] [{', '.join(octets)}], align 8",
    ]


def store_vector(
    emitter: Emitter, value: str, element: str, base: str, index: str, *, streaming: bool
) -> None:
    """Store a group at record ``index``; ``streaming`` bypasses the caches and needs 64-byte alignment."""
    code = emitter.code
    address = code.value(f"getelementptr {element}, ptr {base}, i64 {index}")
    size_bits = {"half": 16, "float": 32, "double": 64}.get(element) or int(element[1:])
    hint = f"align {min(64, emitter.lanes * size_bits // 8)}, !nontemporal !0" if streaming else "align 1"
    code.add(f"store {emitter.type_of(element)} {value}, ptr {address}, {hint}")


def store_bits(emitter: Emitter, flags: str, base: str, index: str) -> None:
    """Store a group of flags as bits at record ``index``, a multiple of 8."""
    code, lanes = emitter.code, emitter.lanes
    bits = code.value(f"bitcast <{lanes} x i1> {flags} to i{lanes}")
    byte = code.value(f"lshr i64 {index}, 3")
    address = code.value(f"getelementptr i8, ptr {base}, i64 {byte}")
    code.add(f"store i{lanes} {bits}, ptr {address}, align 1")


def append_bits(code: Code, base: str, position: str, bits: str, *, single: bool = False) -> None:
    """Write up to 8 bits (an i64 with nothing above them) at bit ``position``; bits before it stay.

    A ``single`` bit touches one byte only, as the next one may belong to another thread.
    """
    byte = code.value(f"lshr i64 {position}, 3")
    address = code.value(f"getelementptr i8, ptr {base}, i64 {byte}")
    shift = code.value(f"and i64 {position}, 7")
    old = code.value(f"load i8, ptr {address}, align 1")
    old = code.value(f"zext i8 {old} to i64")
    keep = code.value(f"shl i64 -1, {shift}")
    keep = code.value(f"xor i64 {keep}, -1")
    old = code.value(f"and i64 {old}, {keep}")
    new = code.value(f"shl i64 {bits}, {shift}")
    new = code.value(f"or i64 {old}, {new}")
    width = "i8" if single else "i16"
    new = code.value(f"trunc i64 {new} to {width}")
    code.add(f"store {width} {new}, ptr {address}, align 1")


def compact(emitter: Emitter, mask: Mask, value: str, element: str, base: str, index: str) -> None:
    """Store the kept lanes of a group one after the other from record ``index`` on."""
    code, lanes = emitter.code, emitter.lanes
    size_bits = 128 if element == "i128" else int(element[1:]) if element[0] == "i" else 0
    if lanes == 1:
        address = code.value(f"getelementptr {element}, ptr {base}, i64 {index}")
        code.add(f"store {element} {value}, ptr {address}, align 1")
    elif emitter.target.has_compress and size_bits <= 64:
        _compact_compressing(emitter, mask, value, element, size_bits, base, index)
    elif emitter.target.has_permute and size_bits <= 64:
        _compact_permuting(emitter, mask, value, element, size_bits, base, index)
    else:
        position = index
        vector = emitter.type_of(element)
        for lane in range(lanes):
            one = code.value(f"extractelement {vector} {value}, i64 {lane}")
            address = code.value(f"getelementptr {element}, ptr {base}, i64 {position}")
            code.add(f"store {element} {one}, ptr {address}, align 1")
            kept = code.value(f"extractelement <{lanes} x i1> {mask.flags}, i64 {lane}")
            step = code.value(f"zext i1 {kept} to i64")
            position = code.value(f"add i64 {position}, {step}")


def _compact_compressing(
    emitter: Emitter, mask: Mask, value: str, element: str, size_bits: int, base: str, index: str
) -> None:
    """Compact by the instruction; 8 and 16 bits are widened where it has no such form.

    In halves of registers: a store of 64 bytes at any place always crosses a cache line.
    """
    code, lanes = emitter.code, emitter.lanes
    # The shortest register has 128 bits, and there may be as few as 8 lanes.
    lane_bits = max(size_bits, 128 // lanes if emitter.target.has_short_compress else 32)
    width = min(lanes, 256 // lane_bits)
    vector, flags = f"<{width} x i{lane_bits}>", f"<{width} x i1>"
    name = f"llvm.x86.avx512.mask.compress.v{width}i{lane_bits}"
    code.declare(f"declare {vector} @{name}({vector}, {vector}, {flags})")
    position = index
    for start in range(0, lanes, width):
        part = emitter.part(value, element, start, width)
        if lane_bits != size_bits:
            part = code.value(f"zext <{width} x {element}> {part} to {vector}")
        kept = emitter.part(mask.flags, "i1", start, width)
        packed = code.value(
            f"call {vector} @{name}({vector} {part}, {vector} zeroinitializer, {flags} {kept})"
        )
        if lane_bits != size_bits:
            packed = code.value(f"trunc {vector} {packed} to <{width} x {element}>")
        address = code.value(f"getelementptr {element}, ptr {base}, i64 {position}")
        code.add(f"store <{width} x {element}> {packed}, ptr {address}, align 1")
        if start + width < lanes:
            bits = mask.bits if start == 0 else code.value(f"lshr i64 {mask.bits}, {start}")
            bits = code.value(f"and i64 {bits}, {2**width - 1}")
            position = code.value(f"add i64 {position}, {_popcount(code, bits)}")


def _compact_permuting(
    emitter: Emitter, mask: Mask, value: str, element: str, size_bits: int, base: str, index: str
) -> None:
    code = emitter.code
    width = 4 if size_bits == 64 else 8
    code.declare("declare <8 x i32> @llvm.x86.avx2.permd(<8 x i32>, <8 x i32>)")
    position = index
    for start in range(0, emitter.lanes, width):
        part = emitter.part(value, element, start, width)
        bits = mask.bits if start == 0 else code.value(f"lshr i64 {mask.bits}, {start}")
        bits = code.value(f"and i64 {bits}, {2**width - 1}")
        if size_bits == 64:
            row = code.value(f"getelementptr <8 x i32>, ptr @order4, i64 {bits}")
            order = code.value(f"load <8 x i32>, ptr {row}, align 32")
            lanes = code.value(f"bitcast <4 x {element}> {part} to <8 x i32>")
        else:
            row = code.value(f"getelementptr <8 x i8>, ptr @order8, i64 {bits}")
            small = code.value(f"load <8 x i8>, ptr {row}, align 8")
            order = code.value(f"zext <8 x i8> {small} to <8 x i32>")
            lanes = part if size_bits == 32 else code.value(f"zext <8 x {element}> {part} to <8 x i32>")
        packed = code.value(f"call <8 x i32> @llvm.x86.avx2.permd(<8 x i32> {lanes}, <8 x i32> {order})")
        address = code.value(f"getelementptr {element}, ptr {base}, i64 {position}")
        if size_bits == 64 or size_bits == 32:
            code.add(f"store <8 x i32> {packed}, ptr {address}, align 1")
        else:
            packed = code.value(f"trunc <8 x i32> {packed} to <8 x {element}>")
            code.add(f"store <8 x {element}> {packed}, ptr {address}, align 1")
        if start + width < emitter.lanes:
            count = _popcount(code, bits)
            position = code.value(f"add i64 {position}, {count}")


def _popcount(code: Code, bits: str) -> str:
    code.declare("declare i64 @llvm.ctpop.i64(i64)")
    return code.value(f"call i64 @llvm.ctpop.i64(i64 {bits})")


def mask_of(emitter: Emitter, flags: str) -> Mask:
    """Return a mask with its bits and their number."""
    code = emitter.code
    if emitter.lanes == 1:
        bits = code.value(f"zext i1 {flags} to i64")
        return Mask(flags, bits, bits)
    narrow = code.value(f"bitcast <{emitter.lanes} x i1> {flags} to i{emitter.lanes}")
    bits = code.value(f"zext i{emitter.lanes} {narrow} to i64")
    return Mask(flags, bits, _popcount(code, bits))


def compact_bits(emitter: Emitter, mask: Mask, flags: str, base: str, index: str) -> str:
    """Append the kept flags of a group to a bitmap at record ``index``; return how many of them are set."""
    code, lanes = emitter.code, emitter.lanes
    if lanes == 1:
        bits = code.value(f"zext i1 {flags} to i64")
        bits = code.value(f"and i64 {bits}, {mask.bits}")
        append_bits(code, base, index, bits)
        return bits
    narrow = code.value(f"bitcast <{lanes} x i1> {flags} to i{lanes}")
    all_bits = code.value(f"zext i{lanes} {narrow} to i64")
    position = index
    for start in range(0, lanes, 8):
        source, chosen = all_bits, mask.bits
        if start:
            source = code.value(f"lshr i64 {all_bits}, {start}")
            chosen = code.value(f"lshr i64 {mask.bits}, {start}")
        chosen = code.value(f"and i64 {chosen}, 255")
        append_bits(code, base, position, _extract(emitter, source, chosen))
        if start + 8 < lanes:
            position = code.value(f"add i64 {position}, {_popcount(code, chosen)}")
    return _popcount(code, code.value(f"and i64 {all_bits}, {mask.bits}"))


def _extract(emitter: Emitter, source: str, chosen: str) -> str:
    """Return the bits of ``source`` that ``chosen`` marks, packed to the low end (8 bits)."""
    code = emitter.code
    if emitter.target.has_bit_extract:
        code.declare("declare i64 @llvm.x86.bmi.pext.64(i64, i64)")
        return code.value(f"call i64 @llvm.x86.bmi.pext.64(i64 {source}, i64 {chosen})")
    packed, position = "0", "0"
    for bit in range(8):
        wanted = code.value(f"lshr i64 {chosen}, {bit}")
        wanted = code.value(f"and i64 {wanted}, 1")
        value = code.value(f"lshr i64 {source}, {bit}")
        value = code.value(f"and i64 {value}, {wanted}")
        value = code.value(f"shl i64 {value}, {position}")
        packed = code.value(f"or i64 {packed}, {value}")
        position = code.value(f"add i64 {position}, {wanted}")
    return packed


def popcount_flags(emitter: Emitter, flags: str) -> str:
    """Return how many lanes of a group of flags are set, as i64."""
    return mask_of(emitter, flags).count
