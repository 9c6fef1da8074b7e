"""Simulated tasks, one file each in tasks/, and the collection of episodes in them."""
