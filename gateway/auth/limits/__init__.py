"""How much each caller may do, and how often."""
