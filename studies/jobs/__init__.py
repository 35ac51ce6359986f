"""Trainings and tests as jobs: their order, their cost, and the workers that run them."""
