"""The record-at-a-time way against batches: the same work over dictionaries, over a queue, and compiled.

Covers: throughput, latency of a batch, processor time a record and peak memory a record. Every way runs in
a process of its own, so that memory and processor time are its own; the ways take turns, and the memory is
what the kernel counts from outside. Rates are compared, so that the slow ways may work on fewer records.

The work is W2: keep ``age > 18``, then ``{"id": id, "total": price * qty * 1.08}``. The dictionary ways
start from a list of dictionaries, DataFlare starts from columns, each its own home form; "dictionaries in
and out" shows DataFlare when the caller has dictionaries and wants dictionaries.
"""

from __future__ import annotations

import argparse
import gc
import json
import queue
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.options import common_parser, quiet_cores
from benchmarks.harness.plot import bars
from benchmarks.harness.processes import ChildRun, run_child
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
from benchmarks.harness.runner import quantile

Record = dict[str, Any]

LOOP = "dictionaries, plain loop"
HOP = "dictionaries, one queue hop a record"
COLUMNS = "DataFlare, columns"
BOTH_WAYS = "DataFlare, dictionaries in and out"

#: Records of the dictionary ways, at most: they need half a kilobyte each.
DICTIONARY_ROWS = 1_000_000
BATCH_ROWS = 10_000
_PASSES = 5
_ROLES = {LOOP: "peer", HOP: "peer", COLUMNS: "dataflare", BOTH_WAYS: "dataflare"}


def _columns(rows: int) -> Any:
    from benchmarks.data import generate

    return generate(("id", "age", "price", "qty"), rows)


def _dictionaries(rows: int) -> list[Record]:
    columns = _columns(rows)
    lists = {name: values.tolist() for name, values in columns.arrays.items()}
    return [
        {"id": i, "age": a, "price": p, "qty": q}
        for i, a, p, q in zip(lists["id"], lists["age"], lists["price"], lists["qty"], strict=True)
    ]


def plain_loop(records: Sequence[Record]) -> list[Record]:
    """Filter and map record by record."""
    return [{"id": r["id"], "total": r["price"] * r["qty"] * 1.08} for r in records if r["age"] > 18]


def queue_hop(records: Sequence[Record]) -> list[Record]:
    """Filter and map behind a bounded queue: one thread puts each record, another takes and works on it."""
    hop: queue.Queue[Record | None] = queue.Queue(maxsize=1000)
    kept: list[Record] = []

    def consume() -> None:
        while (r := hop.get()) is not None:
            if r["age"] > 18:
                kept.append({"id": r["id"], "total": r["price"] * r["qty"] * 1.08})

    worker = threading.Thread(target=consume)
    worker.start()
    for record in records:
        hop.put(record)
    hop.put(None)
    worker.join()
    return kept


def _flare_columns(table: Any) -> Callable[[], Any]:
    import dataflare as flare

    def run() -> Any:
        kept = flare.from_arrow(table).filter(lambda r: r.age > 18)
        return kept.map(lambda r: {"id": r.id, "total": r.price * r.qty * 1.08}).collect()

    return run


def _flare_dictionaries(records: Sequence[Record]) -> list[Record]:
    import dataflare as flare

    batch = flare.SharedDataBatch.from_records(records)
    kept = batch.filter(lambda r: r.age > 18).map(lambda r: {"id": r.id, "total": r.price * r.qty * 1.08})
    result: list[Record] = kept.to_pylist()
    return result


def _batch_call(way: str, rows: int) -> Callable[[], Any]:
    """Return the work on one batch, from the batch there to the result there."""
    if way == COLUMNS:
        import dataflare as flare

        batch = flare.SharedDataBatch.from_arrow(_columns(rows).table)
        keep, project = (lambda r: r.age > 18), (lambda r: {"id": r.id, "total": r.price * r.qty * 1.08})
        return lambda: batch.filter(keep).map(project)
    records = _dictionaries(rows)
    work = {LOOP: plain_loop, HOP: queue_hop, BOTH_WAYS: _flare_dictionaries}[way]
    return lambda: work(records)


def _whole_call(way: str, rows: int) -> Callable[[], Any]:
    return _flare_columns(_columns(rows).table) if way == COLUMNS else _batch_call(way, rows)


