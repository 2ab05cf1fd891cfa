"""TPC-H ``lineitem`` as one Parquet file per scale factor, made by ``tpchgen-cli`` once and kept.

The file is what that tool writes by default: Snappy, row groups of 7 MiB, decimals of precision 15 stored
as INT64, text as strings. Scale 1 is 6 million rows in about 200 MB, scale 10 ten times that.
"""

from __future__ import annotations

import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

__all__ = ["lineitem"]


def _generator() -> str:
    beside = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    found = str(beside) if beside.exists() else shutil.which("tpchgen-cli")
    if found is None:
        raise RuntimeError("tpchgen-cli is not installed: pip install tpchgen-cli")
    return found


def lineitem(folder: Path, scale: float) -> Path:
    """Return the path of ``lineitem`` at ``scale`` in ``folder``; make the file when it is not there.

    The file appears whole or not at all, so that an interrupted run leaves nothing half made.
    """
    path = folder / f"lineitem-sf{scale:g}.parquet"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as making:
        subprocess.run(
            [_generator(), "parquet", "-s", f"{scale:g}", "--tables=lineitem", f"--output-dir={making}"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        (made,) = Path(making).rglob("*.parquet")
        made.replace(path)
    return path
