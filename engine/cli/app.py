"""Arguments, signals, exit codes and messages of the command line.

Exit codes: 0 the run finished; 1 the input, a stage or the output failed; 2 the command, the job or the plan
is wrong, nothing has run; 130 interrupted (Ctrl-C); 143 terminated (SIGTERM). After an interrupt or a failure
no partial file is left.

Covers what a shell sees. Reading jobs is `job_file`'s and `job_module`'s, running them is the pipeline's.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from dataflare.cli.job_document import JobCodeError, parse_setting
from dataflare.kernels.errors import (
    DataFlareError,
    DeviceUnavailableError,
    OptionError,
    OutputExistsError,
    PlanError,
    RunCancelledError,
    RunError,
)

__all__ = ["EXIT_FAILED", "EXIT_INTERRUPTED", "EXIT_OK", "EXIT_TERMINATED", "EXIT_USAGE", "run_command_line"]

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# What is known to be wrong before the first record is read.
_NOTHING_HAS_RUN = (PlanError, DeviceUnavailableError, OutputExistsError)


def run_command_line(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Parameters
    ----------
    argv
        Arguments without the program's name; None for those of the process.
    """
    arguments = _parser().parse_args(argv)
    if arguments.command == "doctor":
        from dataflare.cli.doctor import run_doctor

        return run_doctor(as_json=arguments.json, require=arguments.require)
    with _terminate_like_an_interrupt() as received:
        try:
            return _run(arguments)
        except (KeyboardInterrupt, RunCancelledError) as error:
            if arguments.traceback:
                traceback.print_exc()
            by_signal = signal.SIGTERM in received
            detail = f" {error}" if isinstance(error, RunCancelledError) else " No output was written."
            _complain(f"{'terminated' if by_signal else 'interrupted'}.{detail}")
            return EXIT_TERMINATED if by_signal else EXIT_INTERRUPTED
        except DataFlareError as error:
            if arguments.traceback:
                traceback.print_exc()
            _complain(_describe(error, arguments.job))
            return EXIT_USAGE if isinstance(error, _NOTHING_HAS_RUN) else EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dataflare",
        description="Record-level Python functions over columnar data at memory speed.",
        epilog="Exit codes: 0 ok, 1 the input, a stage or the output failed, 2 the command or the job is wrong, "
        "130 interrupted, 143 terminated.",
    )
    parser.add_argument("--version", action=_PrintVersion, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run",
        help="run a job: job.toml or job.py",
        description="Run a job and print a report. A job is a TOML file with [source], [[steps]] and [sink], "
        "or a Python file with a module-level `pipeline` or a function build(**settings). Paths of inputs in "
        "a TOML file are relative to it, paths of outputs and of --set to the current folder.",
        epilog=parser.epilog,
    )
    run.add_argument("job", type=Path, help="job.toml or job.py")
    run.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="replace a value of a TOML job by dotted key (--set constants.late=30 --set sink.path=x.csv), "
        "or pass a setting to build(); values are TOML, anything else is text; may be given several times",
    )
    run.add_argument(
        "--device", help="where record functions run: auto, cpu, cuda, cuda:N, cuda:emulated, python"
    )
    run.add_argument("--workers", type=int, metavar="N", help="batches computed at the same time")
    run.add_argument("--memory-limit", metavar="BYTES", help="what the run may hold: 512MB, 2GiB")
    run.add_argument("--math", help="vector (fast, within 4 units in the last place) or exact")
    run.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    run.add_argument("--explain", action="store_true", help="print the plan and do not run it")
    run.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show a progress bar (default: when standard error is a terminal)",
    )
    run.add_argument(
        "--curves",
        type=Path,
        metavar="FILE",
        help="draw how the run went over time: .svg, .png, or .html with the table of stages; replaces FILE",
    )
    run.add_argument("-q", "--quiet", action="store_true", help="print no report")
    run.add_argument("--traceback", action="store_true", help="print Python's traceback with an error")
    doctor = commands.add_parser(
        "doctor",
        help="show what this machine offers and what is missing",
        description="Look at Python, the packages, the CPU, memory limits and GPUs, and say what to install. "
        "Exit code 0: records can be computed on the CPU; 1: they cannot, or what --require names is missing.",
    )
    doctor.add_argument("--json", action="store_true", help="print one JSON document")
    doctor.add_argument("--require", choices=["cuda"], help="fail with the reason where no GPU can be used")
    return parser


