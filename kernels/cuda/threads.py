"""The threads of a CUDA kernel as LLVM text: who am I, votes and sums of a warp."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dataflare.kernels.llvm.emit import Code

__all__ = ["WARP_THREADS", "Threads", "only_if"]

WARP_THREADS = 32
_REGISTER = "llvm.nvvm.read.ptx.sreg"


class Threads:
    """The indices of the running thread, and what it does together with the other threads of its warp.

    Loops and votes are for all threads of a warp at once: what `ballot`, `together` and `one_of` are told must be
    reached by each of them.
    """

    def __init__(self, code: Code) -> None:
        self.code = code
        self._special: dict[str, str] = {}

    def special(self, register: str) -> str:
        """Return a special register (``tid.x``, ``laneid``, ...) as i32, read once."""
        name = self._special.get(register)
        if name is None:
            name = self._special[register] = f"%{register.replace('.', '_')}"
            self.code.declare(f"declare i32 @{_REGISTER}.{register}()")
            self.code.entry.append(f"  {name} = call i32 @{_REGISTER}.{register}()")
        return name

    def index(self) -> str:
        """Return the number of this thread in the grid, as i64."""
        return self._grid("thread", "ctaid.x", self.special("tid.x"))

    def count(self) -> str:
        """Return how many threads the grid has, as i64."""
        return self._grid("threads", "nctaid.x", "0")

    def _grid(self, stem: str, blocks: str, plus: str) -> str:
        name = f"%{stem}"
        if name not in self._special:
            self._special[name] = name
            block, size = self.special(blocks), self.special("ntid.x")
            self.code.entry += [
                f"  {name}.b = zext i32 {block} to i64",
                f"  {name}.s = zext i32 {size} to i64",
                f"  {name}.p = zext i32 {plus} to i64",
                f"  {name}.m = mul i64 {name}.b, {name}.s",
                f"  {name} = add i64 {name}.m, {name}.p",
            ]
        return name

    def lane(self) -> str:
        """Return the number of this thread in its warp, as i64."""
        if "%lane" not in self._special:
            self._special["%lane"] = "%lane"
            self.code.entry.append(f"  %lane = zext i32 {self.special('laneid')} to i64")
        return "%lane"

    def ballot(self, flag: str) -> str:
        """Return the flags of all threads of the warp as the bits of an i32."""
        self.code.declare("declare i32 @llvm.nvvm.vote.ballot.sync(i32, i1) #4")
        return self.code.value(f"call i32 @llvm.nvvm.vote.ballot.sync(i32 -1, i1 {flag})")

    def before_me(self, word: str) -> str:
        """Return how many bits of an i32 belong to threads before this one, as i32."""
        mine = self.code.value(f"and i32 {word}, {self.special('lanemask.lt')}")
        return popcount(self.code, mine)

    def or_of_all(self, value: str) -> str:
        """Return the union of the bits (i32) of all threads of the warp, in each of them."""
        self.code.declare("declare i32 @llvm.nvvm.shfl.sync.bfly.i32(i32, i32, i32, i32) #4")
        distance = WARP_THREADS // 2
        while distance:
            other = self.code.value(
                f"call i32 @llvm.nvvm.shfl.sync.bfly.i32(i32 -1, i32 {value}, i32 {distance}, i32 31)"
            )
            value = self.code.value(f"or i32 {value}, {other}")
            distance //= 2
        return value

    @contextmanager
    def one_of(self) -> Iterator[None]:
        """Run what is emitted inside on the first thread of each warp."""
        first = self.code.value(f"icmp eq i32 {self.special('laneid')}, 0")
        with only_if(self.code, first):
            yield


def popcount(code: Code, bits: str) -> str:
    """Return how many bits of an i32 are set, as i32."""
    code.declare("declare i32 @llvm.ctpop.i32(i32)")
    return code.value(f"call i32 @llvm.ctpop.i32(i32 {bits})")


@contextmanager
def only_if(code: Code, flag: str) -> Iterator[None]:
    """Branch over what is emitted inside where ``flag`` is not set."""
    inside, after = code.fresh_label("inside"), code.fresh_label("after")
    code.add(f"br i1 {flag}, label %{inside}, label %{after}")
    code.label(inside)
    yield
    code.add(f"br label %{after}")
    code.label(after)
