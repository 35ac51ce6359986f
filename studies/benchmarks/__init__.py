"""Benchmark and sweep files, resolved into jobs and read back as tables."""
