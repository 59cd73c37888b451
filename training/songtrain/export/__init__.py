"""From trained parts to ONNX and a bundle."""

__all__: list[str] = []
