"""The server: the process, its workers, and the signals that stop them."""
