"""Training: the loop and its loss, the heads, thresholds and the readiness check."""
