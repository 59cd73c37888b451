"""Ways of training an encoder without labels, each an estimator: fitted on songs, it gives one vector per song."""

__all__: list[str] = []
