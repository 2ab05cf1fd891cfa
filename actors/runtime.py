"""What carries actors: the protocol between the three actor classes and whatever runs them.

Covers references, addresses and the context of an actor. `dataflare.actors.local_runtime` implements it with
threads; another runtime needs nothing else from the actors. No actor imports a runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar

__all__ = ["Actor", "ActorContext", "ActorRef", "ActorRuntime"]

A = TypeVar("A", bound="Actor")
P = ParamSpec("P")
R = TypeVar("R")


class ActorRef(Generic[A]):
    """The address of an actor. Safe to use from any thread; sending never blocks."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """Name of the actor, unique in its workflow."""
        raise NotImplementedError

    @property
    def alive(self) -> bool:
        """Whether the actor still takes messages."""
        raise NotImplementedError

    def tell(self, message: Any) -> None:
        """Put a message into the actor's mailbox; it is dropped when the actor has ended."""
        raise NotImplementedError

    def post(self, method: Callable[Concatenate[A, P], Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the actor call one of its methods, without waiting."""
        raise NotImplementedError

    def ask(self, method: Callable[Concatenate[A, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the actor call one of its methods, and wait for what it returns or raises."""
        raise NotImplementedError

    def stop(self) -> None:
        """End the actor after the message that it is handling."""
        raise NotImplementedError


class ActorRuntime(Protocol):
    """Starts actors."""

    def spawn(
        self, actor: Callable[[], A], name: str, *, quick: bool = False, core: int | None = None
    ) -> ActorRef[A]:
        """Start an actor that ``actor`` makes, and return its address.

        ``quick`` promises that it handles every message in microseconds, waits for nothing and calls no code of
        the user: a runtime may then do without a thread for it. Actors with different numbers for ``core`` compute
        at the same time, and do so best on different cores.
        """


class ActorContext(Protocol):
    """What an actor can ask of its surroundings. Used by the actor itself only."""

    @property
    def ref(self) -> ActorRef[Any]:
        """The actor's own address."""

    @property
    def runtime(self) -> ActorRuntime:
        """Where the actor can start others."""

    def control_pending(self) -> bool:
        """Whether a message other than data waits in the mailbox: time to return from a long loop."""

    def wake_after(self, seconds: float) -> None:
        """Send a `Wake` message when nothing else has come for so long."""


class Actor:
    """Base of the actors: handles one message at a time, each by the method registered for its type."""

    context: ActorContext

    def receive(self, message: Any) -> None:
        """Handle one message."""
        raise NotImplementedError

    def on_failure(self, error: BaseException) -> None:
        """Deal with an error that `receive` or a posted method let through; the actor lives on."""
        raise NotImplementedError
