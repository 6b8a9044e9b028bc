"""Runs migrations in the transaction that `bcd.serving.records.database` has begun."""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
context.run_migrations()
