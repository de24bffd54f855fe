"""The store: the writer, the log and the inbox of each user, and the queries on them."""
