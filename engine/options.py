"""The options of a run: what was asked explicitly, else the environment, else the default.

Covers names, values, units and the environment variables. What an option does is decided where it is used
(`dataflare.control`, `dataflare.execute`). An option that this version does not have raises; none is ignored.

Environment: `DATAFLARE_DEVICE`, `DATAFLARE_RUNTIME`, `DATAFLARE_WORKERS`, `DATAFLARE_MEMORY_LIMIT`,
`DATAFLARE_ORDERED`, `DATAFLARE_PROGRESS`, `DATAFLARE_MATH`, `DATAFLARE_SPILL_LIMIT`, `DATAFLARE_SPILL_DIR`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

from dataflare.kernels.errors import OptionError, nearest

if TYPE_CHECKING:
    from dataflare.control.batching import AdaptiveBatchingConfig
    from dataflare.control.credits import CreditConfig

__all__ = [
    "DEFAULT_SPILL_LIMIT_BYTES",
    "MathOption",
    "ProgressOption",
    "RunOptionArguments",
    "RunOptions",
    "parse_bytes",
]

ProgressOption: TypeAlias = bool | Callable[[Any], object]
MathOption: TypeAlias = Literal["vector", "exact"]

DEFAULT_SPILL_LIMIT_BYTES = 10**10

_DEVICES = ("auto", "cpu", "cuda", "cuda:emulated", "python")
_RUNTIMES = ("local",)
_LATER_RUNTIMES = ("ray",)
_MATH = ("vector", "exact")

_UNIT_BYTES = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}
_BYTES_TEXT = re.compile(r"\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[A-Za-z]*)\s*")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class RunOptionArguments(TypedDict, total=False):
    """The keyword arguments that every terminal call of a pipeline takes (`run`, `collect`, `count`, ...)."""

    device: str
    runtime: str
    workers: int | None
    memory_limit: int | str | None
    batching: AdaptiveBatchingConfig | None
    backpressure: CreditConfig | None
    ordered: bool
    progress: ProgressOption | None
    math: MathOption
    spill_limit: int | str | None
    spill_dir: str | None
    checkpoint: Any
    verify: Any


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """The options of one run, checked. Make one with `RunOptions.resolve`, which also reads the environment.

    Attributes
    ----------
    device
        Where record functions run: "cpu" (compiled), "cuda" (all GPUs) or "cuda:N" (one), "cuda:emulated" (what a GPU
        would run, on the CPU and with every check), "python" (plain Python, to debug functions), or "auto", the
        default: the device that the source's batches lie on; for those in host memory a GPU where there is one and
        copies and kernels take less time than the CPU, else the CPU.
    runtime
        "local": threads of this process.
    workers
        Batches computed at the same time; None: one for each core that this process may use.
    memory_limit
        Bytes that the run may hold: batches, what reading and the sink hold beside them, and idle memory of the
        pool; not compiled code nor libraries. What is needed is set aside before it is allocated; batches, blocks,
        row groups of the output and, where need be, workers are made to fit, and what cannot fit is refused before
        the run. None: a run that reads files or streams keeps to half of what is free on the host, by the tightest
        of the container's and the machine's limits, in the same way, but is not refused and may hold any result.
        `resolve` also takes text such as "128MB" (10**6 bytes a MB) or "2GiB" (2**30 bytes a GiB).
    batching
        How the batch size is found, None for the defaults.
    backpressure
        How credits are given, None for the defaults.
    ordered
        Whether the output keeps the order of the input.
    progress
        True shows a progress display, False none; a function is called with each progress event.
        None: no display in the API, a display on a terminal in the command line.
    math
        "vector": functions such as `exp` are computed for many records at once, with an error of up to 4 units
        in the last place; "exact": one by one, as Python's `math` computes them.
    spill_limit
        Bytes on disk that may wait for the sink at once where the source cannot be paused (`from_batches` with
        ``pausable=False``). `resolve` takes text as for `memory_limit`.
    spill_dir
        The folder that they wait in, None for the one for temporary files. Files there have no name, and are gone
        with the run or with the process, however it ends.
    checkpoint, verify
        Not available in this version; anything but None raises `OptionError`.

    Examples
    --------
    >>> RunOptions.resolve({"device": "python", "memory_limit": "128MB"}, environment={}).memory_limit
    128000000
    """

    device: str = "auto"
    runtime: str = "local"
    workers: int | None = None
    memory_limit: int | None = None
    batching: AdaptiveBatchingConfig | None = None
    backpressure: CreditConfig | None = None
    ordered: bool = True
    progress: ProgressOption | None = None
    math: MathOption = "vector"
    spill_limit: int = DEFAULT_SPILL_LIMIT_BYTES
    spill_dir: str | None = None
    checkpoint: None = None
    verify: None = None

    def __post_init__(self) -> None:
        _check_device(self.device)
        _check_runtime(self.runtime)
        if self.workers is not None:
            _check_count("workers", self.workers)
        if self.memory_limit is not None:
            _check_count("memory_limit", self.memory_limit)
        if not isinstance(self.ordered, bool):
            raise OptionError(f"ordered must be True or False, not {self.ordered!r}.")
        if not (self.progress is None or isinstance(self.progress, bool) or callable(self.progress)):
            raise OptionError(f"progress must be True, False, None or a function, not {self.progress!r}.")
        if self.math not in _MATH:
            raise OptionError(f"math must be one of {', '.join(_MATH)}, not {self.math!r}.")
        _check_count("spill_limit", self.spill_limit)
        if not isinstance(self.spill_dir, str | None):
            raise OptionError(f"spill_dir must be the path of a folder as text, not {self.spill_dir!r}.")
        for name in ("checkpoint", "verify"):
            if getattr(self, name) is not None:
                raise OptionError(f"{name} is not available in this version of DataFlare; leave it out.")
        if self.batching is not None or self.backpressure is not None:
            _check_control(self.batching, self.backpressure)

    @classmethod
    def resolve(
        cls, given: Mapping[str, Any] | None = None, *, environment: Mapping[str, str] | None = None
    ) -> RunOptions:
        """Combine what a caller gave with the environment and the defaults.

        Parameters
        ----------
        given
            Options by name, as `Pipeline.run` takes them. A value of None counts as not given.
        environment
            Read instead of `os.environ`.

        Raises
        ------
        OptionError
            An option that does not exist (with the nearest names), or a value that it cannot have.
        DeviceUnavailableError
            A device that this version or this machine does not have.
        """
        given = {} if given is None else given
        environment = os.environ if environment is None else environment
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                hint = nearest(name, names)
                raise OptionError(
                    " ".join(
                        part
                        for part in (
                            f"There is no run option {name!r}.",
                            hint,
                            f"Run options: {', '.join(names)}.",
                        )
                        if part
                    )
                )
        values = _from_environment(environment)
        values.update({name: value for name, value in given.items() if value is not None})
        for name in ("memory_limit", "spill_limit"):
            if name in values:
                values[name] = parse_bytes(values[name])
        return cls(**values)


def parse_bytes(value: int | str) -> int:
    """Return a number of bytes given as an integer or as text with a unit.

    Units are case-insensitive: B, KB, MB, GB, TB (powers of 1000) and KiB, MiB, GiB, TiB (powers of 1024).

    Examples
    --------
    >>> parse_bytes("128MB"), parse_bytes("1.5 GiB"), parse_bytes(4096)
    (128000000, 1610612736, 4096)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        number_bytes = value
    elif isinstance(value, str):
        match = _BYTES_TEXT.fullmatch(value)
        unit = match["unit"].upper() if match else ""
        if match is None or (unit and unit not in _UNIT_BYTES):
            raise OptionError(
                f"{value!r} is not a number of bytes. Write it as in '128MB' (10**6 bytes a MB) or '2GiB' "
                "(2**30 bytes a GiB), or give an integer."
            )
        # Whole numbers stay exact: a float would lose bytes above 2**53.
        scale = _UNIT_BYTES[unit or "B"]
        text = match["number"]
        number_bytes = int(text) * scale if text.isdigit() else int(float(text) * scale)
    else:
        raise OptionError(f"{value!r} is not a number of bytes; give an integer or text such as '2GiB'.")
    if number_bytes <= 0:
        raise OptionError(f"a number of bytes must be above 0, not {value!r}.")
    return number_bytes


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    readers: dict[str, Callable[[str], Any]] = {
        "device": _text,
        "runtime": _text,
        "workers": _whole_number,
        "memory_limit": parse_bytes,
        "ordered": _switch,
        "progress": _switch,
        "math": _text,
        "spill_limit": parse_bytes,
        "spill_dir": _text,
    }
    values: dict[str, Any] = {}
    for name, read in readers.items():
        variable = "DATAFLARE_" + name.upper()
        text = environment.get(variable, "").strip()
        if not text:
            continue
        try:
            values[name] = read(text)
        except OptionError as error:
            raise OptionError(f"environment variable {variable}: {error}") from None
    return values


