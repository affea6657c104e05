"""Benchmarks: ratios against a limit or an alternative timed beside it."""
