"""Training: the loop, its losses and what is watched while it runs."""
