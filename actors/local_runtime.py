"""LocalRuntime: carries the actors on threads of this process, with pykka. Nothing else knows pykka.

Covers starting, addressing and ending actors, and running one plan. What pykka leaves open is settled here:
its registry stays clean, an exception that is no `Exception` stays inside its actor, control messages
overtake data, threads are reused, and an actor that only keeps books needs no thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar, cast

import pykka
from pykka import ThreadingFuture

from dataflare.actors.cluster import ClusterActor
from dataflare.actors.mailbox import Mailbox
from dataflare.actors.messages import DATA, Wake
from dataflare.actors.runtime import Actor, ActorRef, ActorRuntime
from dataflare.actors.threads import ThreadPool
from dataflare.actors.workflow import RunCompletion
from dataflare.execute.outcome import Outcome, WorkflowState
from dataflare.execute.prepare import PreparedRun, usable_cores
from dataflare.kernels.errors import OptionError, RunError

if TYPE_CHECKING:
    from pykka._envelope import Envelope

    from dataflare.observe.progress import ProgressEvent

__all__ = ["LocalRun", "LocalRuntime"]

A = TypeVar("A", bound=Actor)
P = ParamSpec("P")
R = TypeVar("R")

GRACE_S: Final = 10.0
"""How long the end of a failed or interrupted run waits for a task that does not return from user code."""


class _Call(NamedTuple):
    method: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    wants_reply: bool


class _Reply(NamedTuple):
    """What a call returned or raised: pykka would end all actors on an exception that is no `Exception`."""

    value: Any
    error: BaseException | None


class _Inbox:
    """pykka's inbox protocol over a `Mailbox`. The first message starts the actor: its thread wakes once, not twice."""

    __slots__ = ("_lock", "_start", "mailbox")

    def __init__(self) -> None:
        self.mailbox: Mailbox[Envelope[Any]] = Mailbox()
        self._lock = threading.Lock()
        self._start: Callable[[], None] | None = None

    def start_by(self, start: Callable[[], None]) -> None:
        """Have the first message start the actor by ``start``."""
        self._start = start

    def put(self, envelope: Envelope[Any], /) -> None:
        self.mailbox.put(envelope, data=isinstance(envelope.message, DATA))
        if self._start is not None:
            with self._lock:
                start, self._start = self._start, None
            if start is not None:
                start()

    def get(self) -> Envelope[Any]:
        envelope = self.mailbox.get()
        return _wake_envelope() if envelope is None else envelope

    def empty(self) -> bool:
        return self.mailbox.empty()


class _BorrowingInbox(_Inbox):
    """An inbox whose messages are handled by whoever puts them in; see `_BorrowingHost`."""

    __slots__ = ("host",)

    host: _BorrowingHost

    def put(self, envelope: Envelope[Any], /) -> None:
        super().put(envelope)
        self.host.work_off()


def _wake_envelope() -> Envelope[Any]:
    from pykka._envelope import Envelope

    return Envelope(Wake())


class _Host(pykka.Actor):
    """The pykka actor that holds one of ours."""

    def __init__(
        self, make: Callable[[], Actor], runtime: LocalRuntime, name: str, core: int | None = None
    ) -> None:
        super().__init__()
        self._runtime = runtime
        self._name = name
        self._core = core
        self._ref: LocalRef[Any] = LocalRef(self.actor_ref, name)
        self._actor = make()
        self._actor.context = self
        self._accept()

    def _accept(self) -> None:
        """Get ready for messages."""
        cast(_Inbox, self.actor_inbox).start_by(self._start_actor_loop)

    @staticmethod
    def _create_actor_inbox() -> _Inbox:
        return _Inbox()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return ThreadingFuture()

    def _start_actor_loop(self) -> None:
        try:
            self._runtime.threads.run(self._actor_loop, self._name, self._core)
        except RuntimeError as error:
            self.actor_stopped.set()  # else its messages would wait for ever, and with them whoever sent them
            raise RunError(
                f"the system has no thread for {self._name} ({error}); raise the limit on processes, or lower workers."
            ) from error

    @property
    def ref(self) -> LocalRef[Any]:
        return self._ref

    @property
    def runtime(self) -> LocalRuntime:
        return self._runtime

    def control_pending(self) -> bool:
        return cast(_Inbox, self.actor_inbox).mailbox.control_pending()

    def wake_after(self, seconds: float) -> None:
        cast(_Inbox, self.actor_inbox).mailbox.wake_after(seconds)

    def on_receive(self, message: Any) -> Any:
        try:
            if type(message) is _Call:
                value = message.method(self._actor, *message.args, **message.kwargs)
                return _Reply(value, None)
            self._actor.receive(message)
        except BaseException as error:
            if type(message) is _Call and message.wants_reply:
                return _Reply(None, error)
            self._fail(error)
        return None

    def on_stop(self) -> None:
        # The actor, its handlers and this host refer to each other in circles, and through the run they keep
        # every result alive: memory would come back only when the garbage collector happens to pass.
        vars(self._actor).clear()

    def _fail(self, error: BaseException) -> None:
        try:
            self._actor.on_failure(error)
        except BaseException as second:  # nothing may reach pykka's loop
            second.__context__ = error
            threading.excepthook(
                threading.ExceptHookArgs(
                    (type(second), second, second.__traceback__, threading.current_thread())
                )
            )


