"""Checks of a machine for an experiment: whether it computes correctly, its speed, and the cost."""
