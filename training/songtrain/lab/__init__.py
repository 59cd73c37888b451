"""The laboratory: systems made of interchangeable parts, compared on the same songs and seeds."""

__all__: list[str] = []
