"""Draws what a run prints, as `run.svg`: the picture in README.md. Run from the root of the repository.

python examples/draw_run.py
"""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

from rich.console import Console

from dataflare.cli.job_file import load_job_file

JOB = Path("examples/flights.toml")
PICTURE = Path("examples/run.svg")
COLUMNS = 132


def main() -> None:
    """Run the flights job twice, so that its program is cached, and draw the second report."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"sink.path": str(Path(folder) / "delayed.parquet")}
        for _ in range(2):
            pipeline, options = load_job_file(JOB, settings, overwrite=True)
            report = pipeline.run(**options)
        console = Console(record=True, width=COLUMNS, file=io.StringIO())
        console.print(f"[bold]$ dataflare run {JOB}[/bold]")
        console.print(report)
        svg = console.export_svg(title="dataflare")
    # The fonts are the viewer's own: those that the template names would be fetched over the network.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    PICTURE.write_text(svg.replace(folder + "/", ""))


if __name__ == "__main__":
    main()