class _BorrowingHost(_Host):
    """A host without a thread: messages are handled on the thread that sends them, one at a time.

    Known from Akka as the calling-thread dispatcher. Waking a thread costs 20 to 300 µs on a virtual machine, as
    much as a small batch. A sender that finds the actor at work leaves its message and goes on: the one who works
    takes it along, so nobody waits and no two threads are ever in the actor.
    """

    def __init__(
        self, make: Callable[[], Actor], runtime: LocalRuntime, name: str, core: int | None = None
    ) -> None:
        self._at_work = threading.Lock()
        super().__init__(make, runtime, name, core)

    def _accept(self) -> None:
        cast(_BorrowingInbox, self.actor_inbox).host = self

    @staticmethod
    def _create_actor_inbox() -> _Inbox:
        return _BorrowingInbox()

    def wake_after(self, seconds: float) -> None:
        raise NotImplementedError("an actor without a thread cannot be woken by time")

    def work_off(self) -> None:
        """Handle all that waits, unless another caller is at it: then that one does."""
        inbox = self.actor_inbox
        while not inbox.empty():  # looked at again after the lock is free: nothing is left lying
            if not self._at_work.acquire(blocking=False):
                return
            try:
                while not inbox.empty() and not self.actor_stopped.is_set():
                    envelope = inbox.get()
                    response = self._handle_receive(envelope.message)
                    if envelope.reply_to is not None:
                        envelope.reply_to.set(response)
                if self.actor_stopped.is_set():
                    self._actor_loop_teardown()  # answers those who still ask
            finally:
                self._at_work.release()


