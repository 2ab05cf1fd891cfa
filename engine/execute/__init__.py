"""Execution: what a runtime needs to run a physical plan, without threads, actors or messages."""
