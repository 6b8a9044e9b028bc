"""Alembic's migrations of the database, for every table of the server."""