class LocalRef(ActorRef[A]):
    """The address of an actor in this process."""

    __slots__ = ("_inner", "_name")

    def __init__(self, inner: pykka.ActorRef[Any], name: str) -> None:
        self._inner = inner
        self._name = name

    @property
    def name(self) -> str:
        """Name of the actor."""
        return self._name

    @property
    def alive(self) -> bool:
        """Whether the actor still takes messages."""
        return self._inner.is_alive()

    def tell(self, message: Any) -> None:
        """Put a message into the actor's mailbox; it is dropped when the actor has ended."""
        try:
            self._inner.tell(message)
        except pykka.ActorDeadError:
            pass  # it ended meanwhile: what it was to hear no longer matters

    def post(self, method: Callable[Concatenate[A, P], Any], *args: P.args, **kwargs: P.kwargs) -> None:
        """Have the actor call one of its methods, without waiting."""
        self.tell(_Call(method, args, kwargs, wants_reply=False))

    def ask(self, method: Callable[Concatenate[A, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Have the actor call one of its methods, and wait for what it returns or raises."""
        try:
            reply = self._inner.ask(_Call(method, args, kwargs, wants_reply=True))
        except pykka.ActorDeadError:
            raise RunError(f"{self._name} has ended and takes no calls any more.") from None
        assert isinstance(reply, _Reply)
        if reply.error is not None:
            raise reply.error
        return cast(R, reply.value)

    def stop(self) -> None:
        """End the actor after the message that it is handling."""
        self._inner.stop(block=False)


class LocalRun:
    """A plan that runs: wait for it, or stop it."""

    def __init__(self, run_id: str, cluster: ActorRef[ClusterActor], completion: RunCompletion) -> None:
        self.run_id = run_id
        self._cluster = cluster
        self._completion = completion

    def wait(self, begin: Callable[[], None] = lambda: None) -> Outcome:
        """Call ``begin``, wait for the end, and return it; from the call on an interrupt stops the run.

        Raises
        ------
        RunError
            A stage failed (any clear `DataFlareError` of a stage is raised as it is), or the run was
            cancelled.
        """
        try:
            begin()
            outcome = self._completion.wait(GRACE_S)
        except BaseException as interrupt:  # Ctrl-C, or an exception that a signal handler raised
            became = self._stopped(f"interrupted by {type(interrupt).__name__}")
            interrupt.add_note(became + self._lingering())
            raise
        if isinstance(outcome, Outcome):
            if outcome.error is not None:
                raise outcome.error
            return outcome
        if self._completion.lingering:
            outcome.add_note("The run ended without waiting any longer." + self._lingering())
        raise outcome

    def cancel(self, reason: str) -> None:
        """Stop the run, and wait until it has stopped, or a task is stuck for too long; whatever its end is."""
        self._stopped(reason)

    def _stopped(self, reason: str) -> str:
        """Stop the run, and return what became of it as a sentence."""
        try:
            self._cluster.ask(ClusterActor.stop_workflow, self.run_id, reason)
        except (OptionError, RunError):  # not deployed yet, or the cluster has ended: nothing to wait for
            end = None
        else:
            end = self._completion.wait_at_most(GRACE_S)
        if isinstance(end, Outcome) and end.status.state is WorkflowState.COMPLETED:
            return "DataFlare had completed the run before; its output is there."
        return "DataFlare stopped the run; no output was written."

    def _lingering(self) -> str:
        tasks = self._completion.lingering
        return f" These tasks have not returned from what they call: {', '.join(tasks)}." if tasks else ""


class LocalRuntime(ActorRuntime):
    """Actors on threads of this process. `shared` gives the one that runs use."""

    NODE_ID = "local"

    _shared: LocalRuntime | None = None
    _shared_pid = 0
    _shared_lock = threading.Lock()

    def __init__(self) -> None:
        self.threads = ThreadPool()
        self._lock = threading.Lock()
        self._cluster: ActorRef[ClusterActor] | None = None

    @classmethod
    def shared(cls) -> LocalRuntime:
        """Return the runtime of this process; a forked child gets a new one, since threads do not fork."""
        if cls._shared is not None and cls._shared_pid == os.getpid():
            return cls._shared
        with cls._shared_lock:
            if cls._shared is None or cls._shared_pid != os.getpid():
                cls._shared = cls()
                cls._shared_pid = os.getpid()
            return cls._shared

    @property
    def cluster(self) -> ActorRef[ClusterActor]:
        """The cluster of one node; started when it is first needed, and again should it have ended."""
        with self._lock:
            if self._cluster is None or not self._cluster.alive:
                cluster = self.spawn(ClusterActor, "cluster")
                cluster.post(ClusterActor.register_node, self.NODE_ID, usable_cores())
                self._cluster = cluster  # not before it has its node: Ctrl-C may come in between
            return self._cluster

    def spawn(
        self, actor: Callable[[], A], name: str, *, quick: bool = False, core: int | None = None
    ) -> ActorRef[A]:
        """Make an actor, which runs on a thread of its own from its first message on; a ``quick`` one needs none."""
        # Not by pykka's own start: other users of pykka in this process must neither see nor stop our actors.
        return (_BorrowingHost if quick else _Host)(actor, self, name, core).ref

    def run(
        self, run: PreparedRun, subscribers: tuple[Callable[[ProgressEvent], object], ...] = ()
    ) -> Outcome:
        """Carry a prepared run out, and return its end; raises as `LocalRun.wait`."""
        cluster, completion = self.cluster, RunCompletion()
        deployed = LocalRun(run.run_id, cluster, completion)
        return deployed.wait(lambda: cluster.post(ClusterActor.deploy_workflow, run, completion, subscribers))

    def deploy(
        self, run: PreparedRun, subscribers: tuple[Callable[[ProgressEvent], object], ...] = ()
    ) -> LocalRun:
        """Start a prepared run."""
        cluster, completion = self.cluster, RunCompletion()
        # Not asked: whoever waits for the end waits anyway, and each hand-over between threads costs time.
        cluster.post(ClusterActor.deploy_workflow, run, completion, subscribers)
        return LocalRun(run.run_id, cluster, completion)

    def close(self, timeout_s: float = 5.0) -> bool:
        """End the cluster and the threads; False when one still runs after ``timeout_s``."""
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.stop()
        ended = self.threads.wait_idle(timeout_s)
        self.threads.close(max(0.0, deadline_s - time.monotonic()))
        return ended
