"""How generated code finds its arguments: numbers and addresses in one block of 64-bit slots.

The slots are those of ``layout``. Each is loaded once, at the entry of a function.
"""

from __future__ import annotations

from dataflare.kernels.llvm.emit import Code

__all__ = ["Arguments"]


class Arguments:
    """The argument block ``%arguments`` of one function of generated code."""

    all_ones = "@all_ones"
    """A pointer to a byte of ones, which stands for the bitmap of a column without nulls."""

    def __init__(self, code: Code) -> None:
        self.code = code
        self._slots: dict[int, str] = {}
        self._pointers: dict[int, str] = {}

    def slot(self, number: int) -> str:
        """Return the value of an argument slot, loaded once at entry."""
        if number not in self._slots:
            name = f"%slot{number}"
            self.code.entry.append(f"  {name}.p = getelementptr i64, ptr %arguments, i64 {number}")
            self.code.entry.append(f"  {name} = load i64, ptr {name}.p, align 8")
            self._slots[number] = name
        return self._slots[number]

    def pointer(self, number: int) -> str:
        """Return an argument slot as a pointer."""
        if number not in self._pointers:
            slot = self.slot(number)
            name = f"%pointer{number}"
            self.code.entry += self._pointer_to(name, slot)
            self._pointers[number] = name
        return self._pointers[number]

    def _pointer_to(self, name: str, slot: str) -> list[str]:
        """Return the instructions that make an address a pointer."""
        return [f"  {name} = inttoptr i64 {slot} to ptr"]

    def bit(self, slot: int, row: str) -> str:
        """Return one bit of the bitmap at ``slot``; an absent bitmap is all ones."""
        code = self.code
        bit = code.value(f"add i64 {self.slot(slot + 1)}, {row}")
        byte = code.value(f"lshr i64 {bit}, 3")
        present = code.value(f"icmp ne i64 {self.slot(slot)}, 0")
        address = code.value(f"getelementptr i8, ptr {self.pointer(slot)}, i64 {byte}")
        address = code.value(f"select i1 {present}, ptr {address}, ptr {self.all_ones}")
        loaded = code.value(f"load i8, ptr {address}, align 1")
        shift = code.value(f"trunc i64 {bit} to i8")
        shift = code.value(f"and i8 {shift}, 7")
        loaded = code.value(f"lshr i8 {loaded}, {shift}")
        return code.value(f"trunc i8 {loaded} to i1")
