"""From what a service has stored to a proposal: a retrained bundle whose known types keep their ids."""

__all__: list[str] = []
