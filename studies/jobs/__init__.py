"""Trainings and tests as jobs: their order, their cost, and where they are done."""
