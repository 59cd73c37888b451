"""Views of songs for contrastive training, made on whole batches."""

__all__: list[str] = []
