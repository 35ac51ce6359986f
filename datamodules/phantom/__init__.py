"""Simulated glioma patients with known tumours."""
