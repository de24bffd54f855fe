"""Whether it arrives: connections, who is told of a commit, and what was missed."""
