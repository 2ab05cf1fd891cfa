"""Benchmarks of control: batch sizes that find themselves, and memory that stays below its limit."""
