"""Actors: workflows, their tasks and the cluster that deploys them, and the runtimes that carry them.

The same three classes (`ClusterActor`, `WorkflowActor`, `TaskActor`) run on every runtime.
"""
