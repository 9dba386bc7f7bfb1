"""Steps for SQLite files, as SQL."""
