"""Limits on how much each caller may do, and how often."""
