"""Writes chains of random steps, as the text of a module, and loads them as a user's file would be."""

from __future__ import annotations

import hashlib
import importlib.util
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
from chains.batches import random_batch
from chains.statements import Writer, indented
from chains.vocabulary import (
    ANY_KIND,
    BOOL,
    COLUMN_TYPES,
    EXACT,
    HEADER,
    INT,
    JOINABLE,
    ROUGH,
)

from dataflare.kernels.udf.stages import FilterStage, MapStage, SelectStage, WithColumnsStage


@dataclass
class Chain:
    """The text of a module, and how to make the steps from what it defines."""

    text: str
    steps: list[tuple[str, Any]]
    rough: set[str]
    used: set[str]


class ChainWriter:
    """Writes the functions of a chain of steps, following which columns there are after each."""

    def __init__(self, dice: random.Random, columns: dict[str, str], *, most_steps: int, depth: int) -> None:
        self.dice = dice
        self.most_steps = most_steps
        self.depth = depth
        self.columns = dict(columns)
        self.initial = set(columns)
        self.used: set[str] = set()
        self.rough: set[str] = set()
        self.parts: list[str] = []
        self.steps: list[tuple[str, Any]] = []

    def writer(self) -> Writer:
        return Writer(self.dice, self.columns)

    def _finish(self, writer: Writer) -> None:
        self.used |= {name for name in writer.used if name in self.initial}

    def function(
        self, write_return: Callable[[Writer], list[str]], kinds: dict[str, str], *, whole: bool
    ) -> str:
        """Write a function as a def, a lambda where it has one line, or a closure; return its name.

        ``kinds`` are the columns of the record that it returns, if ``whole``, or the one value.
        """
        writer = self.writer()
        if kinds and all(kind in JOINABLE for kind in kinds.values()):

            def early_return() -> str:
                items = {name: writer.expression(kind, 1) for name, kind in kinds.items()}
                shown = ", ".join(f'"{name}": {value}' for name, value in items.items())
                return "return {" + shown + "}" if whole else f"return {next(iter(items.values()))}"

            writer.early_return = early_return
        depth = self.dice.randint(1, self.depth)
        name = f"step{len(self.parts)}"
        block = [] if self.dice.randint(0, 2) == 0 else writer.block(depth)
        returned = write_return(writer)
        self._finish(writer)
        if not block and len(returned) == 1 and self.dice.random() < 0.5:
            self.parts.append(f"{name} = lambda r: {returned[0].removeprefix('return ')}")
        elif self.dice.randint(0, 3) == 0:
            body = indented(indented([*block, *returned]))
            self.parts.append(
                "\n".join(
                    [f"def make_{name}(SCALE, OFFSET=0.5):", "    def step(r):", *body, "    return step"]
                )
                + f"\n\n\n{name} = make_{name}(7)"
            )
        else:
            self.parts.append("\n".join([f"def {name}(r):", *indented([*block, *returned])]))
        return name

    def value(self, kind: str) -> Callable[[Writer], list[str]]:
        def write(writer: Writer) -> list[str]:
            lines: list[str] = []
            if kind in JOINABLE and writer.chance(3):
                early = writer.choose((writer.expression(kind, 1), "None"))
                lines = [f"if {writer.condition(1)}:", f"    return {early}"]
            return [*lines, f"return {writer.expression(kind, self.depth)}"]

        return write

    def record(self, kinds: dict[str, str], *, keep: bool) -> Callable[[Writer], list[str]]:
        def shown(writer: Writer, depth: int) -> str:
            items = [f'"{name}": {writer.expression(kind, depth)}' for name, kind in kinds.items()]
            return "{" + ", ".join([*(["**r"] if keep else []), *items]) + "}"

        def write(writer: Writer) -> list[str]:
            lines: list[str] = []
            if writer.chance(4) and all(kind in JOINABLE for kind in kinds.values()):
                lines = [f"if {writer.condition(1)}:", f"    return {shown(writer, 1)}"]
            return [*lines, f"return {shown(writer, self.depth)}"]

        return write

    def kind(self, writer: Writer) -> str:
        possible = [k for k in ANY_KIND if k in JOINABLE or k == ROUGH or writer.has(k)]
        return str(writer.choose(possible))

    def new_columns(self, *, fresh: bool = False) -> dict[str, str]:
        writer = self.writer()
        replaceable = [name for name in self.columns if name not in ("a", "p")]
        names = [f"k{len(self.steps)}", f"l{len(self.steps)}", *replaceable[:2]]
        count = 1 + self.dice.randint(0, 2)
        kinds = {names[place]: self.kind(writer) for place in range(min(count, len(names)))}
        return {**kinds, "a": INT, "p": BOOL} if fresh else kinds

    def _settle(self, kinds: dict[str, str], *, keep: bool) -> None:
        """Note which columns there are now; nothing reads approximate results, or decimals grown by arithmetic."""
        settled = {name: "done" if kind in (ROUGH, EXACT) else kind for name, kind in kinds.items()}
        self.columns = {**(self.columns if keep else {}), **settled}
        self.rough = {name for name in self.rough if keep and name not in kinds}
        self.rough |= {name for name, kind in kinds.items() if kind == ROUGH}

    def add_filter(self) -> None:
        self.steps.append(("filter", self.function(self.value(BOOL), {"": BOOL}, whole=False)))

    def add_map(self) -> None:
        keep = self.dice.random() < 0.5
        kinds = self.new_columns(fresh=not keep)
        self.steps.append(
            ("map", self.function(self.record(kinds, keep=keep), {} if keep else kinds, whole=True))
        )
        if keep:
            self.used |= self.initial & set(self.columns)
        self._settle(kinds, keep=keep)

    def add_with_columns(self) -> None:
        kinds = self.new_columns()
        if self.dice.random() < 0.5:
            self.steps.append(("with", self.function(self.record(kinds, keep=False), kinds, whole=True)))
        else:
            named = [
                (name, self.function(self.value(kind), {name: kind}, whole=False))
                for name, kind in kinds.items()
            ]
            self.steps.append(("named", named))
        self._settle(kinds, keep=True)

    def add_select(self) -> None:
        names = list(self.columns)
        chosen = [name for name in names if name in ("a", "p") or self.dice.randint(0, 3) > 0]
        renamed = {name: (f"{name}_" if self.dice.randint(0, 3) == 3 else name) for name in chosen}
        renamed.update(a="a", p="p")
        self.steps.append(("select", tuple((renamed[name], name) for name in chosen)))
        self.used |= {name for name in chosen if name in self.initial}
        self.columns = {renamed[name]: self.columns[name] for name in chosen}
        self.rough = {renamed[name] for name in chosen if name in self.rough}
        self.initial = {renamed[name] for name in chosen if name in self.initial and renamed[name] == name}

    def add_single_operations(self) -> None:
        """Add columns of one operation each: what goes wrong there shows, where a deep expression may hide it."""
        kinds = {f"o{place}": self.kind(self.writer()) for place in range(6)}
        named = []
        for name, kind in kinds.items():
            writer = self.writer()
            self.parts.append(f"{name} = lambda r: {writer.expression(kind, 1)}")
            self._finish(writer)
            named.append((name, name))
        self.steps.append(("named", named))
        self._settle(kinds, keep=True)

    def chain(self) -> Chain:
        self.add_single_operations()
        for _ in range(self.dice.randint(1, self.most_steps)):
            adders = (
                self.add_with_columns,
                self.add_with_columns,
                self.add_map,
                self.add_map,
                self.add_filter,
            )
            (*adders, self.add_select)[self.dice.randint(0, len(adders))]()
        text = HEADER + "".join(f"\n\n{part}\n" for part in self.parts)
        return Chain(text, self.steps, self.rough, self.used)


