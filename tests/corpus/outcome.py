"""What becomes of each function of the corpus: vectorised, partly record by record, or refused; and the table of it.

Judged for a CPU with a fused multiply-add, so that the table is the same everywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import linecache
import re
from collections import Counter
from typing import NamedTuple

import pyarrow as pa
from corpus.entry import ENTRIES, Entry

from dataflare.kernels.cpu.target import host_target
from dataflare.kernels.errors import CompileError
from dataflare.kernels.llvm.target import Target
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.source import function_ast
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage
from dataflare.plan.vectors import vector_text

__all__ = ["Outcome", "entries", "outcome_of", "stage_of", "table"]

THEMES = (
    *("documentation", "finance", "commerce", "logistics", "geography", "science", "sensors", "images"),
    *("statistics", "scoring", "sports", "cleaning", "binning", "dates", "text", "encodings", "iterative"),
)
_MAX_SHOWN = 110


class Outcome(NamedTuple):
    """``kind`` is vectorised, record by record, or refused; ``detail`` says which part, or why."""

    kind: str
    detail: str
    program: RecordProgram | None


def entries() -> list[Entry]:
    """Return all functions of the corpus, theme by theme."""
    for theme in THEMES:
        importlib.import_module(f"corpus.{theme}")
    return list(ENTRIES)


def stage_of(entry: Entry) -> Stage:
    """Return the step that uses a function as its entry says."""
    if entry.step == "filter":
        return FilterStage(entry.function)
    if entry.step == "map":
        return MapStage(entry.function)
    return WithColumnsStage(named=(("result", entry.function),))


def outcome_of(entry: Entry) -> Outcome:
    """Return what the compiler makes of a function."""
    schema = pa.schema([(column.name, column.type) for column in entry.columns])
    try:
        program = build_program([stage_of(entry)], schema)
    except CompileError as error:
        return Outcome("refused", _reason(str(error)), None)
    text = vector_text(program, full_target())
    _, mark, single = text.partition("one by one: ")
    return Outcome("record by record" if mark else "vectorised", single, program)


def full_target() -> Target:
    """Return this machine with a fused multiply-add, and with it every vector function."""
    return dataclasses.replace(host_target(), has_fma=True)


def _reason(message: str) -> str:
    """Return the sentence of an error that says why: what stands before the columns and the way out."""
    lines = message.splitlines()
    end = next(i for i, line in enumerate(lines) if line.startswith(("Columns used:", "Way out:")))
    start = max(i for i in range(end) if i == 0 or re.match(r" *\^|      called from", lines[i])) + 1
    return " ".join(lines[start:end])


def table(found: list[Entry]) -> str:
    """Return the page that lists every function with its outcome."""
    outcomes = {entry: outcome_of(entry) for entry in found}
    counts = Counter(outcome.kind for outcome in outcomes.values())
    share = 100 * counts["vectorised"] / len(found)
    lines = [
        "# Record functions and what becomes of them",
        "",
        f"{len(found)} functions as people write them, each from a task of its theme. {counts['vectorised']} of them "
        f"({share:.1f} %) are vectorised",
        f"whole, {counts['record by record']} compute the part that is named record by record inside the loop, and "
        f"{counts['refused']} are refused before anything",
        "runs, with the reason that is given here and the place and a way out in the message.",
        "",
        "`tests/corpus` holds them, with the types of their columns. Each that compiles is tested against plain",
        "Python: equal to the bit, or to the last digits where it calls functions such as `sin`. The judgement is for",
        "a CPU with AVX2 and FMA or better, or Arm. Text in a dictionary column is compared once for each distinct",
        "value; groups of records that hold a whole number from 2**51 on are divided one by one, and `len` counts text",
        "that is not ASCII one by one. A test keeps this page true; `python -m corpus` makes it anew.",
    ]
    for theme in THEMES:
        mine = [entry for entry in found if entry.theme == theme]
        lines += ["", f"## {theme.capitalize()}", "", "| function | source | outcome |", "|---|---|---|"]
        for entry in mine:
            outcome = outcomes[entry]
            text = outcome.kind if not outcome.detail else f"{outcome.kind}: {_escaped(outcome.detail)}"
            line = entry.function.__code__.co_firstlineno
            name = f"[{entry.name.replace('_', ' ')}](../tests/corpus/{theme}.py#L{line})"
            lines.append(f"| {name} | `{_source(entry)}` | {text} |")
    return "\n".join(lines) + "\n"


def _source(entry: Entry) -> str:
    """Return the beginning of a function in one line: the body of a lambda, the statements of a ``def``."""
    node = function_ast(entry.function).node
    body: list[ast.stmt] | list[ast.expr] = [node.body] if isinstance(node, ast.Lambda) else node.body
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
        body = node.body[1:]
    first, end = body[0], body[-1].end_lineno
    lines = linecache.getlines(entry.function.__code__.co_filename)[first.lineno - 1 : end]
    if isinstance(node, ast.Lambda):
        lines[-1] = lines[-1].encode()[: body[-1].end_col_offset].decode()
    lines[0] = lines[0].encode()[first.col_offset :].decode()
    text = "".join(_joined(line.strip()) for line in lines).removesuffix("; ")
    return _escaped(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")


def _joined(line: str) -> str:
    """Return a line with what separates it from the next one of its function."""
    return line + (" " if line.endswith((":", ",", "(", "[", "{")) else "; ")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
