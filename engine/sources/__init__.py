"""Where records come from: files, memory, and iterables of batches.

`base` has the two protocols that every source fulfils. `parquet`, `csv`, `json`, `ipc` and `memory` have one
source class each, made by ``XSource.open(...)``, which looks at the data only as far as its schema; `paths`
finds the files. Nothing is imported before it is used.
"""