def load(text: str, folder: Path) -> ModuleType:
    """Write a module to a file and import it, so that its functions have source text."""
    name = "chain_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stages_of(chain: Chain, module: ModuleType) -> list[Any]:
    stages: list[Any] = []
    for kind, what in chain.steps:
        if kind == "filter":
            stages.append(FilterStage(getattr(module, what)))
        elif kind == "map":
            stages.append(MapStage(getattr(module, what)))
        elif kind == "with":
            stages.append(WithColumnsStage(fn=getattr(module, what)))
        elif kind == "named":
            stages.append(WithColumnsStage(named=tuple((name, getattr(module, fn)) for name, fn in what)))
        else:
            stages.append(SelectStage(what))
    return stages


def random_chain(seed: int) -> tuple[Chain, pa.RecordBatch]:
    """Return a chain of steps and a batch for it, which depend on the seed alone.

    Columns that nothing reads or passes on are left out of programs. Batches have up to 90 rows, some none or one.
    """
    dice = random.Random(f"chain {seed}")
    others = [name for name in COLUMN_TYPES if name not in ("a", "p")]
    names = ["a", "p", *dice.sample(others, dice.randint(4, 10))]
    fields = [(name, dice.choice(COLUMN_TYPES[name][1])) for name in names]
    num_rows = dice.choice((0, 1)) if dice.random() < 0.1 else dice.randint(0, 90)
    batch = random_batch(dice, fields, num_rows)
    most_steps, depth = dice.randint(1, 3), dice.choice((1, 1, 2, 2, 2, 3))
    columns = {name: COLUMN_TYPES[name][0] for name in names}
    return ChainWriter(dice, columns, most_steps=most_steps, depth=depth).chain(), batch
