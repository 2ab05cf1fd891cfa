"""Run options: explicit before environment before default; nothing is ignored, errors say the way out."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataflare.kernels.devices.detection import detect_cuda
from dataflare.kernels.devices.surroundings import Surroundings
from dataflare.kernels.errors import DeviceUnavailableError, OptionError
from dataflare.options import RunOptions, parse_bytes


def resolve(given: dict[str, Any] | None = None, **environment: str) -> RunOptions:
    return RunOptions.resolve(given, environment=environment)


def _no_library(name: str) -> NoReturn:
    raise OSError(f"{name}: not on this machine")


def test_defaults() -> None:
    options = resolve()
    assert options == RunOptions()
    assert options.device == "auto"
    assert options.runtime == "local"
    assert options.workers is None
    assert options.memory_limit is None
    assert options.ordered is True


def test_environment_goes_before_the_default() -> None:
    options = resolve(
        DATAFLARE_DEVICE="python",
        DATAFLARE_WORKERS="3",
        DATAFLARE_MEMORY_LIMIT="2GiB",
        DATAFLARE_ORDERED="no",
        DATAFLARE_PROGRESS="On",
        DATAFLARE_MATH="exact",
        DATAFLARE_SPILL_LIMIT="3GB",
        DATAFLARE_SPILL_DIR="/scratch",
    )
    assert options.device == "python"
    assert options.workers == 3
    assert options.memory_limit == 2 * 2**30
    assert options.ordered is False
    assert options.progress is True
    assert options.math == "exact"
    assert (options.spill_limit, options.spill_dir) == (3 * 10**9, "/scratch")


def test_explicit_goes_before_the_environment() -> None:
    options = resolve({"device": "cpu", "ordered": True}, DATAFLARE_DEVICE="python", DATAFLARE_ORDERED="0")
    assert options.device == "cpu"
    assert options.ordered is True


def test_none_counts_as_not_given_and_an_empty_variable_as_unset() -> None:
    assert resolve({"workers": None}, DATAFLARE_WORKERS="2").workers == 2
    assert resolve(DATAFLARE_WORKERS="  ").workers is None


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATAFLARE_DEVICE", "python")
    assert RunOptions.resolve().device == "python"


def test_options_are_immutable() -> None:
    with pytest.raises(FrozenInstanceError):
        resolve().device = "python"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        ("128MB", 128_000_000),
        ("2GiB", 2 * 2**30),
        ("1.5 gib", 3 * 2**29),
        ("64KiB", 65536),
        ("512", 512),
        (" 7 B ", 7),
        (4096, 4096),
        ("9007199254740993B", 9007199254740993),
    ],
)
def test_bytes_are_read_with_their_unit(value: int | str, size_bytes: int) -> None:
    assert parse_bytes(value) == size_bytes


@pytest.mark.parametrize("value", ["", "MB", "12 parsecs", "-1MB", "1e9", "0", 0, -5, True, 1.5, "0.1B"])
def test_what_is_not_a_number_of_bytes_is_refused(value: Any) -> None:
    with pytest.raises(OptionError, match="number of bytes"):
        parse_bytes(value)


def test_an_ambiguous_unit_is_refused_with_both_readings() -> None:
    with pytest.raises(OptionError, match=r"'512M' is not a number of bytes.*128MB.*2GiB"):
        parse_bytes("512M")


@given(st.integers(min_value=1, max_value=2**62), st.sampled_from(["B", "KB", "MiB", "TB", "TiB"]))
def test_whole_numbers_of_bytes_are_exact(number: int, unit: str) -> None:
    scale = {"B": 1, "KB": 1000, "MiB": 2**20, "TB": 10**12, "TiB": 2**40}[unit]
    assert parse_bytes(f"{number}{unit}") == number * scale


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no run option 'memory_limt'\. Did you mean 'memory_limit'\?"):
        resolve({"memory_limt": "1GB"})


def test_an_unknown_option_lists_what_there_is() -> None:
    with pytest.raises(OptionError, match=r"Run options: device, runtime, workers, memory_limit"):
        resolve({"zzz": 1})


def test_an_unknown_device_names_the_nearest() -> None:
    with pytest.raises(OptionError, match=r"no device 'pyhton'\. Did you mean 'python'\?"):
        resolve({"device": "pyhton"})


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:12"])
def test_a_gpu_that_cannot_be_used_is_refused_with_the_reason(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = detect_cuda(Surroundings(load_library=_no_library))
    monkeypatch.setattr("dataflare.kernels.devices.detection.cuda_detection", lambda: nothing)
    with pytest.raises(DeviceUnavailableError, match=rf"{device}.*cannot be used.*device='cpu'"):
        resolve({"device": device})


def test_the_emulated_gpu_is_there_without_a_driver() -> None:
    assert resolve({"device": "cuda:emulated"}).device == "cuda:emulated"


@pytest.mark.parametrize(
    "given",
    [{"runtime": "ray"}, {"checkpoint": "here"}, {"verify": 0.1}],
    ids=lambda given: next(iter(given)),
)
def test_options_of_later_versions_are_refused_not_ignored(given: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="not available in this version"):
        resolve(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"workers": 0}, "workers must be at least 1"),
        ({"workers": 2.0}, "workers must be a whole number"),
        ({"workers": True}, "workers must be a whole number"),
        ({"runtime": "threads"}, "no runtime 'threads'"),
        ({"device": 3}, "device must be text"),
        ({"math": "fast"}, "math must be one of vector, exact, not 'fast'"),
        ({"ordered": "no"}, "ordered must be True or False"),
        ({"progress": "bar"}, "progress must be True, False, None or a function"),
        ({"batching": {"min_size": 1}}, "batching must be an AdaptiveBatchingConfig"),
        ({"backpressure": 5}, "backpressure must be a CreditConfig"),
        ({"memory_limit": 1.5}, "not a number of bytes"),
        ({"spill_limit": "0B"}, "must be above 0"),
        ({"spill_dir": 7}, "spill_dir must be the path of a folder as text, not 7"),
    ],
)
def test_a_bad_value_says_what_is_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve(given)


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("DATAFLARE_WORKERS", "many"),
        ("DATAFLARE_MEMORY_LIMIT", "lots"),
        ("DATAFLARE_ORDERED", "maybe"),
    ],
)
def test_a_bad_environment_variable_is_named(variable: str, text: str) -> None:
    with pytest.raises(OptionError, match=f"environment variable {variable}: '{text}' is "):
        resolve(**{variable: text})


def test_progress_takes_a_function() -> None:
    seen: list[object] = []
    assert resolve({"progress": seen.append}).progress == seen.append
