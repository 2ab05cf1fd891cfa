"""`import dataflare` loads nothing heavy, and a module of the kernels does not drag in the engine.

Asserts which modules are loaded in a fresh interpreter, never how long it took: a list is the same on every
machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ["cupy", "llvmlite", "numba", "numpy", "pandas", "polars", "psutil", "pyarrow", "pykka", "rich"]
REPORT = "import json, sys; print(json.dumps(sorted(sys.modules)))"


def modules_after(statement: str) -> set[str]:
    finished = subprocess.run(
        [sys.executable, "-P", "-c", f"{statement}\n{REPORT}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(finished.stdout.splitlines()[-1]))


def heavy(modules: set[str]) -> list[str]:
    return sorted({module.partition(".")[0] for module in modules} & set(HEAVY))


def test_the_probe_sees_a_heavy_import() -> None:
    assert heavy(modules_after("import numpy")) == ["numpy"]


@pytest.mark.parametrize(
    "statement",
    [
        "import dataflare",
        "import dataflare; dir(dataflare); dataflare.__version__",
        "import dataflare.kernels.errors",
        "import dataflare.cli",
        "import dataflare.options",
        "from dataflare import DataFlareError",
    ],
)
def test_nothing_heavy_is_loaded(statement: str) -> None:
    assert heavy(modules_after(statement)) == []


def test_import_dataflare_loads_no_module_of_its_own() -> None:
    ours = {name for name in modules_after("import dataflare") if name.startswith("dataflare")}
    assert ours == {"dataflare"}


def test_the_kernels_do_not_drag_in_the_engine() -> None:
    loaded = modules_after("import dataflare.kernels.backend, dataflare.kernels.udf.program")
    ours = {name for name in loaded if name.partition(".")[0] == "dataflare"}
    assert not {name for name in ours - {"dataflare"} if not name.startswith("dataflare.kernels")}


def test_the_version_is_printed_without_loading_anything_heavy() -> None:
    code = "import dataflare.cli\ntry: dataflare.cli.main(['--version'])\nexcept SystemExit: pass"
    assert heavy(modules_after(code)) == []
