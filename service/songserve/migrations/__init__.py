"""Revisions of the store's tables, applied by Alembic in the transaction that opens the database."""

__all__: list[str] = []
