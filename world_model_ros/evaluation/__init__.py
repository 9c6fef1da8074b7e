"""Closed-loop success of a checkpoint, with intervals and baselines."""
