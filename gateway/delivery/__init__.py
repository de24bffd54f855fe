"""Delivery: the connections of clients, the wakes after a commit, and the search for missed changes."""
