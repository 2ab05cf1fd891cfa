"""Where records go: files that appear whole or not at all, memory, a user's function.

`base` has the protocol that every sink fulfils; `parquet`, `csv`, `ipc`, `memory` and `function` have one
sink class each; `files` does the temporary names and the commit for all file formats. Nothing is imported
before it is used.
"""
