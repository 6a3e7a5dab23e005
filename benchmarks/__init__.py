"""Measurements, run by hand and smoke-run in CI. They report ratios of one run, never absolute pass marks."""
