"""The database: SQLite or Postgres, its tables, and the ways into it."""
