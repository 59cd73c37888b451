"""Songs of more recordings than one machine holds: embedded and clustered shard by shard, on as many as there are."""

__all__: list[str] = []