def _child(way: str, rows: int) -> dict[str, Any]:
    """Run one way in this process; zero rows is the process by itself, ready to work."""
    if rows == 0:
        _batch_call(way, BATCH_ROWS)()
        return {"rows": 0}
    whole = _whole_call(way, rows)
    gc.collect()
    gc.freeze()
    kept = len(whole())
    walls, cpus = [], []
    for _ in range(_PASSES):
        wall, cpu = time.perf_counter(), time.process_time()
        result = whole()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
        del result
    batch = _batch_call(way, BATCH_ROWS)
    latencies = []
    for _ in range(5):
        batch()
    for _ in range(50):
        start = time.perf_counter()
        batch()
        latencies.append(time.perf_counter() - start)
    return {
        "rows": rows,
        "rows_out": kept,
        "wall_s": statistics.median(walls),
        "cpu_s": statistics.median(cpus),
        "latency_median_s": quantile(latencies, 0.5),
        "latency_p99_s": quantile(latencies, 0.99),
    }


def _summary(way: str, runs: Sequence[ChildRun], idle: ChildRun) -> dict[str, Any]:
    rows = runs[0].output["rows"]

    def median(field: str) -> float:
        return statistics.median(run.output[field] for run in runs)

    peak = statistics.median(run.peak_rss_bytes for run in runs)
    return {
        "name": way,
        "role": _ROLES[way],
        "rows": rows,
        "rows_out": runs[0].output["rows_out"],
        "records_per_s": rows / median("wall_s"),
        "cpu_s_per_record": median("cpu_s") / rows,
        "latency_median_s": median("latency_median_s"),
        "latency_p99_s": median("latency_p99_s"),
        "batch_rows": BATCH_ROWS,
        "peak_rss_bytes": peak,
        "idle_rss_bytes": idle.peak_rss_bytes,
        "memory_bytes_per_record": max(peak - idle.peak_rss_bytes, 0) / rows,
    }


def _targets(by_way: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    ours, loop, hop = by_way[COLUMNS], by_way[LOOP], by_way[HOP]

    def of(field: str, theirs: dict[str, Any]) -> float:
        return ours[field] / theirs[field]

    return [
        target("records/s over the plain loop", 100, of("records_per_s", loop), at_least=True, unit="×"),
        target("records/s over one queue hop", 1000, of("records_per_s", hop), at_least=True, unit="×"),
        target(
            "CPU a record over the plain loop's",
            1 / 50,
            of("cpu_s_per_record", loop),
            at_least=False,
            unit="×",
        ),
        target(
            "memory a record over the plain loop's",
            1 / 5,
            of("memory_bytes_per_record", loop),
            at_least=False,
            unit="×",
        ),
    ]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common_parser("records", __doc__, size="10M", rounds=3)
    parser.add_argument("--child", choices=list(_ROLES), help=argparse.SUPPRESS)
    parser.add_argument("--child-rows", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the table; return the report."""
    options = _parse(arguments)
    if options.child is not None:
        result = _child(options.child, options.child_rows)
        print(json.dumps(result))
        return result
    console = new_console()
    quiet = quiet_cores(options)
    dictionary_rows = min(options.size, DICTIONARY_ROWS)
    rows = {way: options.size if way == COLUMNS else dictionary_rows for way in _ROLES}
    report = new_report("records", rows=rows, rounds=options.rounds, passes=_PASSES)
    print_environment(console, report)

    def child(way: str, count: int) -> ChildRun:
        quiet.wait()
        return run_child(["-m", "benchmarks.records", "--child", way, "--child-rows", str(count)])

    with Progress(console) as progress:
        runs: dict[str, list[ChildRun]] = {way: [] for way in _ROLES}
        idle = {}
        for way in _ROLES:
            progress(f"{way}: the process by itself")
            idle[way] = child(way, 0)
        for index in range(options.rounds):
            for way in _ROLES:
                progress(f"round {index + 1} of {options.rounds}: {way}")
                runs[way].append(child(way, rows[way]))
    results = {way: _summary(way, runs[way], idle[way]) for way in _ROLES}
    report["sections"].append({"title": "the same filter and map", "measurements": list(results.values())})
    report["targets"] = _targets(results)
    print_rows(
        console,
        "the same filter and map, each way in its own process",
        (
            "way",
            "records",
            "records/s",
            "CPU ns/record",
            f"latency of {BATCH_ROWS:,}",
            "p99",
            "memory B/record",
        ),
        [
            (
                r["name"],
                f"{r['rows']:,}",
                f"{r['records_per_s']:,.0f}",
                f"{r['cpu_s_per_record'] * 1e9:.2f}",
                time_text(r["latency_median_s"]),
                time_text(r["latency_p99_s"]),
                f"{r['memory_bytes_per_record']:.0f}",
            )
            for r in results.values()
        ],
    )
    print_targets(console, report)
    if options.json is not None:
        write_json(report, options.json)
    if options.plot is not None:
        panels = {"records a second": [(r["name"], r["records_per_s"], r["role"]) for r in results.values()]}
        bars(panels, options.plot, axis="records a second (logarithmic)", logarithmic=True)
    return report


if __name__ == "__main__":
    main()
