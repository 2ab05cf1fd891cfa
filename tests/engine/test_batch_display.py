"""What a batch looks like in a terminal and in a notebook."""

from __future__ import annotations

import datetime

import pyarrow as pa
import pytest

from dataflare import SharedDataBatch
from dataflare.display import bytes_text
from dataflare.sample_data import every_type, sample_array


def test_a_line_a_column():
    batch = SharedDataBatch.from_pydict(
        {"name": ["Ada", None, "x" * 50], "born": [1815, 1906, 1912], "on": [datetime.date(1815, 12, 10)] * 3}
    )
    assert repr(batch).splitlines() == [
        "SharedDataBatch: 3 rows × 3 columns, 102 B on cpu",
        "  name  string       'Ada', null, 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…",
        "  born  int64        1815, 1906, 1912",
        "  on    date32[day]  1815-12-10, 1815-12-10, 1815-12-10",
    ]


def test_much_data_is_cut():
    wide = SharedDataBatch.from_pydict({f"c{column}": list(range(1000)) for column in range(30)})
    lines = repr(wide).splitlines()
    assert lines[0] == "SharedDataBatch: 1,000 rows × 30 columns, 240.0 kB on cpu"
    assert lines[1] == "  c0   int64  0, 1, 2, 3, …"
    assert lines[-1] == "  … and 6 more columns"


def test_watermark_and_metadata_are_named():
    batch = SharedDataBatch.from_pydict({"a": [1]}).with_watermark(7).with_metadata("origin", object())
    assert repr(batch).splitlines()[0] == (
        "SharedDataBatch: 1 row × 1 column, 8 B on cpu, watermark 7, metadata origin"
    )


def test_nothing_to_show():
    assert repr(SharedDataBatch.empty({"a": pa.int8()})).splitlines()[1] == "  a  int8"
    assert repr(SharedDataBatch.from_records([])) == "SharedDataBatch: 0 rows × 0 columns, 0 B on cpu"


@pytest.mark.parametrize("data_type", every_type(), ids=str)
def test_every_type_prints(data_type):
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": sample_array(data_type, 9)}))
    assert "9 rows" in repr(batch)
    assert "9 rows" in batch._repr_html_()


def test_values_that_python_cannot_hold_print_too():
    far = pa.array([2**62], pa.int64()).cast(pa.timestamp("s"))
    batch = SharedDataBatch.from_arrow(pa.record_batch({"x": far}))
    assert "timestamp[s]" in repr(batch)


def test_html_is_a_table_and_escapes():
    batch = SharedDataBatch.from_pydict({"<b>": ["<script>", "&"] * 6})
    html = batch._repr_html_()
    assert html.count("<tr>") == 10, "header, eight rows, one to say that there are more"
    assert "&lt;script&gt;" in html
    assert "&lt;b&gt;" in html
    assert "<script>" not in html


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (2_500_000_000, "2.5 GB"),
        (7 * 10**12, "7.0 TB"),
    ],
)
def test_bytes_for_people(nbytes, text):
    assert bytes_text(nbytes) == text
