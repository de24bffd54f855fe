"""The database: SQLite or Postgres, its tables, and the units of work that run in it."""
