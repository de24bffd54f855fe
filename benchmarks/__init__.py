"""What the gateway costs: server CPU for each operation, and ratios of two things measured in turn.

`python -m benchmarks all` runs everything; docs/benchmarks.md says what is measured and how to read it.
"""