class _PrintVersion(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from dataflare import __version__

        print(f"dataflare {__version__}")
        parser.exit(EXIT_OK)


def _run(arguments: argparse.Namespace) -> int:
    if arguments.curves is not None:
        _check_curves(arguments.curves, explain=arguments.explain)
    settings = _settings(arguments.settings)
    options: dict[str, Any]
    match arguments.job.suffix:
        case ".toml":
            from dataflare.cli.job_file import load_job_file

            pipeline, options = load_job_file(arguments.job, settings, overwrite=arguments.overwrite)
        case ".py":
            from dataflare.cli.job_module import load_job_module

            if arguments.overwrite:
                settings["overwrite"] = True
            pipeline, options = load_job_module(arguments.job, settings), {}
        case suffix:
            raise OptionError(
                f"{arguments.job}: a job is a .toml or a .py file, not {suffix or 'a file without suffix'}."
            )
    for name in ("device", "workers", "memory_limit", "math", "progress"):
        if getattr(arguments, name) is not None:
            options[name] = getattr(arguments, name)
    if arguments.explain:
        print(pipeline.explain(**options))
        return EXIT_OK
    report = pipeline.run(**_with_progress(options))
    _print_report(report, quiet=arguments.quiet)
    if arguments.curves is not None:
        report.write_curves(arguments.curves)
    return EXIT_OK


def _check_curves(path: Path, *, explain: bool) -> None:
    """Refuse what could not be drawn before the run, and not after it."""
    from dataflare.observe.drawing import picture_kind

    if explain:
        raise OptionError("--curves draws a run, and --explain runs nothing: leave one of them out.")
    picture_kind(path)


def _settings(given: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for argument in given:
        key, value = parse_setting(argument)
        if key in settings:
            raise OptionError(f"--set {key} is given twice.")
        settings[key] = value
    return settings


def _with_progress(options: Mapping[str, Any]) -> dict[str, Any]:
    """Show progress on a terminal unless somebody has decided it."""
    from dataflare.options import RunOptions

    if RunOptions.resolve(options).progress is not None:
        return dict(options)
    return {**options, "progress": sys.stderr.isatty()}


def _print_report(report: object, *, quiet: bool) -> None:
    if quiet:
        return
    if sys.stdout.isatty():
        from rich.console import Console

        Console().print(report)
    else:
        print(report)


def _complain(message: str) -> None:
    print(f"dataflare: {message}", file=sys.stderr)


def _describe(error: DataFlareError, job: Path) -> str:
    """Return the message of an error, with what caused it and where in the user's job it came up."""
    parts = [str(error), *getattr(error, "__notes__", [])]
    cause = error.__cause__
    if isinstance(error, JobCodeError):
        assert cause is not None
        parts.append(_traceback_in(cause, job))
    elif isinstance(error, RunError) and cause is not None and str(cause) not in str(error):
        parts.append(f"Caused by {type(cause).__name__}: {cause}")
    if job.suffix == ".py" and f"{job.name}:" not in str(error):
        frames = [
            frame
            for raised in (cause, error)
            if raised is not None
            for frame in traceback.extract_tb(raised.__traceback__)
            if Path(frame.filename).name == job.name
        ]
        parts += [f"  at {frame.filename}:{frame.lineno}: {frame.line}" for frame in frames[-1:]]
    return "\n".join(parts)


def _traceback_in(error: BaseException, job: Path) -> str:
    """Format a traceback from the first frame of the user's file on."""
    trace = error.__traceback__
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).name != job.name:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


@contextmanager
def _terminate_like_an_interrupt() -> Iterator[list[int]]:
    """Turn SIGTERM into a KeyboardInterrupt, so that a container's stop cleans up as Ctrl-C does."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, handle)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, previous)
