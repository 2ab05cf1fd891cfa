"""The generated code: it is made of vector instructions, and every way of writing results gives the same ones.

Equality with the plain-Python device is tested elsewhere, on random programs. Here each path of the generator
is forced: CPUs with less than this one has, every width of column, every form of string.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from chains.running import compiled_for

from dataflare.kernels.backend import InputBlock, compile_program
from dataflare.kernels.cpu import jit
from dataflare.kernels.cpu.codegen import SELECTION_BLOCK_ROWS, generate
from dataflare.kernels.cpu.fused import CpuProgram
from dataflare.kernels.cpu.target import host_target, level_target
from dataflare.kernels.errors import SchemaError
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.memory.column import HostColumn
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, Stage

ROWS = 1003  # not a multiple of any vector


def run(stages: Sequence[Stage], table: pa.RecordBatch, target: Target) -> pa.Table:
    program = build_program(stages, table.schema)
    columns = [HostColumn.from_arrow(table.column(name)) for name in program.required_columns]
    result = compiled_for(program, target).run(columns, len(table))
    out = pa.table([c.to_arrow() for c in result.columns], schema=program.output_schema)
    out.validate(full=True)
    assert result.num_rows == len(out)
    return out


def random_column(kind: pa.DataType, rng: np.random.Generator, *, nulls: bool) -> pa.Array[Any]:
    mask = rng.random(ROWS) < 0.3 if nulls else None
    if pa.types.is_boolean(kind):
        return pa.array(rng.random(ROWS) < 0.5, mask=mask)
    if pa.types.is_decimal(kind):
        import decimal

        values = [decimal.Decimal(int(x)).scaleb(-2) for x in rng.integers(-(10**9), 10**9, ROWS)]
        return pa.array([None if nulls and mask[i] else v for i, v in enumerate(values)], kind)
    integers = pa.array(rng.integers(0, 100, ROWS), mask=mask)
    if pa.types.is_floating(kind):
        return integers.cast(pa.float64()).cast(kind)
    if kind == pa.date64():
        return integers.cast(pa.int32()).cast(pa.date32()).cast(kind)
    if pa.types.is_temporal(kind):
        width = pa.int32() if kind.bit_width == 32 else pa.int64()
        return integers.cast(width).cast(kind)
    return integers.cast(kind)


WIDTHS = [
    pa.bool_(), pa.int8(), pa.uint8(), pa.int16(), pa.uint16(), pa.int32(), pa.uint32(), pa.int64(), pa.uint64(),
    pa.float16(), pa.float32(), pa.float64(), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("ns"),
    pa.timestamp("us"), pa.duration("ms"), pa.decimal128(18, 2), pa.decimal128(38, 2),
]  # fmt: skip


@pytest.mark.parametrize("nulls", [False, True], ids=["dense", "nulls"])
@pytest.mark.parametrize("kind", WIDTHS, ids=str)
def test_kept_values_of_every_width_move_together(kind: pa.DataType, nulls: bool, target: Target) -> None:
    rng = np.random.default_rng(1)
    key = pa.array(rng.integers(0, 10, ROWS))
    batch = pa.record_batch({"key": key, "value": random_column(kind, rng, nulls=nulls)}).slice(5)
    out = run([FilterStage(lambda r: r.key < 6)], batch, target)
    mask = pa.array(batch["key"].to_numpy() < 6)
    assert out["value"].combine_chunks().equals(batch["value"].filter(mask))


def test_float16_is_converted_on_any_cpu(target: Target) -> None:
    halves = pa.array(np.arange(ROWS, dtype=np.float16) / 2)
    batch = pa.record_batch({"x": halves})
    out = run([MapStage(lambda r: {"y": r.x * 2})], batch, target)
    assert out["y"].to_pylist() == list(range(ROWS))


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
def test_any_share_of_records_can_be_kept(share: float, target: Target) -> None:
    keep = np.random.default_rng(2).random(ROWS) < share
    batch = pa.record_batch({"keep": pa.array(keep), "x": pa.array(np.arange(ROWS))})
    out = run([FilterStage(lambda r: r.keep), MapStage(lambda r: {"x": r.x, "y": r.x * 2.0})], batch, target)
    assert out["x"].to_pylist() == np.arange(ROWS)[keep].tolist()
    assert out["y"].to_pylist() == (np.arange(ROWS)[keep] * 2.0).tolist()


@pytest.mark.parametrize("nulls", [False, True], ids=["dense", "nulls"])
def test_the_share_kept_may_change_from_block_to_block(nulls: bool, target: Target) -> None:
    rng = np.random.default_rng(8)
    block = SELECTION_BLOCK_ROWS
    shares = [0.5, 0.0, 0.001, 0.9, 0.01, 1.0, 0.0, 0.3]
    rows = len(shares) * block + 13
    share = np.append(np.repeat(shares, block), [0.5] * 13)
    keep = rng.random(rows) < share
    mask = rng.random(rows) < 0.1 if nulls else np.zeros(rows, bool)
    batch = pa.record_batch(
        {
            "keep": pa.array(keep.astype(np.int64), mask=mask),
            "n": pa.array(np.arange(rows)),
            "b": pa.array(np.arange(rows) % 3 == 0, mask=mask),
        }
    )
    stages: list[Stage] = [FilterStage(lambda r: r.keep == 1), MapStage(lambda r: {"n": r.n, "b": r.b})]
    result = run(stages, batch, target)
    assert result["n"].to_pylist() == np.flatnonzero(keep & ~mask).tolist()
    assert result["b"].to_pylist() == (np.flatnonzero(keep & ~mask) % 3 == 0).tolist()


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 1023, 1024, 1025, 2050])
@pytest.mark.parametrize("offset", [0, 1, 3, 8])
def test_batches_of_any_length_at_any_offset(rows: int, offset: int) -> None:
    rng = np.random.default_rng(rows)
    size = rows + offset
    batch = pa.record_batch(
        {
            "x": pa.array(rng.integers(0, 100, size), mask=rng.random(size) < 0.3),
            "f": pa.array(rng.random(size) < 0.5, mask=rng.random(size) < 0.3),
            "s": pa.array([None if i % 5 == 0 else "ab"[: i % 3] for i in range(size)], pa.string()),
        }
    ).slice(offset)
    out = run(
        [
            FilterStage(lambda r: r.x is None or r.x > 20),
            MapStage(lambda r: {"y": r.x + 1, "g": not r.f, "n": len(r.s), "s": r.s}),
        ],
        batch,
        host_target(),
    )
    expected = [
        {
            "y": None if r["x"] is None else r["x"] + 1,
            "g": None if r["f"] is None else not r["f"],
            "n": None if r["s"] is None else len(r["s"]),
            "s": r["s"],
        }
        for r in batch.to_pylist()
        if r["x"] is None or r["x"] > 20
    ]
    assert out.to_pylist() == expected


TEXTS = [None, "", "a", "apple", "grüße aus köln", "zwölf zeichen und mehr", "apple pie", "APPLE", "日本語"]
STRINGS = [
    pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()),
    pa.dictionary(pa.uint8(), pa.string()), pa.dictionary(pa.int16(), pa.large_string()),
]  # fmt: skip


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_strings_of_every_form(kind: pa.DataType) -> None:
    rng = np.random.default_rng(3)
    texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), ROWS)]
    other = [TEXTS[i] for i in rng.integers(0, len(TEXTS), ROWS)]
    batch = pa.record_batch({"s": pa.array(texts, pa.string()).cast(kind), "t": pa.array(other)}).slice(3)
    out = run(
        [
            MapStage(
                lambda r: {
                    "eq": r.s == "apple",
                    "lt": r.s < "b",
                    "gt": "b" < r.s,  # noqa: SIM300
                    "starts": r.s.startswith("app"),
                    "ends": r.s.endswith(("köln", "pie")),
                    "has": "ü" in r.s,
                    "any": r.s in ("a", "", "日本語"),
                    "len": len(r.s),
                    "same": r.s == r.t,
                    "pick": r.s if r.s != "apple" else "fruit",
                }
            )
        ],
        batch,
        host_target(),
    )
    for row, s, t in zip(out.to_pylist(), texts[3:], other[3:], strict=True):
        if s is None:
            assert row.pop("pick") == "fruit"  # a null condition is false
            assert set(row.values()) == {None}
            continue
        assert row == {
            "eq": s == "apple",
            "lt": s < "b",
            "gt": s > "b",
            "starts": s.startswith("app"),
            "ends": s.endswith(("köln", "pie")),
            "has": "ü" in s,
            "any": s in ("a", "", "日本語"),
            "len": len(s),
            "same": None if t is None else s == t,
            "pick": s if s != "apple" else "fruit",
        }


def test_a_null_inside_a_dictionary_is_null() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None, 1]), pa.array(["a", None, "b"]))
    out = run([MapStage(lambda r: {"x": r.s == "a"})], pa.record_batch({"s": column}), host_target())
    assert out["x"].to_pylist() == [True, None, False, None, None]


def test_columns_that_code_cannot_move_are_filtered_with_the_rest() -> None:
    batch = pa.record_batch(
        {
            "k": pa.array(range(20)),
            "list": pa.array([[i] for i in range(20)]),
            "struct": pa.array([{"a": i} for i in range(20)]),
            "view": pa.array([f"text number {i} that is long" for i in range(20)], pa.string_view()),
            "blob": pa.array([bytes([i]) * 5 for i in range(20)], pa.binary(5)),
            "nothing": pa.nulls(20),
        }
    )
    out = run([FilterStage(lambda r: r.k % 3 == 0)], batch, host_target())
    assert out.to_pylist() == [r for r in batch.to_pylist() if r["k"] % 3 == 0]


def test_a_column_that_is_only_passed_on_is_not_copied() -> None:
    batch = pa.record_batch({"x": pa.array([1.0, 2.0]), "s": pa.array(["a", "b"])})
    program = build_program([MapStage(lambda r: {"s": r.s, "x": r.x, "y": r.x * 2})], batch.schema)
    columns = [HostColumn.from_arrow(batch.column(n)) for n in program.required_columns]
    result = compiled_for(program, host_target()).run(columns, 2)
    assert result.columns[0] is columns[program.required_columns.index("s")]
    assert result.columns[1] is columns[program.required_columns.index("x")]


def test_nulls_dropped_by_a_condition_are_counted_apart_from_false() -> None:
    batch = pa.record_batch(
        {"x": pa.array([1, None, 5, None, 2] * 7), "y": pa.array([1, 1, None, None, 9] * 7)}
    )
    program = build_program([FilterStage(lambda r: r.x > 1), FilterStage(lambda r: r.y > 1)], batch.schema)
    columns = [HostColumn.from_arrow(batch.column(n)) for n in program.required_columns]
    result = compiled_for(program, host_target()).run(columns, len(batch))
    assert result.num_rows == 7
    assert result.rows_dropped_null_predicate == 7 * 3  # two null x, and one null y among those with x > 1


def test_pieces_of_one_result_fit_together() -> None:
    rng = np.random.default_rng(4)
    batch = pa.record_batch({"x": pa.array(rng.random(1000), mask=np.arange(1000) // 200 == 1)})
    program = build_program([MapStage(lambda r: {"y": r.x * 2, "big": r.x > 0.5})], batch.schema)
    code = compiled_for(program, host_target())
    ends = (128, 640, 1000)
    blocks = [
        InputBlock((HostColumn.from_arrow(batch.column("x").slice(start, end - start)),), end - start)
        for start, end in zip((0, *ends), ends, strict=False)
    ]
    shared = code.share(blocks)
    assert shared is not None
    worker = shared.worker()
    while worker.work(64)[0]:
        pass
    whole = pa.table([c.to_arrow() for c in shared.result().columns], schema=program.output_schema)
    whole.validate(full=True)
    assert whole.equals(run([MapStage(lambda r: {"y": r.x * 2, "big": r.x > 0.5})], batch, host_target()))


def test_a_result_does_not_depend_on_where_a_record_stands() -> None:
    values = np.random.default_rng(5).uniform(0.1, 50, ROWS)
    batch = pa.record_batch({"x": pa.array(values)})
    stages = [MapStage(lambda r: {"y": math.log1p(r.x) ** 1.7 + math.sin(r.x)})]
    program = build_program(stages, batch.schema)
    code = compiled_for(program, host_target())
    column = HostColumn.from_arrow(batch.column("x"))
    whole = code.run([column], ROWS).columns[0].to_arrow().to_pylist()
    one_by_one = [
        code.run([column.slice(i, 1)], 1).columns[0].to_arrow()[0].as_py() for i in range(0, ROWS, 10)
    ]
    assert whole[::10] == one_by_one


FUNCTIONS = {
    "exp": math.exp, "log": math.log, "sin": math.sin, "cos": math.cos, "tan": math.tan, "asinh": math.asinh,
    "atan": math.atan, "tanh": math.tanh, "log1p": math.log1p, "log2": math.log2, "cbrt": math.cbrt, "erf": math.erf,
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_exact_math_is_that_of_the_c_library(name: str) -> None:
    function = FUNCTIONS[name]
    values = np.random.default_rng(7).uniform(0.01, 30, ROWS)
    program = build_program([MapStage(lambda r: {"y": function(r.x)})], pa.schema([("x", pa.float64())]))
    code = compile_program(program, math="exact")
    assert isinstance(code, CpuProgram)
    assert "_ZGV" not in code.source()
    got = code.run([HostColumn.from_arrow(pa.array(values))], ROWS).columns[0].to_arrow().to_pylist()
    assert got == [function(x) for x in values]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_float32_math_is_within_4_units_of_the_last_place(name: str, target: Target) -> None:
    function = FUNCTIONS[name]
    values = np.random.default_rng(8).uniform(0.01, 30, ROWS).astype(np.float32)
    batch = pa.record_batch({"x": pa.array(values)})
    got = run([MapStage(lambda r: {"y": function(r.x)})], batch, target)["y"].to_numpy()
    assert got.dtype == np.float32
    right = np.array([function(float(x)) for x in values])
    assert np.max(np.abs(got - right) / np.spacing(np.abs(right.astype(np.float32)))) <= 4.0


FLOAT32_MATH = build_program(
    [MapStage(lambda r: {"y": math.exp(r.x), "z": math.pow(r.x, r.x)})], pa.schema([("x", pa.float32())])
)


def test_float32_math_fills_registers_with_float32() -> None:
    target = level_target("x86-64-v4")
    text = generate(FLOAT32_MATH, target).text
    assert "_ZGV" not in text
    assert re.search(r"\tvfn?madd\d+ps\s.*%zmm", jit.assembly(text, target))


def test_float32_math_of_libmvec_fills_registers_with_float32() -> None:
    target = level_target("x86-64")
    if "exp" not in target.vector_math32:
        pytest.skip("this C library has no vector math")
    symbols = set(re.findall(r"_ZGV\w+", generate(FLOAT32_MATH, target).text))
    assert symbols == {"_ZGVbN4v_expf", "_ZGVbN4vv_powf"}


def program_of(*stages: Stage) -> RecordProgram:
    schema = pa.schema(
        [("price", pa.float64()), ("qty", pa.float64()), ("n", pa.int64()), ("s", pa.string())]
    )
    return build_program(stages, schema)


def branchy(r: Any) -> Any:
    x = r.price
    if x > 10:
        x = x * 0.9 if r.qty > 3 else x + 1
    while x > 1.0:
        x = x / 3.0
    return {"x": math.sqrt(x), "l": math.log1p(r.price)}


TOTAL = program_of(MapStage(lambda r: {"total": r.price * r.qty * 1.08}))
KEPT = program_of(FilterStage(lambda r: r.price > 3), SelectStage((("q", "qty"),)))
BRANCHY = program_of(MapStage(branchy))


@pytest.mark.parametrize(
    ("level", "program", "packed"),
    [
        ("x86-64", TOTAL, (r"mulpd\s.*xmm",)),
        ("x86-64-v3", TOTAL, (r"vmulpd\s.*ymm",)),
        ("x86-64-v4", TOTAL, (r"vmulpd\s.*zmm",)),
        ("x86-64", KEPT, (r"cmpltpd\s.*xmm",)),
        ("x86-64-v3", KEPT, (r"vcmp\w*pd\s.*ymm", r"vperm(d|ps)\s.*ymm")),
        ("x86-64-v4", KEPT, (r"vcmp\w*pd\s.*zmm.*%k", r"v(p|)compress(q|pd)\s.*\{%k\d\}")),
        ("x86-64", BRANCHY, (r"divpd\s.*xmm", r"sqrtpd\s.*xmm")),
        ("x86-64-v3", BRANCHY, (r"vdivpd\s.*ymm", r"vsqrtpd\s.*ymm")),
        ("x86-64-v4", BRANCHY, (r"vdivpd\s.*zmm", r"vsqrtpd\s.*zmm")),
    ],
)
def test_the_loops_over_records_are_vector_instructions(
    level: str, program: RecordProgram, packed: tuple[str, ...]
) -> None:
    target = level_target(level)
    text = jit.assembly(generate(program, target).text, target)
    for instruction in packed:
        assert re.search(instruction, text), instruction
    assert not re.search(r"v?pcompress\w+\s+%zmm\d+, \(", text)  # into memory: slow microcode on Zen 4


def test_vector_math_of_libmvec_takes_whole_registers() -> None:
    target = level_target("x86-64")
    if "log1p" not in target.vector_math:
        pytest.skip("this C library has no vector log1p")
    assert set(re.findall(r"_ZGV\w+", generate(BRANCHY, target).text)) == {"_ZGVbN2v_log1p"}


@pytest.mark.parametrize(("level", "register"), [("x86-64-v3", "ymm"), ("x86-64-v4", "zmm")], ids=str)
def test_vector_math_of_our_own_takes_whole_registers(level: str, register: str) -> None:
    target = level_target(level)
    text = generate(BRANCHY, target).text
    assert "_ZGV" not in text
    assert re.search(rf"\tvfn?madd\d+pd\s.*%{register}", jit.assembly(text, target))
    assert (
        len(re.findall(r"^define internal double @log1p_double\(", text, flags=re.M)) == 1
    )  # for all last records


def test_results_bypass_the_caches_only_where_little_is_computed() -> None:
    target = level_target("x86-64-v4")
    price = program_of(MapStage(lambda r: {"l": math.log1p(r.price)}))
    three = program_of(MapStage(lambda r: {"l": math.sin(r.price) + math.cos(r.price) + math.exp(r.price)}))
    assert generate(price, target).has_streaming
    assert not generate(three, target).has_streaming


@pytest.mark.parametrize(
    ("program", "lines"),
    [(TOTAL, 0), (KEPT, 4), (program_of(MapStage(lambda r: {"l": math.log1p(r.price)})), 4)],
    ids=["moves", "filter", "call"],
)
def test_columns_are_asked_for_ahead_where_the_loop_does_more_than_move_them(
    program: RecordProgram, lines: int
) -> None:
    """Each column of a group is two lines of 64 bytes, and four where functions are called."""
    target = level_target("x86-64-v4")
    assembly = jit.assembly(generate(program, target).text, target)
    dense = re.split(r"^(?:streaming|nullable):", assembly[assembly.index("dense:") :], flags=re.M)[0]
    assert len(re.findall(r"\tprefetcht0\s", dense)) == lines


def test_the_same_program_becomes_vector_code_for_64_bit_arm() -> None:
    target = Target(
        triple="aarch64-unknown-linux-gnu", cpu="neoverse-n1", features="", register_bytes=16, has_permute=False,
        has_bit_extract=False, converts_int64=True,
    )  # fmt: skip
    text = jit.assembly(generate(program_of(MapStage(branchy)), target).text, target)
    assert re.search(r"fdiv\s+v\d+\.2d", text)
    assert re.search(r"fsqrt\s+v\d+\.2d", text)


def test_code_is_the_same_every_time() -> None:
    first, second = (generate(program_of(MapStage(branchy)), host_target()).text for _ in range(2))
    assert first == second


def test_nulls_that_the_schema_denies_are_an_error() -> None:
    schema = pa.schema([pa.field("x", pa.int64(), nullable=False)])
    code = compiled_for(build_program([MapStage(lambda r: {"y": r.x + 1})], schema), host_target())
    with pytest.raises(SchemaError, match="column 'x' is declared without nulls and has 1 here"):
        code.run([HostColumn.from_arrow(pa.array([1, None, 3]))], 3)


@pytest.mark.parametrize("kind", STRINGS, ids=str)
def test_strings_chosen_from_columns_are_filtered_with_the_records(kind: pa.DataType) -> None:
    rng = np.random.default_rng(6)
    texts = [TEXTS[i] for i in rng.integers(0, len(TEXTS), ROWS)]
    batch = pa.record_batch({"s": pa.array(texts, pa.string()).cast(kind), "k": pa.array(range(ROWS))}).slice(
        3
    )
    out = run(
        [FilterStage(lambda r: r.k % 3 == 0), MapStage(lambda r: {"t": r.s if r.k % 2 else "even"})],
        batch,
        host_target(),
    )
    assert out["t"].to_pylist() == [
        s if k % 2 else "even" for k, s in enumerate(texts) if k >= 3 and k % 3 == 0
    ]
