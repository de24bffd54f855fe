"""Whether it is stored: the writer, the logs of the users, and what is read from them."""
