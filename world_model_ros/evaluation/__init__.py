"""Evaluation: closed-loop success, robustness, probing, violation of expectation, and the report."""
