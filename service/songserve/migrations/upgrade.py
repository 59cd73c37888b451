"""Brings the tables of an older songstream up to date."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

__all__ = ["migration_config", "upgrade"]


def migration_config(connection: Connection) -> Config:
    """Return Alembic's view of the revisions beside this module, to work on a connection that is in a transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    return config


def upgrade(connection: Connection, found: str, *, to: str = "head") -> None:
    """Apply every revision after ``found``, up to ``to``; all or nothing, with the connection's transaction."""
    config = migration_config(connection)
    command.stamp(config, found)
    command.upgrade(config, to)
