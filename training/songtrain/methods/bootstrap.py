"""BYOL-A: one network predicts what another, which follows it slowly, makes of another view of the song."""

from copy import deepcopy

import torch
from torch import Generator, Tensor, nn

from songtrain.augment.images import fade, mix, resize_crop
from songtrain.encoders.convolution import RunningNorm
from songtrain.encoders.images import EncoderName, ImageEncoder
from songtrain.losses.bootstrap import follow, regression_loss
from songtrain.methods.contrastive import TwoViewEncoder, TwoViews, projection_head

__all__ = ["BYOLA"]

N_HIDDEN, N_PROJECTION = 4096, 256
"""Of both heads, as in BYOL."""


class BYOLA(TwoViewEncoder):
    """BYOL-A (Niizumi et al. 2021): no negatives; views by mix-up, resize crop and linear fader, then a running norm.

    Unlike the source it sees whole songs instead of 0.96 s of them, and mixes with any song instead of the last 2,048.
    """

    def __init__(
        self,
        encoder: EncoderName = "conv",
        decay: float = 0.99,
        n_epochs: int = 20,
        batch_size: int = 128,
        learning_rate: float = 3e-4,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.encoder, self.decay = encoder, decay
        self.n_epochs, self.batch_size, self.learning_rate = n_epochs, batch_size, learning_rate
        self.max_minutes, self.random_state = max_minutes, random_state

    def _network(self, n_bands: int) -> TwoViews:
        return _Bootstrap(self.encoder, n_bands, self.decay)

    def _view(self, images: Tensor, generator: Generator) -> Tensor:
        return fade(resize_crop(mix(images, self._pool, generator), generator), generator)


class _Bootstrap(TwoViews):
    """The online network with its predictor, and the target."""

    def __init__(self, encoder: EncoderName, n_bands: int, decay: float) -> None:
        super().__init__()
        self.norm = RunningNorm()
        self.encoder = ImageEncoder(encoder, n_bands)
        self.online = nn.Sequential(self.encoder, projection_head(self.encoder.n_features, N_HIDDEN, N_PROJECTION))
        self.predict = projection_head(N_PROJECTION, N_HIDDEN, N_PROJECTION)
        self.target = deepcopy(self.online).requires_grad_(False)
        self.decay = decay

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the loss in both directions; the target first takes in what the last step did to the online network."""
        follow(self.target, self.online, self.decay)
        first, second = self.norm(torch.cat([first, second])).chunk(2)
        with torch.no_grad():
            targets = self.target(first), self.target(second)
        predictions = self.predict(self.online(first)), self.predict(self.online(second))
        return regression_loss(predictions[0], targets[1]) + regression_loss(predictions[1], targets[0])

    def codes(self, images: Tensor) -> Tensor:
        """Return what the online encoder makes of the normalised images."""
        return self.encoder(self.norm(images))  # type: ignore[no-any-return]  # a module's call is untyped
