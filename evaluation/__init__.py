"""Metrics, statistics, tables, figures and the report page."""
