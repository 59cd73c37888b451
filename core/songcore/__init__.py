"""What training and service must share: decode, resample, log-mel, segment, features, embed, assign, bundle.

Numpy in, numpy out. Nothing here imports torch, ray or grpc.
"""

__all__: list[str] = []