def _text(text: str) -> str:
    return text


def _whole_number(text: str) -> int:
    if not text.isdecimal():
        raise OptionError(f"{text!r} is not a whole number.")
    return int(text)


def _switch(text: str) -> bool:
    folded = text.casefold()
    if folded not in _TRUE | _FALSE:
        raise OptionError(f"{text!r} is neither 1/true/yes/on nor 0/false/no/off.")
    return folded in _TRUE


def _check_device(device: object) -> None:
    if device in _DEVICES and device != "cuda":
        return
    if not isinstance(device, str):
        raise OptionError(f"device must be text, one of {', '.join(_DEVICES)}, not {device!r}.")
    if re.fullmatch(r"cuda(:\d+)?", device):
        from dataflare.kernels.devices.detection import require_gpu

        require_gpu(device)
        return
    hint = nearest(device, (*_DEVICES, "cuda:0"))
    raise OptionError(
        " ".join(
            part
            for part in (f"There is no device {device!r}.", hint, f"Devices: {', '.join(_DEVICES)}.")
            if part
        )
    )


def _check_runtime(runtime: object) -> None:
    if runtime in _RUNTIMES:
        return
    if runtime in _LATER_RUNTIMES:
        raise OptionError(
            f"runtime {runtime!r} is not available in this version of DataFlare: use runtime='local'."
        )
    raise OptionError(f"There is no runtime {runtime!r}. Runtimes: {', '.join(_RUNTIMES)}.")


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise OptionError(f"{name} must be a whole number, not {value!r}.")
    if value < 1:
        raise OptionError(f"{name} must be at least 1, not {value!r}.")


def _check_control(batching: object, backpressure: object) -> None:
    from dataflare.control.batching import AdaptiveBatchingConfig
    from dataflare.control.credits import CreditConfig

    if batching is not None and not isinstance(batching, AdaptiveBatchingConfig):
        raise OptionError(f"batching must be an AdaptiveBatchingConfig, not {batching!r}.")
    if backpressure is not None and not isinstance(backpressure, CreditConfig):
        raise OptionError(f"backpressure must be a CreditConfig, not {backpressure!r}.")
