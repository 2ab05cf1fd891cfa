"""MemoryBudget: a limit on bytes that is kept by counting reservations before anything is allocated.

Covers the counting. Does not allocate, wait or decide who may go first: admission does
(``BackpressureController.admit``), so that one authority alone can say no.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, TracebackType
from typing import Self

from dataflare.control.checks import require_integer
from dataflare.kernels.errors import MemoryLimitError

__all__ = ["BudgetSnapshot", "MemoryBudget", "Reservation", "format_bytes"]


def format_bytes(nbytes: int) -> str:
    """Return bytes as a person reads them: ``512 B``, ``1.5 MiB``."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024.0:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024.0
    return f"{size:.1f} TiB"


@dataclass(frozen=True, slots=True)
class BudgetSnapshot:
    """A `MemoryBudget` at one moment."""

    limit_bytes: int | None
    """None: counted, but not limited."""
    reserved_bytes: int
    guaranteed_bytes: int
    """Kept free for owners whose guarantee is not in use."""
    peak_bytes: int
    overdraft_bytes: int
    """The most by which corrections of too small estimates ever went over the limit."""
    by_owner: Mapping[str, int]


class Reservation:
    """Bytes set aside in a `MemoryBudget` until `release` (idempotent; also a context manager)."""

    __slots__ = ("_budget", "nbytes", "owner")

    def __init__(self, budget: MemoryBudget, owner: str, nbytes: int) -> None:
        self._budget: MemoryBudget | None = budget
        self.owner = owner
        self.nbytes = nbytes

    def resize(self, nbytes: int) -> bool:
        """Change to ``nbytes``; False, and nothing changed, when a growth does not fit."""
        return self._budget is not None and self._budget._resize(self, nbytes, force=False)

    def correct(self, nbytes: int) -> None:
        """Set what the memory turned out to be: it exists, so it counts even over the limit (overdraft)."""
        if self._budget is not None:
            self._budget._resize(self, nbytes, force=True)

    def release(self) -> None:
        """Give the bytes back; further calls do nothing."""
        budget = self._budget
        if budget is not None:
            budget._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class MemoryBudget:
    """Counts reserved bytes against a limit. Thread-safe, O(1), never blocks.

    Parameters
    ----------
    limit_bytes
        The most that may be reserved at once; None counts without a limit.

    Examples
    --------
    >>> budget = MemoryBudget(1000)
    >>> budget.guarantee("read", 400)
    >>> budget.reserve("write", 700) is None
    True
    >>> with budget.reserve("read", 400):
    ...     budget.reserved_bytes
    400
    """

    __slots__ = (
        "_guarantees",
        "_idle_guaranteed",
        "_limit_bytes",
        "_lock",
        "_overdraft_bytes",
        "_owned",
        "_peak_bytes",
        "_reserved_bytes",
    )

    def __init__(self, limit_bytes: int | None = None) -> None:
        if limit_bytes is not None:
            require_integer("MemoryBudget", "limit_bytes", limit_bytes, 1)
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._owned: dict[str, int] = {}
        self._guarantees: dict[str, int] = {}
        self._reserved_bytes = 0
        self._idle_guaranteed = 0
        self._peak_bytes = 0
        self._overdraft_bytes = 0

    @property
    def limit_bytes(self) -> int | None:
        """The limit, or None."""
        return self._limit_bytes

    @property
    def reserved_bytes(self) -> int:
        """Bytes reserved now."""
        return self._reserved_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes ever reserved at once."""
        return self._peak_bytes

    @property
    def available_bytes(self) -> int | None:
        """Bytes that anyone may still reserve (idle guarantees are not); None without a limit."""
        if self._limit_bytes is None:
            return None
        with self._lock:
            return max(0, self._limit_bytes - self._reserved_bytes - self._idle_guaranteed)

    def guarantee(self, owner: str, nbytes: int) -> None:
        """Keep ``nbytes`` free for ``owner`` until `withdraw`: holding nothing, it always gets that much.

        Raises
        ------
        MemoryLimitError
            The guarantees and reservations together do not fit the limit.
        """
        require_integer("MemoryBudget", "nbytes", nbytes, 0)
        with self._lock:
            used = self._owned.get(owner, 0)
            before = self._guarantees.get(owner, 0)
            growth = max(0, nbytes - used) - max(0, before - used)
            if self._limit_bytes is not None:
                total = self._reserved_bytes + self._idle_guaranteed + growth
                if total > self._limit_bytes:
                    raise MemoryLimitError(
                        f"{owner} needs {format_bytes(nbytes)} of its own, but with what is already set "
                        f"aside that makes {format_bytes(total)}, and the memory limit is "
                        f"{format_bytes(self._limit_bytes)}. Raise memory_limit."
                    )
            self._guarantees[owner] = nbytes
            self._idle_guaranteed += growth

    def withdraw(self, owner: str) -> None:
        """End the guarantee of ``owner``; its reservations stay until released."""
        with self._lock:
            nbytes = self._guarantees.pop(owner, 0)
            self._idle_guaranteed -= max(0, nbytes - self._owned.get(owner, 0))

    def reserve(self, owner: str, nbytes: int) -> Reservation | None:
        """Set ``nbytes`` aside for ``owner``: its guarantee first, then what all share; None if too much."""
        if nbytes < 0:
            require_integer("MemoryBudget", "nbytes", nbytes, 0)
        with self._lock:
            if not self._fits(owner, nbytes):
                return None
            self._move(owner, nbytes)
        return Reservation(self, owner, nbytes)

    def keep(self, owner: str, nbytes: int, reservation: Reservation | None) -> bool:
        """Move what stays of a batch out of its reservation to ``owner``, who holds it to the end.

        Others may hold all that is left at this moment, and give it back. So what counts is whether everybody's
        guarantee fits beside all that ``owner`` then holds: if not, return False, and nothing changed.
        """
        require_integer("MemoryBudget", "nbytes", nbytes, 0)
        with self._lock:
            if self._limit_bytes is not None:
                others = sum(self._guarantees.values()) - self._guarantees.get(owner, 0)
                if self._owned.get(owner, 0) + nbytes + others > self._limit_bytes:
                    return False
            if reservation is not None and reservation._budget is self:
                moved = min(nbytes, reservation.nbytes)
                self._move(reservation.owner, -moved)
                reservation.nbytes -= moved
            self._move(owner, nbytes)
            return True

    def snapshot(self) -> BudgetSnapshot:
        """Return all figures at one moment."""
        with self._lock:
            return BudgetSnapshot(
                limit_bytes=self._limit_bytes,
                reserved_bytes=self._reserved_bytes,
                guaranteed_bytes=self._idle_guaranteed,
                peak_bytes=self._peak_bytes,
                overdraft_bytes=self._overdraft_bytes,
                by_owner=MappingProxyType({owner: used for owner, used in self._owned.items() if used}),
            )

    def _fits(self, owner: str, change: int) -> bool:
        if self._limit_bytes is None or change <= 0:
            return True
        idle_own = max(0, self._guarantees.get(owner, 0) - self._owned.get(owner, 0))
        return (
            self._reserved_bytes + change + self._idle_guaranteed - min(idle_own, change) <= self._limit_bytes
        )

    def _move(self, owner: str, change: int) -> None:
        used = self._owned.get(owner, 0)
        guaranteed = self._guarantees.get(owner, 0)
        if guaranteed:
            self._idle_guaranteed += max(0, guaranteed - used - change) - max(0, guaranteed - used)
        self._owned[owner] = used + change
        self._reserved_bytes += change
        self._peak_bytes = max(self._peak_bytes, self._reserved_bytes)
        if self._limit_bytes is not None:
            self._overdraft_bytes = max(self._overdraft_bytes, self._reserved_bytes - self._limit_bytes)

    def _resize(self, reservation: Reservation, nbytes: int, *, force: bool) -> bool:
        require_integer("Reservation", "nbytes", nbytes, 0)
        with self._lock:
            if reservation._budget is None:
                return False
            change = nbytes - reservation.nbytes
            if not force and not self._fits(reservation.owner, change):
                return False
            self._move(reservation.owner, change)
            reservation.nbytes = nbytes
            return True

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation._budget is None:
                return
            reservation._budget = None
            self._move(reservation.owner, -reservation.nbytes)
