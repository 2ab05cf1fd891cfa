"""The memory limit from outside: lineitem through filter and map to Parquet, with less and less memory.

Covers: growth of the process's resident memory over a baseline that has libraries and compiled code in it, as the
kernel's own high-water mark; what the run says it accounted for; time against the run without a limit; the same in
a control group that kills who takes more than it has. Every run is a process of its own, and its output is counted.

The baseline is taken when the pipeline is built and has run once over a few thousand records of the same file.
``--parts`` has the child sample where its bytes are, for looking into it; that costs time.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from benchmarks.harness.options import cache_folder, common_parser, quiet_cores
from benchmarks.harness.report import (
    Progress,
    new_console,
    new_report,
    print_environment,
    print_rows,
    print_targets,
    target,
    time_text,
    write_json,
)
from benchmarks.tpch import lineitem

GROWTH_OVER_LIMIT = 1.15
THROUGHPUT_SHARE = 0.9
LIMITS_BYTES = (64_000_000, 128_000_000, 256_000_000)
CONTAINER_BYTES = 512 * 2**20

_ROOT = Path(__file__).resolve().parents[2]
_TRIAL_ROWS = 10_000
_CHEAP = Decimal("24.00")


def _numbers(pipeline: Any) -> Any:
    return pipeline.filter(lambda r: r.l_quantity < _CHEAP).map(
        lambda r: {
            "order": r.l_orderkey,
            "line": r.l_linenumber,
            "revenue": float(r.l_extendedprice) * (1.0 - float(r.l_discount)),
        }
    )


def _texts(pipeline: Any) -> Any:
    return pipeline.filter(lambda r: r.l_quantity < _CHEAP and r.l_shipmode != "AIR").map(
        lambda r: {
            "order": r.l_orderkey,
            "revenue": float(r.l_extendedprice) * (1.0 - float(r.l_discount)),
            "mode": r.l_shipmode,
            "instruct": r.l_shipinstruct,
            "comment": r.l_comment,
        }
    )


_JOBS: dict[str, Callable[[Any], Any]] = {"numbers": _numbers, "numbers and texts": _texts}


# -- the process that is watched ---------------------------------------------------------------------------------


def _child(options: argparse.Namespace) -> None:
    import pyarrow as pa

    import dataflare as flare
    from dataflare.kernels.memory.pool import default_pool

    build = _JOBS[options.child]
    with tempfile.TemporaryDirectory(dir=options.data) as folder:
        importlib.import_module("polars")  # a file this small would not be worth loading it
        trial = build(flare.read_parquet(str(options.child_trial), decoder="native"))
        trial.write_parquet(str(Path(folder) / "trial.parquet")).run()
        job = build(flare.read_parquet(str(options.child_source))).write_parquet(
            str(Path(folder) / "out.parquet")
        )
        default_pool().trim()
        pa.default_memory_pool().release_unused()
        _say({"ready": True})
        parts = _Parts() if options.parts else None
        start = time.perf_counter()
        report = job.run(memory_limit=options.child_limit)
        job_s = time.perf_counter() - start
        _say(
            {
                "job_s": job_s,
                "rows_out": report.rows_out,
                "workers": report.workers,
                "batches": report.batches,
                "peak_host_bytes": report.peak_host_bytes,
                "unaccounted_bytes": report.unaccounted_bytes,
                "parts": parts.stop() if parts is not None else None,
            }
        )


def _say(value: dict[str, Any]) -> None:
    """Tell the parent something, and wait until it has looked."""
    print(json.dumps(value), flush=True)
    sys.stdin.readline()


class _Parts:
    """Where the bytes of this process are, when it has the most of them."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {"resident": 0}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> dict[str, int]:
        self._over.set()
        self._thread.join()
        return self._most

    def _sample(self) -> None:
        import pyarrow as pa

        from dataflare.kernels.memory.pool import default_pool

        while not self._over.wait(0.002):
            fields = _status_bytes("self")
            if fields.get("VmRSS", 0) > self._most["resident"]:
                pool = default_pool().statistics()
                self._most = {
                    "resident": fields["VmRSS"],
                    "anonymous": fields["RssAnon"],
                    "pool in use": pool.in_use_bytes,
                    "pool idle": pool.idle_bytes,
                    "arrow": pa.total_allocated_bytes(),
                }


