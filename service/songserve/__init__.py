"""The service: sound from field stations and recordings in, songs with their types out, kept and counted."""

__all__: list[str] = []
