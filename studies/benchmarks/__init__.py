"""Benchmark and sweep files: resolved into jobs, and their scores made into tables."""
