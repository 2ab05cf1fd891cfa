"""Lowers expressions: names, attributes, operators, conditions, collections."""

from __future__ import annotations

import ast

from dataflare.kernels.dtypes import BOOL
from dataflare.kernels.errors import ColumnNotFoundError, nearest
from dataflare.kernels.udf import arithmetic, comparison, derived, sequences, temporal
from dataflare.kernels.udf.frame import MAX_UNROLLED, Frame
from dataflare.kernels.udf.values import (
    NULL,
    Constant,
    Derived,
    Group,
    LocalFunction,
    Scalar,
    Text,
    Unbound,
    Value,
    describe,
)

__all__ = ["OPERATORS", "Expressions"]

OPERATORS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
}
_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}


class Expressions(Frame):
    """Everything that has a value, but calls."""

    def expression(self, node: ast.expr) -> Value:
        """Return the value of an expression."""
        previous = self.scope.position
        self.scope.position = node
        method = getattr(self, f"_of_{type(node).__name__}", None)
        if method is None:
            self.scope.fail(f"this kind of expression ({type(node).__name__}) cannot be compiled")
        value: Value = method(node)
        self.scope.position = previous
        return value

    def _of_Constant(self, node: ast.Constant) -> Value:
        if isinstance(node.value, complex | bytes) or node.value is ...:
            self.scope.fail(f"a {type(node.value).__name__} constant cannot be used here")
        return Constant(node.value)

    def _of_Name(self, node: ast.Name) -> Value:
        return self.name(node.id)

    def name(self, name: str) -> Value:
        """Return what a name stands for here: a variable, or what the function captured."""
        value = self.environment.get(name)
        if value is None:
            try:
                value = self.outer(name)
            except KeyError:
                self.scope.fail(
                    f"the name {name!r} is not defined", nearest(name, self.environment) or "define it"
                )
        if isinstance(value, Unbound):
            self.scope.fail(
                f"the variable {name!r} has no value, or values of two types, on some path to this line",
                "assign it before the branch or loop",
            )
        return value

    def _of_NamedExpr(self, node: ast.NamedExpr) -> Value:
        value = self.expression(node.value)
        self.assign(node.target, value)
        return value

    def _of_Attribute(self, node: ast.Attribute) -> Value:
        owner = self.expression(node.value)
        self.scope.position = node
        name = node.attr
        if isinstance(owner, Group) and owner.names is not None:
            return self._field(owner, name)
        if isinstance(owner, Scalar) and name in temporal.FIELDS.get(owner.type.kind, ()):
            return temporal.field(self.scope, owner, name)
        if owner == NULL:
            return NULL
        if isinstance(owner, Constant):
            if isinstance(owner.value, type(None)) or not hasattr(owner.value, name):
                self.scope.fail(f"{owner.value!r} has no attribute {name!r}", "")
            return Constant(getattr(owner.value, name))
        known = (
            ", ".join("." + f for f in temporal.FIELDS.get(getattr(owner, "type", BOOL).kind, ()))
            if isinstance(owner, Scalar)
            else ""
        )
        self.scope.fail(
            f"{describe(owner)} has no attribute {name!r} here" + (f"; there are {known}" if known else "")
        )

    def _field(self, record: Group, name: str) -> Value:
        value = record.get(name)
        assert record.names is not None
        if value is None:
            message = ColumnNotFoundError.for_name(name, record.names).args[0]
            raise ColumnNotFoundError(self.scope.message(message.rstrip("."), ""))
        if record.is_input and name in self.scope.schema.names:
            self.scope.columns_touched[name] = str(self.scope.schema.field(name).type)
        return value

    def _of_Subscript(self, node: ast.Subscript) -> Value:
        owner = self.expression(node.value)
        if isinstance(node.slice, ast.Slice):
            return self._slice(owner, node.slice)
        index = self.expression(node.slice)
        self.scope.position = node
        if isinstance(owner, Group) and owner.names is not None and isinstance(index, Constant):
            if isinstance(index.value, str):
                return self._field(owner, index.value)
            self.scope.fail(f"a record is indexed by a column name, not {index.value!r}", "write r['column']")
        if isinstance(owner, Group) and isinstance(index, Constant) and isinstance(index.value, int):
            if -len(owner.items) <= index.value < len(owner.items):
                return owner.items[index.value]
            self.scope.fail(f"the tuple has {len(owner.items)} items, and item {index.value} is read", "")
        if isinstance(owner, Constant) and isinstance(index, Constant):
            try:
                return Constant(owner.value[index.value])
            except LookupError:
                return NULL  # as for a value of the record that is not there
            except Exception as error:
                self.scope.fail(f"{type(error).__name__}: {error}", "")
        table = sequences.constant_table(owner)
        if table is not None:
            return sequences.look_up(self.scope, table, index)
        if isinstance(owner, Text | Derived) and isinstance(index, Constant) and type(index.value) is int:
            return derived.character(self.scope, owner, index.value)
        self.scope.operand(owner)  # says it where a column is of a type that functions cannot touch
        self.scope.fail(f"{describe(owner)} cannot be indexed here")

    def _slice(self, owner: Value, bounds: ast.Slice) -> Value:
        """Return a part of a collection or a string, between constant bounds."""
        parts = [NULL if b is None else self.expression(b) for b in (bounds.lower, bounds.upper, bounds.step)]
        for part in parts:
            if not isinstance(part, Constant) or not isinstance(part.value, int | None):
                self.scope.fail(f"the bounds of a slice must be constant and one is {describe(part)}")
        chosen = slice(*(part.value for part in parts if isinstance(part, Constant)))
        if isinstance(owner, Constant) and isinstance(owner.value, str | tuple | list | range):
            return Constant(owner.value[chosen])
        if isinstance(owner, Group) and owner.names is None:
            return Group(owner.items[chosen])
        if isinstance(owner, Text | Derived):
            return derived.part(self.scope, owner, chosen)
        self.scope.operand(owner)  # says it where a column is of a type that functions cannot touch
        self.scope.fail(f"slices of {describe(owner)} cannot be compiled")

    def _of_BinOp(self, node: ast.BinOp) -> Value:
        left, right = self.expression(node.left), self.expression(node.right)
        self.scope.position = node
        operator = OPERATORS.get(type(node.op)) or self.scope.fail("this operator cannot be compiled")
        return arithmetic.binary(self.scope, operator, left, right)

    def _of_UnaryOp(self, node: ast.UnaryOp) -> Value:
        value = self.expression(node.operand)
        self.scope.position = node
        if not isinstance(node.op, ast.Not):
            symbol = {ast.USub: "-", ast.UAdd: "+", ast.Invert: "~"}[type(node.op)]
            return arithmetic.unary(self.scope, symbol, value)
        if value == NULL:
            return NULL
        if isinstance(value, Constant):
            return Constant(not value.value)
        if isinstance(value, Derived):
            some = derived.test(self.scope, value, ("at_least", 1))
            return Scalar(BOOL, self.graph.negate(some.node), some.valid)
        operand = self.scope.operand(value)
        bare = (
            Text(operand.sources, operand.code)
            if isinstance(operand, Text)
            else Scalar(operand.type, operand.node)
        )
        return Scalar(BOOL, self.graph.negate(self.scope.truth(bare)), operand.valid)

    def _of_BoolOp(self, node: ast.BoolOp) -> Value:
        conjunction = isinstance(node.op, ast.And)
        result = self.expression(node.values[0])
        mask = self.mask
        for operand_node in node.values[1:]:
            if (
                isinstance(result, Constant)
                and result.value is not None
                and bool(result.value) != conjunction
            ):
                break
            decided = self.scope.truth(result)
            self.mask = self.graph.both(mask, decided if conjunction else self.graph.negate(decided))
            right = self.expression(operand_node)
            self.scope.position = node
            result = self._boolean(result, right, conjunction=conjunction)
        self.mask = mask
        return result

    def _boolean(self, left: Value, right: Value, *, conjunction: bool) -> Value:
        flags = [self._flag(v) for v in (left, right)]
        a, b = flags
        if a is not None and b is not None and (left != NULL or right != NULL):
            return self.scope.kleene(a, b, conjunction=conjunction)
        if isinstance(left, Constant):
            return right if bool(left.value) == conjunction else left
        truth = self.scope.truth(left)
        return self.scope.join(truth, right, left) if conjunction else self.scope.join(truth, left, right)

    def _flag(self, value: Value) -> Scalar | None:
        """Return a value as a flag if it is a boolean or None."""
        if value == NULL:
            return Scalar(BOOL, self.graph.false, self.graph.false)
        if isinstance(value, Constant) and isinstance(value.value, bool):
            return Scalar(BOOL, self.graph.const(BOOL, value.value))
        return value if isinstance(value, Scalar) and value.type.kind == "bool" else None

    def _of_Compare(self, node: ast.Compare) -> Value:
        left = self.expression(node.left)
        result: Value | None = None
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            right = self.expression(right_node)
            self.scope.position = node
            part = self._compare(operator, left, right)
            result = part if result is None else self._boolean(result, part, conjunction=True)
            left = right
        assert result is not None
        return result

    def _compare(self, operator: ast.cmpop, left: Value, right: Value) -> Value:
        if isinstance(operator, ast.Is | ast.IsNot):
            value = comparison.identity(self.scope, left, right)
        elif isinstance(operator, ast.In | ast.NotIn):
            value = comparison.contains(self.scope, left, right)
        else:
            return comparison.compare(self.scope, _COMPARISONS[type(operator)], left, right)
        if isinstance(operator, ast.Is | ast.In):
            return value
        if isinstance(value, Constant):
            return Constant(None if value.value is None else not value.value)
        assert isinstance(value, Scalar)
        return Scalar(BOOL, self.graph.negate(value.node), value.valid)

    def _of_IfExp(self, node: ast.IfExp) -> Value:
        condition = self.scope.truth(self.expression(node.test))
        if condition.is_const:
            return self.expression(node.body if condition.attr else node.orelse)
        mask = self.mask
        self.mask = self.graph.both(mask, condition)
        then = self.expression(node.body)
        self.mask = self.graph.both(mask, self.graph.negate(condition))
        otherwise = self.expression(node.orelse)
        self.mask = mask
        self.scope.position = node
        return self.scope.join(condition, then, otherwise)

    def _of_Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Value:
        items = tuple(self.expression(e) for e in node.elts)
        if all(isinstance(i, Constant) for i in items):
            return Constant(tuple(i.value for i in items if isinstance(i, Constant)))
        return Group(items)

    _of_List = _of_Tuple
    _of_Set = _of_Tuple

    def _of_Dict(self, node: ast.Dict) -> Value:
        fields: dict[str, Value] = {}
        for key, value_node in zip(node.keys, node.values, strict=True):
            value = self.expression(value_node)
            if key is None:
                if isinstance(value, Group) and value.names is not None:
                    fields.update(zip(value.names, value.items, strict=True))
                elif isinstance(value, Constant) and isinstance(value.value, dict):
                    fields.update((k, Constant(v)) for k, v in value.value.items())
                else:
                    self.scope.fail(f"** needs a record and got {describe(value)}", "")
                continue
            name = self.expression(key)
            if isinstance(name, Constant) and not isinstance(name.value, str) and None not in node.keys:
                return self._table(node)
            if not isinstance(name, Constant) or not isinstance(name.value, str):
                self.scope.position = key
                self.scope.fail(
                    "the column names of a record must be constant strings",
                    "write the names out; to look a value up, use a dict with constant keys",
                )
            fields[name.value] = value
        return Group(tuple(fields.values()), tuple(fields))

    def _table(self, node: ast.Dict) -> Value:
        """Return a dict that is no record, as its keys are not names: a constant, to be looked up."""
        pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True) if key is not None]
        items = [(self.expression(key), self.expression(value)) for key, value in pairs]
        if not all(isinstance(k, Constant) and isinstance(v, Constant) for k, v in items):
            self.scope.fail("a dict whose keys are not names must be constant", "write conditions instead")
        return Constant(
            {k.value: v.value for k, v in items if isinstance(k, Constant) and isinstance(v, Constant)}
        )

    def _of_Lambda(self, node: ast.Lambda) -> Value:
        return LocalFunction(node, self.environment)

    def _of_GeneratorExp(self, node: ast.GeneratorExp | ast.ListComp) -> Value:
        if len(node.generators) != 1 or node.generators[0].is_async:
            self.scope.fail("only `expression for name in constants` can be compiled", "write a for loop")
        generator = node.generators[0]
        if isinstance(generator.iter, ast.Call) and self.is_range(generator.iter):
            bounds = [self.expression(a) for a in generator.iter.args]
            if not all(isinstance(b, Constant) for b in bounds):
                self.scope.fail("the range of a generator must be constant", "write a for loop")
            items: tuple[Value, ...] = tuple(
                Constant(i) for i in range(*(b.value for b in bounds if isinstance(b, Constant)))
            )
        else:
            items = self.iterate(self.expression(generator.iter), generator.iter)
        if len(items) > MAX_UNROLLED:
            self.scope.fail(f"a generator over {len(items)} values is too long to unroll", "write a for loop")
        outer = self.environment
        results: list[Value] = []
        for item in items:
            self.environment = dict(outer)
            self.assign(generator.target, item)
            if all(self._known(test) for test in generator.ifs):
                results.append(self.expression(node.elt))
        self.environment = outer
        return Group(tuple(results))

    _of_ListComp = _of_GeneratorExp

    def _known(self, test: ast.expr) -> bool:
        """Return the condition of a generator, which decides how many items there are."""
        value = self.expression(test)
        if not isinstance(value, Constant):
            self.scope.position = test
            self.scope.fail(
                "the `if` of a generator depends on the record",
                "write `x if condition else 0`, or a for loop",
            )
        return bool(value.value)

    def _of_JoinedStr(self, node: ast.JoinedStr) -> Value:
        self.scope.fail("f-strings cannot be compiled: record functions do not build new strings")

    def is_range(self, call: ast.Call) -> bool:
        """Return whether a call is one of the builtin ``range``."""
        if not isinstance(call.func, ast.Name):
            return False
        value = self.name(call.func.id)
        return isinstance(value, Constant) and value.value is range and not call.keywords
