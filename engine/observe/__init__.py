"""Observation: what a run did and is doing, as plain values; nothing here steers anything."""