# -- the process that watches ------------------------------------------------------------------------------------


def _status_bytes(pid: int | str) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines()
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kilobytes) * 1024 for name, kilobytes, _ in fields}


class _Group:
    """A control group with a memory limit, version 2 or 1, below the one that this process is in."""

    def __init__(self, limit_bytes: int) -> None:
        self.folder = self._parent() / f"dataflare-benchmark-{os.getpid()}"
        self.folder.mkdir()
        name = "memory.max" if (self.folder / "memory.max").exists() else "memory.limit_in_bytes"
        (self.folder / name).write_text(str(limit_bytes))

    @staticmethod
    def _parent() -> Path:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mount = Path("/sys/fs/cgroup/memory" if "memory" in controllers.split(",") else "/sys/fs/cgroup")
            folder = mount / path.lstrip("/")
            if any((folder / name).exists() for name in ("memory.max", "memory.limit_in_bytes")):
                return folder
        raise OSError("there is no control group for memory")

    def enter(self) -> None:
        """Put the calling process into the group."""
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def kills(self) -> int:
        """Processes that the kernel has killed in it."""
        for name in ("memory.events", "memory.oom_control"):
            if (self.folder / name).exists():
                lines = (self.folder / name).read_text().splitlines()
                return sum(int(line.split()[1]) for line in lines if line.split()[0] == "oom_kill")
        return 0

    def remove(self) -> None:
        self.folder.rmdir()


def _watch(arguments: Sequence[str], group: _Group | None = None) -> dict[str, Any]:
    """Run the child and return what it said, with what it took as seen from here."""
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.control.memory", *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=group.enter if group is not None else None,
    )
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None
    try:
        said = child.stdout.readline()
        if said:
            Path(f"/proc/{child.pid}/clear_refs").write_text("5")  # the high-water mark begins anew
            before = _status_bytes(child.pid)
            child.stdin.write("\n")
            child.stdin.flush()
            said = child.stdout.readline()
        if not said:
            child.wait()
            if group is not None and group.kills:
                return {"killed": True}
            raise RuntimeError(f"the child failed with {child.returncode}:\n{child.stderr.read().strip()}")
        after = _status_bytes(child.pid)
        result: dict[str, Any] = json.loads(said)
        result["killed"] = False
        result["baseline_bytes"] = before["VmRSS"]
        result["growth_bytes"] = after["VmHWM"] - before["VmRSS"]
        return result
    finally:
        child.communicate("\n" if child.poll() is None else None)


