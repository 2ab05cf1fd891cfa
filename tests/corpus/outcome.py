"""What becomes of each function of the corpus: vectorised, partly record by record, or refused; and the table of it.

Judged for a CPU that has every vector function of libmvec, so that the table is the same everywhere.
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
from dataflare.kernels.cpu.target import MATH_FUNCTIONS, Target, host_target
from dataflare.kernels.errors import CompileError
from dataflare.kernels.udf.program import RecordProgram, build_program
from dataflare.kernels.udf.source import function_ast
from dataflare.kernels.udf.stages import FilterStage, MapStage, Stage, WithColumnsStage
from dataflare.plan.vectors import vector_text

from corpus.entry import ENTRIES, Entry

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
    """Return this machine with every vector function that there may be."""
    known = set(MATH_FUNCTIONS) - {"gamma", "lgamma"}  # libmvec has no others
    return dataclasses.replace(host_target(), vector_math={name: name for name in known})


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
        f"{len(found)} functions as people write them, from the themes below, none written for this compiler. Of all,",
        f"{counts['vectorised']} ({share:.0f} %) are vectorised whole, {counts['record by record']} run with the part that is "
        f"named record by record inside the loop,",
        f"and {counts['refused']} are refused, before anything runs, with the reason that is given (and, in the message, the",
        "place and a way out). `tests/corpus` holds them; each that compiles is tested against plain Python, bit for bit.",
        "Functions of several lines are shown by their result. This page is made by `python -m corpus`; a test keeps it true.",
    ]
    for theme in THEMES:
        mine = [entry for entry in found if entry.theme == theme]
        lines += ["", f"## {theme.capitalize()}", "", "| function | source | outcome |", "|---|---|---|"]
        for entry in mine:
            outcome = outcomes[entry]
            text = outcome.kind if not outcome.detail else f"{outcome.kind}: {_escaped(outcome.detail)}"
            lines.append(f"| {entry.name.replace('_', ' ')} | `{_source(entry)}` | {text} |")
    return "\n".join(lines) + "\n"


def _source(entry: Entry) -> str:
    """Return a function in one short line: a lambda's body, or how many lines a ``def`` has and what it returns."""
    node = function_ast(entry.function).node
    if isinstance(node, ast.Lambda):
        text = ast.unparse(node.body)
    else:
        returns = [n for n in ast.walk(node) if isinstance(n, ast.Return) and n.value is not None]
        last = ast.unparse(returns[-1].value) if returns and returns[-1].value else "None"
        assert node.end_lineno is not None
        body = linecache.getlines(entry.function.__code__.co_filename)[node.lineno - 1 : node.end_lineno]
        text = f"… return {last}" if len(body) > 2 else f"return {last}"
    return _escaped(text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
