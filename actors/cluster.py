"""ClusterActor: the nodes, and the workflows that run on them. Here: one node.

Covers registration, heartbeats and deployment. Placement over several nodes is not here yet: every task of a
workflow runs where the cluster runs.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from dataflare.actors.messages import WorkflowChanged
from dataflare.actors.runtime import Actor, ActorRef
from dataflare.actors.workflow import RunCompletion, WorkflowActor
from dataflare.control.clock import Clock
from dataflare.execute.outcome import WorkflowState, WorkflowStatus
from dataflare.kernels.errors import OptionError, RunError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from dataflare.execute.prepare import PreparedRun
    from dataflare.observe.progress import ProgressEvent

__all__ = ["ClusterActor", "NodeInfo"]


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """One node of a cluster."""

    node_id: str
    cores: int
    registered_s: float
    last_heartbeat_s: float


class ClusterActor(Actor):
    """Knows the nodes, and deploys, watches and stops workflows.

    Parameters
    ----------
    clock
        Monotonic clock in seconds; stamps heartbeats.
    """

    KEPT_ENDED = 256
    """Ended workflows whose status is kept."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._nodes: dict[str, NodeInfo] = {}
        self._running: dict[str, ActorRef[WorkflowActor]] = {}
        self._status: OrderedDict[str, WorkflowStatus] = OrderedDict()

    def register_node(self, node_id: str, cores: int) -> None:
        """Add a node, or renew what is known about it."""
        now_s = self._clock()
        self._nodes[node_id] = NodeInfo(node_id, cores, now_s, now_s)

    def unregister_node(self, node_id: str) -> None:
        """Remove a node."""
        self._node(node_id)
        del self._nodes[node_id]

    def heartbeat(self, node_id: str) -> None:
        """Note that a node is alive."""
        self._nodes[node_id] = replace(self._node(node_id), last_heartbeat_s=self._clock())

    def nodes(self) -> tuple[NodeInfo, ...]:
        """Return the nodes."""
        return tuple(self._nodes.values())

    def deploy_workflow(
        self,
        run: PreparedRun,
        completion: RunCompletion | None = None,
        subscribers: tuple[Callable[[ProgressEvent], object], ...] = (),
    ) -> ActorRef[WorkflowActor]:
        """Start a workflow for a prepared run, and return its address."""
        if not self._nodes:
            raise RunError("the cluster has no node to run on; register_node first.")
        me = self.context.ref
        workflow = self.context.runtime.spawn(
            lambda: WorkflowActor(run, me, completion), run.run_id, quick=not subscribers
        )
        self._running[run.run_id] = workflow
        self._status[run.run_id] = WorkflowStatus(WorkflowState.CREATED)
        try:
            for subscriber in subscribers:
                workflow.post(WorkflowActor.subscribe_progress, subscriber)
            workflow.post(WorkflowActor.initialize)
            workflow.post(WorkflowActor.start)
        except RunError as error:  # the system has no thread for it
            self.receive(WorkflowChanged(run.run_id, WorkflowState.FAILED.value, str(error)))
            if completion is not None:
                completion.set(error)
            raise
        return workflow

    def stop_workflow(self, workflow_id: str, reason: str = "stopped") -> None:
        """Cancel a workflow; one that has ended stays as it is."""
        self._known(workflow_id)
        workflow = self._running.get(workflow_id)
        if workflow is not None:
            workflow.post(WorkflowActor.cancel, reason)

    def workflow_status(self, workflow_id: str) -> WorkflowStatus:
        """Return the status of a workflow, as it last told."""
        self._known(workflow_id)
        return self._status[workflow_id]

    def workflows(self) -> dict[str, WorkflowStatus]:
        """Return the workflows that run or ended recently, and their status."""
        return dict(self._status)

    def receive(self, message: Any) -> None:
        """Take note of a workflow's new status."""
        assert isinstance(message, WorkflowChanged)
        status = WorkflowStatus(WorkflowState(message.status), message.reason)
        self._status[message.workflow_id] = status
        if status.state.ended:
            self._running.pop(message.workflow_id, None)
            ended = [name for name in self._status if name not in self._running]
            for name in ended[: -self.KEPT_ENDED]:
                del self._status[name]

    def on_failure(self, error: BaseException) -> None:
        """Live on: nothing that arrives may end the cluster, and callers get their own errors."""

    def _node(self, node_id: str) -> NodeInfo:
        node = self._nodes.get(node_id)
        if node is None:
            hint = nearest(node_id, self._nodes)
            raise OptionError(f"node {node_id!r} is not registered. {hint}".rstrip())
        return node

    def _known(self, workflow_id: str) -> None:
        if workflow_id not in self._status:
            hint = nearest(workflow_id, self._status)
            raise OptionError(f"there is no workflow {workflow_id!r}. {hint}".rstrip())
