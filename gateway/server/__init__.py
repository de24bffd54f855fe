"""How it runs: the process, its workers, and the signals that stop it."""
