"""The command line: ``dataflare run job.toml``, ``dataflare run job.py``, ``dataflare doctor``.

Covers what a shell sees: arguments, exit codes, progress and messages. Pipelines are built by the job
modules of this package and run by the engine.
"""

from __future__ import annotations

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    from dataflare.cli.app import run_command_line

    return run_command_line(argv)
