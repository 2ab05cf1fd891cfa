"""MemoryBudget: examples, and a state machine over its invariants."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from dataflare.control import MemoryBudget, Reservation
from dataflare.control.budget import format_bytes
from dataflare.kernels.errors import MemoryLimitError, OptionError

OWNERS = ["read", "compute", "write"]


def test_reservations_are_counted_until_released_once() -> None:
    budget = MemoryBudget(100)
    first = budget.reserve("read", 60)
    assert first is not None
    assert budget.reserve("read", 41) is None
    first.release()
    first.release()
    assert budget.reserved_bytes == 0
    assert budget.peak_bytes == 60


def test_a_guarantee_is_kept_free_for_its_owner_alone() -> None:
    budget = MemoryBudget(100)
    budget.guarantee("write", 30)
    assert budget.reserve("read", 71) is None
    assert budget.reserve("read", 70) is not None
    assert budget.reserve("write", 30) is not None
    assert budget.available_bytes == 0


def test_a_guarantee_that_does_not_fit_is_refused_with_both_sizes() -> None:
    budget = MemoryBudget(1024)
    budget.guarantee("read", 1000)
    with pytest.raises(MemoryLimitError, match=r"write needs 100 B .* makes 1\.1 KiB.* limit is 1\.0 KiB"):
        budget.guarantee("write", 100)
    budget.withdraw("read")
    budget.guarantee("write", 100)


def test_a_correction_counts_what_exists_even_over_the_limit() -> None:
    budget = MemoryBudget(100)
    reservation = budget.reserve("read", 50)
    assert reservation is not None
    assert not reservation.resize(120)
    reservation.correct(120)
    assert budget.reserved_bytes == 120
    assert budget.snapshot().overdraft_bytes == 20
    assert budget.reserve("write", 1) is None
    reservation.release()
    assert budget.reserve("write", 100) is not None


def test_what_is_kept_comes_out_of_its_own_reservation_while_others_hold_the_rest() -> None:
    budget = MemoryBudget(100)
    budget.guarantee("read", 40)
    batch, other = budget.reserve("read", 40), budget.reserve("compute", 60)
    assert batch is not None
    assert other is not None
    assert budget.keep("result", 15, batch)
    assert (batch.nbytes, budget.reserved_bytes, budget.peak_bytes) == (25, 100, 100)
    batch.release()
    other.release()
    assert budget.reserved_bytes == 15


def test_what_is_kept_leaves_room_for_every_guarantee() -> None:
    budget = MemoryBudget(100)
    budget.guarantee("read", 40)
    assert budget.keep("result", 60, None)
    assert not budget.keep("result", 1, None)
    assert budget.reserved_bytes == 60


def test_without_a_limit_everything_is_counted_and_nothing_refused() -> None:
    budget = MemoryBudget()
    with budget.reserve("read", 10**15):
        assert budget.reserved_bytes == 10**15
        assert budget.available_bytes is None
    assert budget.reserved_bytes == 0


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(OptionError, match=r"limit_bytes must be >= 1"):
        MemoryBudget(0)
    with pytest.raises(OptionError, match=r"nbytes must be >= 0"):
        MemoryBudget(10).reserve("read", -1)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")],
)
def test_bytes_as_text(nbytes: int, text: str) -> None:
    assert format_bytes(nbytes) == text


class BudgetMachine(RuleBasedStateMachine):
    """Any history of reservations and guarantees keeps the budget's promises."""

    LIMIT = 1000
    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.budget = MemoryBudget(self.LIMIT)
        self.live: list[Reservation] = []
        self.guarantees: dict[str, int] = {}
        self.kept: dict[str, int] = {}
        self.overdrawn = 0
        self.forced = False

    def used(self, owner: str) -> int:
        held = sum(reservation.nbytes for reservation in self.live if reservation.owner == owner)
        return held + self.kept.get(owner, 0)

    def idle(self) -> int:
        return sum(max(0, nbytes - self.used(owner)) for owner, nbytes in self.guarantees.items())

    @rule(target=held, owner=st.sampled_from(OWNERS), nbytes=st.integers(0, 600))
    def reserve(self, owner: str, nbytes: int) -> object:
        free_of_own = max(0, self.guarantees.get(owner, 0) - self.used(owner))
        before = self.budget.reserved_bytes
        reservation = self.budget.reserve(owner, nbytes)
        if reservation is None:
            assert nbytes > free_of_own or before + self.idle() > self.LIMIT, (
                "an owner was refused what it is guaranteed"
            )
            return multiple()
        self.live.append(reservation)
        return reservation

    @rule(reservation=consumes(held))
    def release(self, reservation: Reservation) -> None:
        reservation.release()
        self.live.remove(reservation)

    @rule(reservation=held, nbytes=st.integers(0, 600))
    def resize(self, reservation: Reservation, nbytes: int) -> None:
        before = reservation.nbytes
        grew = reservation.resize(nbytes)
        assert reservation.nbytes == (nbytes if grew else before)
        assert grew or nbytes > before

    @rule(reservation=held, nbytes=st.integers(0, 900))
    def correct(self, reservation: Reservation, nbytes: int) -> None:
        reservation.correct(nbytes)
        assert reservation.nbytes == nbytes
        self.note_forced()

    @rule(reservation=held, owner=st.sampled_from(["result", *OWNERS]), nbytes=st.integers(0, 400))
    def keep(self, reservation: Reservation, owner: str, nbytes: int) -> None:
        before, reserved = reservation.nbytes, self.budget.reserved_bytes
        others = sum(self.guarantees.values()) - self.guarantees.get(owner, 0)
        fits = self.used(owner) + nbytes + others <= self.LIMIT
        assert self.budget.keep(owner, nbytes, reservation) == fits
        moved = min(before, nbytes) if fits else 0
        assert reservation.nbytes == before - moved, "what is kept came from elsewhere"
        if fits:
            self.kept[owner] = self.kept.get(owner, 0) + nbytes
            assert self.budget.reserved_bytes == reserved + nbytes - moved
        self.note_forced()

    def note_forced(self) -> None:
        self.overdrawn = max(self.overdrawn, self.budget.reserved_bytes - self.LIMIT)
        self.forced = True

    @rule(owner=st.sampled_from(OWNERS), nbytes=st.integers(0, 500))
    def guarantee(self, owner: str, nbytes: int) -> None:
        try:
            self.budget.guarantee(owner, nbytes)
        except MemoryLimitError:
            return
        self.guarantees[owner] = nbytes

    @rule(owner=st.sampled_from(OWNERS))
    def withdraw(self, owner: str) -> None:
        self.budget.withdraw(owner)
        self.guarantees.pop(owner, None)

    @invariant()
    def every_byte_is_counted_once(self) -> None:
        snapshot = self.budget.snapshot()
        total = sum(reservation.nbytes for reservation in self.live) + sum(self.kept.values())
        assert snapshot.reserved_bytes == total == sum(snapshot.by_owner.values())
        assert {
            owner: self.used(owner) for owner in ["result", *OWNERS] if self.used(owner)
        } == snapshot.by_owner
        assert snapshot.guaranteed_bytes == self.idle()

    @invariant()
    def the_limit_holds_but_for_what_is_counted_as_overdraft(self) -> None:
        snapshot = self.budget.snapshot()
        assert snapshot.overdraft_bytes == self.overdrawn
        assert snapshot.reserved_bytes <= snapshot.peak_bytes <= self.LIMIT + self.overdrawn
        # What exists already counts, though others are promised that room: until enough came back.
        self.forced = self.forced and snapshot.reserved_bytes + self.idle() > self.LIMIT
        assert self.forced or snapshot.reserved_bytes + self.idle() <= self.LIMIT


TestBudgetMachine = BudgetMachine.TestCase
