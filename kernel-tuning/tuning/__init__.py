"""Checks, sets, restores and measures what a kernel can do for a lanefs node."""
