"""Writes random statements: assignments, branches, loops with break, continue and else, early returns."""

from __future__ import annotations

from chains.expressions import Expressions
from chains.vocabulary import (
    BOOL,
    FLOAT,
    INT,
    JOINABLE,
    SINGLE,
    TEXT,
    UINT,
)


class Writer(Expressions):
    """Writes random statements too: each method returns lines, and leaves new variables in ``variables``."""

    def statements(self, depth: int) -> list[str]:
        kinds = (self._assign, self._assign, self._branch, self._count_up, self._while, self._swap)
        return list(self.choose(kinds)(depth))

    def _assign(self, depth: int) -> list[str]:
        kind = self.choose(JOINABLE)
        value = self.expression(kind, depth)
        name = self.fresh()
        self.variables[name] = kind
        return [f"{name} = {value}"]

    def _branch(self, depth: int) -> list[str]:
        kind = self.choose(JOINABLE)
        name = self.fresh()
        lines = [f"if {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        if self.chance(2):
            lines += [f"elif {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        lines += ["else:", f"    {name} = {self.expression(kind, depth)}"]
        self.variables[name] = kind
        if self.chance(3):
            lines += [f"if {self.condition(depth)}:", f"    {name} = {self.expression(kind, depth)}"]
        return lines

    def _accumulator(self) -> tuple[str, str, str]:
        kind = self.choose((INT, FLOAT, INT, UINT, SINGLE))
        name = self.fresh()
        start = f"{name} = {self.leaf(kind)}"
        self.variables[name] = kind
        return kind, name, start

    def _body(self, kind: str, name: str, depth: int, *, may_leave: bool) -> list[str]:
        lines = []
        if may_leave and self.chance(2):
            lines += [f"if {self.condition(depth)}:", f"    {self.choose(('break', 'continue'))}"]
        if may_leave and self.early_return is not None and self.chance(3):
            lines += [f"if {self.condition(depth)}:", f"    {self.early_return()}"]
        operator = self.choose("+-*")
        if self.chance(2):
            lines.append(f"{name} {operator}= {self.expression(kind, depth)}")
        else:
            lines.append(f"{name} = {name} {operator} {self.expression(kind, depth)}")
        if may_leave and self.chance(3):
            lines += [f"if {self.condition(depth)}:", "    break"]
        return lines

    def _count_up(self, depth: int) -> list[str]:
        kind, name, start = self._accumulator()
        counter = self.fresh()
        bounds = self.choose(
            (
                f"range({self.choose((0, 3, 5))})",
                f"range({self.expression(INT, 1)} % 5)",
                "range(5, 0, -2)",
                "(1, 2, 5)",
            )
        )
        self.variables[counter] = INT
        body = self._body(kind, name, depth, may_leave=True)
        if self.chance(3):
            inner = self.fresh()
            self.variables[inner] = INT
            nested = self._body(kind, name, 1, may_leave=True)
            del self.variables[inner]
            body += [f"for {inner} in range({counter}):", *indented(nested)]
        del self.variables[counter]
        return [start, f"for {counter} in {bounds}:", *indented(body), *self._otherwise(kind, name)]

    def _otherwise(self, kind: str, name: str) -> list[str]:
        """An `else` for some loops: what runs if there was no `break`."""
        return ["else:", f"    {name} = {name} + {self.leaf(kind)}"] if self.chance(3) else []

    def _while(self, depth: int) -> list[str]:
        kind, name, start = self._accumulator()
        counter = self.fresh()
        test = f"{counter} < {self.choose((2, 4))}" + (
            f" and {self.condition(depth)}" if self.chance(2) else ""
        )
        body = self._body(kind, name, depth, may_leave=True)
        loop = [f"while {test}:", *indented([f"{counter} += 1", *body]), *self._otherwise(kind, name)]
        return [start, f"{counter} = 0", *loop]

    def _swap(self, depth: int) -> list[str]:
        kind = self.choose((INT, FLOAT, TEXT, BOOL))
        one, two = self.fresh(), self.fresh()
        lines = [f"{one}, {two} = {self.expression(kind, depth)}, {self.expression(kind, depth)}"]
        self.variables.update({one: kind, two: kind})
        return [*lines, f"if {self.condition(depth)}:", f"    {one}, {two} = {two}, {one}"]

    def block(self, depth: int) -> list[str]:
        lines: list[str] = []
        for _ in range(self.dice.randint(0, 2)):
            lines += self.statements(depth)
        return lines


def indented(lines: list[str]) -> list[str]:
    return ["    " + line for line in lines]
