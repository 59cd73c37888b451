"""Asks a running server, for the commands of people who look after one."""

__all__: list[str] = []
