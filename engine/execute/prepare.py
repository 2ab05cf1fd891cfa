"""PreparedRun: everything that is decided about a run before its first batch.

Covers compiling, the shape of the run (which tasks, how many), the controllers, and the check that the memory
limit can hold it. Starts nothing. A runtime turns the prepared run into tasks.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dataflare.control.admission import Admission
from dataflare.control.backpressure import BackpressureController
from dataflare.control.clock import Clock
from dataflare.control.credits import CreditConfig, CreditMode
from dataflare.execute.chain import Chain, ComputeStage
from dataflare.execute.chain_making import ChainMaker
from dataflare.execute.contiguous import ContiguousOutput
from dataflare.execute.monitors import run_monitors
from dataflare.execute.reading import PartitionQueue, PartitionReader, Reader, SharedReader
from dataflare.execute.run_memory import RunMemory
from dataflare.execute.sizing import BatchSizing, function_key, work_key
from dataflare.kernels.errors import CompileError, RunError
from dataflare.observe.curves import CurveRecorder
from dataflare.optimize.placement import place
from dataflare.plan.physical import ComputeStep, LimitStep, MapBatchesStep, PhysicalPlan, PhysicalStep

if TYPE_CHECKING:
    from dataflare.batch import SharedDataBatch
    from dataflare.kernels.backend import CompiledProgram
    from dataflare.options import MathOption, RunOptions

__all__ = ["PreparedRun", "prepare_run", "preview_run"]

_LEAST_ROWS_A_TASK = 32_768  # below this a second core costs more to wake than it computes
_LEAST_TURNS = 4
_DECENT_BATCH_BYTES = 2 << 20
_ASK_AGAIN_S = 0.02
_LEAST_WINDOW = 2  # one batch that is worked on, one that the sink takes meanwhile
_UNBOUNDED_CREDITS = 1 << 50
_run_numbers = itertools.count(1)


class PreparedRun:
    """The decisions about one run, and what its tasks share. Made by `prepare_run`."""

    def __init__(
        self, plan: PhysicalPlan, options: RunOptions, clock: Clock, *, compiles: bool = True
    ) -> None:
        self.run_id = f"run-{os.getpid()}-{next(_run_numbers)}"
        self.plan = plan
        self.options = options
        self.clock = clock
        self.device = place(plan, options, options.workers or usable_cores()).device
        steps = list(plan.steps)
        self.limit_rows: int | None = None
        if steps and isinstance(steps[0], LimitStep):  # counted where it is read
            self.limit_rows = steps.pop(0).rows  # type: ignore[union-attr]
        cut = next((place for place, step in enumerate(steps) if isinstance(step, LimitStep)), len(steps))
        self._worker_steps = steps[:cut]
        self._tail_steps = steps[cut:]  # a limit and what follows it see the stream in order, beside the sink
        self.ordered = (plan.ordered and options.ordered) or bool(self._tail_steps)

        began_s = time.perf_counter()
        try:
            self._compiled = _compile(steps, self.device, options.math) if compiles else {}
        except CompileError:
            if options.device != "auto" or self.device == "cpu":
                raise
            self.device = "cpu"  # a function that kernels cannot have yet: auto need not insist
            self._compiled = _compile(steps, self.device, options.math)
        self.compile_s = time.perf_counter() - began_s
        self._early_compile_s = sum(compiled.compile_s for compiled in self._compiled.values())
        self.lost_devices: dict[str, str] = {}
        """Devices that were lost, and why; their work is done on the CPU."""
        self._chains = ChainMaker(steps, self.device, self._compiled)

        self.monitors = run_monitors(self.device, clock)
        self.in_memory = bool(getattr(plan.source, "in_memory", False))
        self.memory = RunMemory(plan, options, self.monitors[0], in_memory=self.in_memory)
        source = self.memory.source
        self.partitions = source.partitions()
        rows = source.num_rows
        self.num_rows = rows if rows is None or self.limit_rows is None else min(rows, self.limit_rows)
        cores = options.workers if options.workers is not None else _default_workers(self.device)
        self._decide_tasks(cores)
        # One task with batches that are worth their turns is faster than two with tiny ones.
        decent_rows = self._decent_rows() * self._least_window
        while cores > 1 and not self.memory.has_room_for(self.source_tasks, decent_rows):
            cores -= 1
            self._decide_tasks(cores)

        largest_rows = max((partition.num_rows or 0 for partition in self.partitions), default=0)
        self.sizing = BatchSizing(
            options.batching,
            self._work_key(),
            fused=self.fused,
            compiled=all(isinstance(step, ComputeStep) for step in self._worker_steps),
            bytes_per_row=self.memory.batch_bytes_per_row,
            most_rows=largest_rows if self.in_memory else None,
            tasks=self.processor_tasks or self.source_tasks,
            clock=clock,
        )
        self.batcher = self.sizing.batcher
        self.least_rows = self.sizing.least_rows
        programs = sum(isinstance(step, ComputeStep) for step in plan.steps) if self.device != "python" else 0
        self.window = self.memory.set_aside(
            self.source_task_names,
            least_rows=self.least_rows,
            programs=programs,
            least_window=self._least_window,
            most_window=self._most_window,
        )
        self._bound_batches()
        self.controller = BackpressureController(
            options.backpressure if options.backpressure is not None else _engine_credits(self.least_rows),
            clock,
            self.monitors,
            budget=self.memory.budget,
        )
        for task in self.source_task_names:
            self.controller.register_task(task)
        self._admitted: dict[Admission, float] = {}
        self.contiguous = self._make_contiguous()
        self.turn_rows = max(
            SharedReader.LEAST_ROWS, -(-(self.num_rows or 0) // (_LEAST_TURNS * self.workers))
        )
        """Records that a task works on before it looks at its mailbox again, where all share one output."""
        self.began_s = clock()
        self.curves = CurveRecorder(self.monitors)
        self.queue = PartitionQueue(self.partitions, self.limit_rows)
        self._shared: SharedReader | None = None
        if self.in_memory:
            self._shared = SharedReader(
                self.partitions,
                tasks=self.workers,
                limit_rows=self.limit_rows,
                num_rows=self.num_rows,
                exact=options.batching is not None,
                worth_rows=self.sizing.worth_rows,
            )

    def _decent_rows(self) -> int:
        """Return how many records a batch should have to be worth its turn."""
        rows = min(_LEAST_ROWS_A_TASK, int(_DECENT_BATCH_BYTES / self.memory.bytes_per_row))
        batching = self.options.batching
        return max(1, min(rows, batching.max_size if batching is not None else rows))

    def _decide_tasks(self, cores: int) -> None:
        """Decide how many tasks there are of each kind, and how far they may be ahead of the sink."""
        self.workers = cores
        if self.in_memory and self.num_rows is not None:
            self.workers = max(1, min(cores, -(-self.num_rows // _LEAST_ROWS_A_TASK)))
        self.fused = self.in_memory or self._local_files(cores)
        """Whether the tasks that compute also read, because nobody waits while reading: data in memory, and files
        on this machine, whose decoding is computing. It saves a hand-over for each batch."""
        if self.fused:
            self.source_tasks = self.workers
            self.processor_tasks = 0
            self._least_window = _LEAST_WINDOW
            self._most_window = 8 if self.in_memory else 4
        else:
            limited = self.limit_rows is not None
            self.source_tasks = 1 if limited else max(1, min(len(self.partitions), cores))
            self.processor_tasks = cores if self._worker_steps else 0
            self._most_window = max(3, -(-2 * self.processor_tasks // self.source_tasks) + 1)
            self._least_window = self._most_window

    @property
    def late_compile_s(self) -> float:
        """Seconds that compiling took since the run was prepared: kernels of a GPU wait for the first batch."""
        compiled_s = sum(compiled.compile_s for compiled in self._compiled.values())
        return max(0.0, compiled_s - self._early_compile_s)

    @property
    def source_name(self) -> str:
        """What the source stage is called."""
        return self.plan.source.description

    @property
    def sink_name(self) -> str:
        """What the sink stage is called."""
        return self.plan.sink.description

    @property
    def sink_is_quick(self) -> bool:
        """Whether what runs at the end only puts batches into a list: not worth a thread of its own."""
        return bool(getattr(self.plan.sink, "is_quick", False)) and not self._tail_steps

    @property
    def source_task_names(self) -> list[str]:
        """Names of the tasks that read."""
        kind = "worker" if self.fused else "source"
        return [f"{kind}-{number}" for number in range(self.source_tasks)]

    @property
    def stream_count(self) -> int:
        """Partitions as the sink counts them: one when tasks share one stream."""
        return 1 if self.in_memory else len(self.partitions)

    def make_reader(self) -> Reader:
        """Return the reader of one source task."""
        return self._shared if self._shared is not None else PartitionReader(self.queue)

    def make_worker_chain(self) -> Chain:
        """Return the steps for one task that computes; classes of ``map_batches`` are built here."""
        return self._chains.make(self._worker_steps, self._note_lost)

    def make_tail_chain(self) -> Chain:
        """Return the steps that run beside the sink, where the stream is in order."""
        return self._chains.make(self._tail_steps, self._note_lost)

    def admit(self, task: str, *, alone: bool) -> Admission | None:
        """Admit the next batch of a source task, or None: then the task waits for a batch of its own to be consumed.

        ``alone`` says that it has none on the way, so that nobody would wake it: then a single record will do.
        """
        # Where all share one output, sizes cost no memory, and say nothing about those of batches.
        rows = self.batcher.batch_size if self.contiguous is None else self.turn_rows
        least_rows = self._least_rows(alone, rows)
        admit, bytes_per_row, window_rows = (
            self.controller.admit,
            self.memory.bytes_per_row,
            rows * self.window,
        )
        admission = admit(task, rows, bytes_per_row, least_rows=least_rows, window_rows=window_rows)
        if admission is None and self._goes_on_without_lost_devices():
            admission = admit(task, rows, bytes_per_row, least_rows=least_rows, window_rows=window_rows)
        if admission is not None:
            self._admitted[admission] = self.late_compile_s
            self.memory.trim_pools(admission)
        return admission

    def seconds_until_room(self, task: str, *, alone: bool) -> float | None:
        """Return when to ask `admit` again; None where a batch that is consumed tells, or nothing brings room any more.

        A task that is ``alone`` hears of no batch: it asks again while others have some on their way.
        """
        rows = self.batcher.batch_size
        least_rows = self._least_rows(alone, rows)
        if not self.memory.has_room_for_batch(task, min(rows, least_rows)):
            return _ASK_AGAIN_S if alone and self.controller.in_flight else None
        wait_s = self.controller.seconds_until_credits(task, rows)
        there_again = wait_s is None and alone and not self.controller.lost_devices
        return _ASK_AGAIN_S if there_again else wait_s

    def withdraw(self, admission: Admission) -> None:
        """Take an admission back that was not used: there was nothing to read."""
        self._admitted.pop(admission, None)
        admission.cancel()

    def begin(self) -> None:
        """Reserve what is held from the beginning to the end; a run that never begins reserves nothing."""
        self.memory.begin()

    def end(self) -> None:
        """Take back what was admitted and not consumed (batches of a run that failed or was stopped), and set aside."""
        while self._admitted:
            self._admitted.popitem()[0].cancel()
        self.memory.end()

    def settle(self, admission: Admission, rows: int, work_s: float) -> None:
        """Book a batch of ``rows`` input records as consumed; all work on it took ``work_s``."""
        compiled_s = self._admitted.pop(admission, None)
        if rows:
            self.curves.note_batch(
                self.clock() - self.began_s,
                rows,
                rows * self.memory.source_bytes_per_row,
                work_s,
                in_flight_rows=self.controller.in_flight,
                reserved_bytes=self.memory.budget.reserved_bytes,
            )
        admission.settle(work_s)
        if rows:
            # Data in memory is cut into equal parts of about the size that is asked for, and towards the end on purpose
            # into far smaller ones. The last of these say nothing: tasks end meanwhile.
            shortened = self.in_memory and 2 * rows < admission.asked_rows
            is_last = shortened and rows <= SharedReader.LEAST_ROWS
            asked_rows = rows if shortened else admission.asked_rows
            steady = self.contiguous is None and compiled_s == self.late_compile_s and not is_last
            self.sizing.record_batch(rows, work_s, asked_rows=asked_rows, steady=steady)

    def note_read(self, admission: Admission, rows: int, nbytes: int, shared_bytes: int = 0) -> None:
        """Correct what is known about bytes by a batch that was read, beside what it shares with those after it."""
        self.memory.note_read(admission, rows, nbytes, shared_bytes)
        self._bound_batches()

    def refuse_record(self, task: str) -> None:
        """Raise the error for a record that is never admitted: a device is lost, or the limit leaves too little."""
        for device, reason in self.controller.lost_devices.items():
            raise RunError(f"{device} was lost while running: {reason}. Run again with device='cpu'.")
        self.memory.refuse_record(task)

    def whole_result(self) -> tuple[SharedDataBatch, int]:
        """Return the one output that all tasks wrote into, once it is complete, and how many nulls dropped a record."""
        from dataflare.batch import SharedDataBatch

        assert self.contiguous is not None and self.plan.schema is not None
        result = self.contiguous.result()
        batch = SharedDataBatch._from_columns(self.plan.schema, result.columns, result.num_rows)
        return batch, result.rows_dropped_null_predicate

    def place_of(self, partition: int, number: int) -> str:
        """Name a batch, for error messages."""
        if self.in_memory:
            return f"batch {number}"
        return f"batch {number} of {self.partitions[partition].description}"

    def remember(self) -> None:
        """Keep the batch size for the next run of the same work."""
        self.sizing.remember()

    def _least_rows(self, alone: bool, rows: int) -> int:
        """Return how many of ``rows`` records are worth a batch: where others are on the way, it can wait."""
        return 1 if alone else max(self.least_rows, rows // 2)

    def _bound_batches(self) -> None:
        """Tell the batcher how many rows the memory of one batch has room for."""
        most_rows = self.memory.most_rows()
        sizes_are_asked_for = self.options.batching is not None and not self.memory.allotment.is_given
        if most_rows is not None and not sizes_are_asked_for:
            self.batcher.bound(max(self.least_rows, most_rows))

    def _note_lost(self, device: str, reason: str) -> None:
        """Go on without a device that is lost: the CPU has its work, so that its memory no longer counts."""
        if device not in self.lost_devices:
            self.lost_devices[device] = reason
            self.controller.forget_device(device)

    def _goes_on_without_lost_devices(self) -> bool:
        """Give the work of devices that monitors found lost to the CPU; return whether that let something go on."""
        lost = self.controller.lost_devices
        if not lost:
            return False
        from dataflare.kernels.backend import abandon_device

        moved = [device for device, reason in lost.items() if abandon_device(device, reason)]
        for device in moved:
            self._note_lost(device, lost[device])
        return bool(moved)

    def _local_files(self, cores: int) -> bool:
        local = bool(getattr(self.plan.source, "is_local", False))
        enough = len(self.partitions) >= 2 * cores  # else one worker would read what all compute
        return local and enough and bool(self._worker_steps) and self.limit_rows is None

    def _work_key(self) -> str:
        steps = []
        for step in self._worker_steps:
            if isinstance(step, MapBatchesStep):
                steps.append(function_key(step.fn))
            elif isinstance(step, ComputeStep):
                steps.append(step.program.key)
        schema = self.plan.source.schema
        return work_key(self.device, self.workers, self.fused, self.in_memory, schema, steps)

    def _make_contiguous(self) -> ContiguousOutput | None:
        """Return one output for all tasks, where the program, the source and the sink allow it."""
        steps = self._worker_steps
        if not (self.in_memory and len(steps) == 1 and not self._tail_steps):
            return None
        if not self._compiled:  # a preview
            return None
        if not self.num_rows or self.num_rows <= SharedReader.LEAST_ROWS or self.options.batching is not None:
            return None
        if not getattr(self.plan.sink, "keeps_batches", False) or not isinstance(steps[0], ComputeStep):
            return None
        compiled = self._compiled[id(steps[0])]
        reader = PartitionReader(PartitionQueue(self.partitions, self.limit_rows))
        output = ContiguousOutput.over(compiled, list(reader.whole()), ComputeStage("", compiled).columns)
        if output is None:
            return None
        exact = compiled.program.row_preserving  # what a filter keeps may be a fraction
        if not self.memory.take_whole_result(output.capacity_bytes, exact=exact):
            return None
        self.batcher.bound(None)
        return output


def prepare_run(plan: PhysicalPlan, options: RunOptions, clock: Clock = time.monotonic) -> PreparedRun:
    """Decide everything about a run that can be decided before it starts.

    Raises
    ------
    CompileError
        A program cannot be compiled for the device.
    MemoryLimitError
        One smallest batch for each task does not fit the memory limit; names the stages and the bytes.
    """
    return PreparedRun(plan, options, clock)


def preview_run(plan: PhysicalPlan, options: RunOptions) -> PreparedRun:
    """Decide the same without compiling: what comes of it can be looked at, but not be run.

    Raises
    ------
    MemoryLimitError
        As of `prepare_run`.
    DeviceUnavailableError
        The device that was asked for is not there.
    """
    return PreparedRun(plan, options, time.monotonic, compiles=False)


def usable_cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _default_workers(device: str) -> int:
    """Return one worker a core, and at least two a GPU: one copies while the other's kernel runs."""
    if not device.startswith("cuda"):
        return usable_cores()
    from dataflare.kernels.cuda.backends import cuda_backends

    return max(usable_cores(), 2 * len(cuda_backends(device)))


def _compile(
    steps: Sequence[PhysicalStep], device: str, math_option: MathOption
) -> dict[int, CompiledProgram]:
    programs = [step for step in steps if isinstance(step, ComputeStep)]
    if not programs:
        return {}
    from dataflare.kernels.backend import compile_program

    return {id(step): compile_program(step.program, device, math=math_option) for step in programs}


def _engine_credits(least_rows: int) -> CreditConfig:
    """Return credits that hold back under memory pressure only: the window of batches does the rest."""
    return CreditConfig(
        mode=CreditMode.ADAPTIVE,
        initial_credits=_UNBOUNDED_CREDITS,
        min_credits=least_rows,
        max_credits=_UNBOUNDED_CREDITS,
        queue_target=None,
    )
