"""Curating recorded episodes: list, contact sheet, drop, trim, merge, label, and warnings."""
