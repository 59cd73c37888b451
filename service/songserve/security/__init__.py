"""Who may call what: roles of calls, tokens, certificates, and what one station may take of the server."""

__all__: list[str] = []
