"""Autoencoders as estimators: trained to give images of songs back through a short code, which then stands for the song."""

from typing import Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from torch import Tensor

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError
from songtrain.encoders.autoencoders import Architecture, Autoencoder, build_autoencoder
from songtrain.losses.variational import ImageError, draw_codes, image_error, kl_to_standard, mean_and_log_variance
from songtrain.methods.fitting import encode, fit_network, local_device, shuffled
from songtrain.methods.history import History
from songtrain.methods.image_scale import Scaling, check_images, learn_scale

__all__ = ["AutoencoderEncoder"]


class AutoencoderEncoder(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An autoencoder of images (n, n_frames, n_values) float32; ``transform`` gives codes, of a variational one the means.

    ``beta`` None trains a plain autoencoder. A number trains a variational one on squared (or absolute) error summed over the
    image + beta · KL in nats, both divided by the number of pixels so that losses compare; 0 draws codes without the KL
    term. ``n_frames`` and ``n_values`` resize the images to a source's size; ``n_latent`` 0 makes the last map
    the code, where the architecture can. Training stops when the loss has not
    gained for ``patience`` epochs, None for never.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's habit: one argument per parameter
        self,
        architecture: Architecture = "mel",
        n_latent: int = 64,
        *,
        n_frames: int | None = None,
        n_values: int | None = None,
        scaling: Scaling = "minmax",
        error: ImageError = "mse",
        beta: float | None = None,
        n_epochs: int = 100,
        patience: int | None = 10,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.architecture, self.n_latent, self.n_frames, self.n_values = architecture, n_latent, n_frames, n_values
        self.scaling, self.error, self.beta = scaling, error, beta
        self.n_epochs, self.patience, self.batch_size = n_epochs, patience, batch_size
        self.learning_rate, self.max_minutes, self.random_state = learning_rate, max_minutes, random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on the images; ``history_`` has loss, reconstruction and, of a variational one, KL of every epoch."""
        if self.beta is not None and self.beta < 0:
            raise ConfigError(f"beta is {self.beta}; expected 0 or more, or none for a plain autoencoder")
        device = local_device()
        images = check_images(X)
        self.scale_ = learn_scale(images, self.scaling, (self.n_frames, self.n_values))
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            variational = self.beta is not None
            network = build_autoencoder(self.architecture, self.scale_.inside, self.n_latent, variational=variational)
        self.network_ = network.to(device)
        songs = torch.from_numpy(images).to(device)
        rng = np.random.default_rng([self.random_state, 7])
        noise = torch.Generator(device).manual_seed(self.random_state)
        history = History(self.patience)

        def loss_of(index: IntArray) -> Tensor:
            loss, terms = self._loss(self.scale_.enter(songs[torch.from_numpy(index).to(device)]), noise)
            history.add(len(index), **terms)
            return loss

        fit_network(
            loss_of,
            torch.optim.Adam(self.network_.parameters(), self.learning_rate),
            lambda _: shuffled(len(images), self.batch_size, rng),
            n_epochs=self.n_epochs,
            max_minutes=self.max_minutes,
            on_epoch=history,
        )
        self.history_ = history.epochs
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return codes (n, n_latent) float32."""
        return encode(self._codes, check_images(X))

    def reconstruct(self, X: FloatArray) -> FloatArray:  # noqa: N803 - as in transform
        """Return what the network makes of images, in their size and unit, without drawing anything."""
        network: Autoencoder = self.network_
        return encode(lambda images: self.scale_.leave(network.decode(self._codes(images))), check_images(X))

    def _codes(self, images: Tensor) -> Tensor:
        outputs: Tensor = self.network_.encode(self.scale_.enter(images))
        return outputs if self.beta is None else mean_and_log_variance(outputs)[0]

    def _loss(self, images: Tensor, noise: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        network: Autoencoder = self.network_
        if self.beta is None:
            loss = image_error(network.decode(network.encode(images)), images, self.error).mean()
            return loss, {"reconstruction": float(loss.detach())}
        mean, log_variance = mean_and_log_variance(network.encode(images))
        rebuilt = network.decode(draw_codes(mean, log_variance, noise))
        reconstruction = image_error(rebuilt, images, self.error).mean()
        kl = kl_to_standard(mean, log_variance).mean()
        loss = reconstruction + self.beta * kl / images[0].numel()
        return loss, {"reconstruction": float(reconstruction.detach()), "kl": float(kl.detach())}
