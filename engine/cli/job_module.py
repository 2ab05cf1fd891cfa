"""Jobs as Python: a file that has a module-level ``pipeline``, or a ``build(**settings)`` that returns one.

Covers running the file and taking the pipeline from it. The file runs as a module of its own name, not as
``__main__``, so that it may also be a script; its folder is importable while it runs, as it is for a script.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dataflare.cli.job_document import JobCodeError, no_such_job
from dataflare.kernels.errors import DataFlareError, OptionError, nearest

if TYPE_CHECKING:
    from dataflare.pipeline import Pipeline

__all__ = ["load_job_module"]


def load_job_module(path: Path, settings: Mapping[str, Any]) -> Pipeline:
    """Run a job file written in Python and return its pipeline.

    Parameters
    ----------
    path
        The file.
    settings
        Passed to ``build`` by name.

    Raises
    ------
    OptionError
        The file does not exist, has neither ``pipeline`` nor ``build``, or a setting is not one of ``build``.
    JobCodeError
        Its code raised something else; that is the cause.
    """
    if not path.is_file():
        raise OptionError(no_such_job(path))
    module = _run(path)
    build = getattr(module, "build", None)
    if callable(build):
        _check_settings(path, build, settings)
        with _blamed_on(path):
            found, made_by = build(**settings), "what build() returned"
    elif hasattr(module, "pipeline"):
        if settings:
            raise OptionError(
                f"{path}: --set gives values to a function build(**settings), and this job has only a "
                "module-level `pipeline`."
            )
        found, made_by = module.pipeline, "`pipeline`"
    else:
        raise OptionError(
            f"{path}: a job has a module-level `pipeline`, or a function build(**settings) that returns one; "
            "this file has neither."
        )
    return _require_pipeline(path, found, made_by)


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Tell what the user's code raised from what DataFlare says about the pipeline."""
    try:
        yield
    except DataFlareError:
        raise
    except Exception as error:
        raise JobCodeError(f"{path} failed before it had built its pipeline.") from error


def _run(path: Path) -> ModuleType:
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise OptionError(f"{path} cannot be loaded as Python.")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    sys.path.insert(0, folder)
    if name not in sys.modules:  # pickles and dataclasses look their module up
        sys.modules[name] = module
    try:
        with _blamed_on(path):
            spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def _check_settings(path: Path, build: Any, settings: Mapping[str, Any]) -> None:
    parameters = inspect.signature(build).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    names = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    for name in settings:
        if name not in names:
            listing = f"Settings: {', '.join(names)}." if names else "It takes none."
            parts = (f"{path}: build() has no setting {name!r}.", nearest(name, names), listing)
            raise OptionError(" ".join(part for part in parts if part))
    required = [p.name for p in parameters if p.name in names and p.default is p.empty]
    missing = [name for name in required if name not in settings]
    if missing:
        raise OptionError(
            f"{path}: build() needs {', '.join(missing)}; give it with --set {missing[0]}=value."
        )


def _require_pipeline(path: Path, found: Any, made_by: str) -> Pipeline:
    from dataflare.pipeline import Pipeline

    if not isinstance(found, Pipeline):
        raise OptionError(f"{path}: {made_by} is a {type(found).__name__}, not a dataflare pipeline.")
    return found