def _trial_file(folder: Path, source: Path) -> Path:
    import pyarrow.parquet as pq

    path = folder / "trial-in.parquet"
    file = pq.ParquetFile(source)
    batch = next(file.iter_batches(_TRIAL_ROWS, row_groups=[0]))
    with pq.ParquetWriter(path, file.schema_arrow) as writer:
        writer.write_batch(batch)
    return path


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("control.memory", __doc__, size=None, rounds=3)
    parser.add_argument("--size", type=float, default=10.0, help="the scale factor of lineitem")
    parser.add_argument(
        "--data", type=Path, default=cache_folder(), help="folder that keeps the generated files"
    )
    parser.add_argument("--job", choices=_JOBS, action="append", help="only this one; may be repeated")
    parser.add_argument("--parts", action="store_true", help="print where the bytes are at the peak")
    parser.add_argument("--child", choices=_JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--child-source", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child-trial", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--child-limit", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _label(limit_bytes: int | None) -> str:
    return "no limit" if limit_bytes is None else f"{limit_bytes / 1e6:.0f} MB"


def _summary(job: str, limit_bytes: int | None, runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        **runs[-1],
        "name": f"{job}, {_label(limit_bytes)}",
        "role": "dataflare",
        "job": job,
        "limit_bytes": limit_bytes,
        "job_s": statistics.median(run["job_s"] for run in runs),
        "growth_bytes": max(run["growth_bytes"] for run in runs),
        "peak_host_bytes": max(run["peak_host_bytes"] for run in runs),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    if options.child is not None:
        _child(options)
        return {}
    console = new_console()
    quiet = quiet_cores(options)
    report = new_report("control.memory", scale=options.size, rounds=options.rounds)
    print_environment(console, report)
    jobs = options.job or list(_JOBS)
    cases = [(job, limit) for job in jobs for limit in (None, *reversed(LIMITS_BYTES))]
    runs: dict[tuple[str, int | None], list[dict[str, Any]]] = {case: [] for case in cases}
    contained: dict[str, dict[str, Any]] = {}
    with Progress(console) as progress, tempfile.TemporaryDirectory(dir=options.data) as folder:
        progress(f"lineitem at scale {options.size:g}")
        source = lineitem(options.data, options.size)
        trial = _trial_file(Path(folder), source)
        common = ["--child-source", str(source), "--child-trial", str(trial), "--data", str(options.data)]
        common += ["--parts"] if options.parts else []
        for number in range(options.rounds):
            for job, limit in cases:
                progress(f"round {number + 1} of {options.rounds}: {job}, {_label(limit)}")
                quiet.wait()
                limited = [] if limit is None else ["--child-limit", str(limit)]
                runs[job, limit].append(_watch(["--child", job, *common, *limited]))
        for job in jobs:
            progress(f"{job}, in a control group of {CONTAINER_BYTES >> 20} MiB")
            try:
                group = _Group(CONTAINER_BYTES)
            except OSError as error:
                console.print(f"no control group can be made, so none is tried: {error}")
                break
            try:
                contained[job] = _watch(["--child", job, *common], group)
            finally:
                group.remove()
    results = {case: _summary(*case, taken) for case, taken in runs.items()}
    report["sections"].append(
        {"title": "lineitem within a memory limit", "measurements": list(results.values())}
    )
    for (job, limit), result in results.items():
        if limit is None:
            continue
        free = results[job, None]
        if result["rows_out"] != free["rows_out"]:
            raise AssertionError(f"{result['name']}: {result['rows_out']} rows, not {free['rows_out']}")
        report["targets"] += [
            target(
                f"{result['name']}: growth over the limit",
                GROWTH_OVER_LIMIT,
                result["growth_bytes"] / limit,
                at_least=False,
                unit="×",
            ),
            target(
                f"{result['name']}: accounted over the limit",
                1.0,
                result["peak_host_bytes"] / limit,
                at_least=False,
                unit="×",
            ),
            target(
                f"{result['name']}: throughput over that without a limit",
                THROUGHPUT_SHARE,
                free["job_s"] / result["job_s"],
                at_least=True,
                unit="×",
            ),
        ]
    for job, result in contained.items():
        report["targets"].append(
            target(
                f"{job}, in a control group of {CONTAINER_BYTES >> 20} MiB: killed",
                0,
                int(result["killed"]),
                at_least=False,
            )
        )
    rows = [
        *results.values(),
        *({**result, "name": f"{job}, control group"} for job, result in contained.items()),
    ]
    print_rows(
        console,
        f"lineitem at scale {options.size:g} through filter and map to Parquet, each run in its own process",
        (
            "job",
            "rows out",
            "workers",
            "batches",
            "time",
            "growth MB",
            "accounted MB",
            "unaccounted MB",
            "baseline MB",
        ),
        [_row(result) for result in rows],
    )
    if options.parts:
        for result in rows:
            parts = ", ".join(
                f"{name} {nbytes / 1e6:.0f}" for name, nbytes in (result.get("parts") or {}).items()
            )
            console.print(f"{result['name']}, MB at the peak: {parts}")
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    return report


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    if result["killed"]:
        return (result["name"], *["killed"] * 8)
    sizes = ("growth_bytes", "peak_host_bytes", "unaccounted_bytes", "baseline_bytes")
    return (
        result["name"],
        f"{result['rows_out']:,}",
        str(result["workers"]),
        f"{result['batches']:,}",
        time_text(result["job_s"]),
        *(f"{result[name] / 1e6:.0f}" for name in sizes),
    )


if __name__ == "__main__":
    main()
