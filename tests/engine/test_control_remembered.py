"""RememberedSizes: bounded, newest kept."""

from __future__ import annotations

from dataflare.control import RememberedSizes
from dataflare.control.strategies import FoundSize


def test_the_key_unused_for_longest_goes_first() -> None:
    sizes = RememberedSizes(capacity=2)
    sizes.remember("a", FoundSize(1, True))
    sizes.remember("b", FoundSize(2, True))
    assert sizes.recall("a") == FoundSize(1, True)
    sizes.remember("c", FoundSize(3, False))
    assert sizes.recall("b") is None
    assert sizes.recall("a") == FoundSize(1, True)
    assert sizes.recall("c") == FoundSize(3, False)
    sizes.clear()
    assert sizes.recall("a") is None
