"""Episodes on disk, clips of action blocks, normalisation."""
