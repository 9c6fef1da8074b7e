"""Anomaly detection from surprise and latent norm, progress, rates and percentiles."""
