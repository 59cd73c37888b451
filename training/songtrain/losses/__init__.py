"""What the encoder is trained to do."""

__all__: list[str] = []
