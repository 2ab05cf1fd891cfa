"""Writes ``examples/functions.md``: ``PYTHONPATH=build/typing:tests python -m corpus``, from the root."""

from __future__ import annotations

from pathlib import Path

from corpus.outcome import entries, table

PAGE = Path(__file__).resolve().parents[2] / "examples" / "functions.md"

if __name__ == "__main__":
    PAGE.write_text(table(entries()), encoding="utf-8")
