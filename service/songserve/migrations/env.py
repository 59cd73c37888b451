"""Alembic runs this to apply revisions, on the connection that `songserve.migrations.upgrade` hands over."""

from alembic import context

from songserve.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
