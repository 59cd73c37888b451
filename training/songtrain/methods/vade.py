"""VaDE (Jiang et al. 2017): a variational autoencoder whose prior is a mixture of Gaussians, one for each cluster."""

from typing import Literal, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from songcore.arrays import FloatArray, IntArray
from songcore.errors import ConfigError, InputError
from songtrain.encoders.autoencoders import Architecture, Autoencoder, build_autoencoder
from songtrain.encoders.mixture import MixturePrior
from songtrain.losses.variational import (
    draw_codes,
    image_error,
    kl_to_mixture,
    mean_and_log_variance,
    zipf_gap,
)
from songtrain.methods.fitting import encode, fit_network, local_device, shuffled
from songtrain.methods.history import History
from songtrain.methods.image_scale import Scaling, check_images, learn_scale

__all__ = ["VaDE"]

MIN_VARIANCE = 1e-3
"""Of a component on the way in, beside the variance of all codes: a cluster of equal codes would have none."""

FIRST_NOISE = 0.1
"""Variance of drawn codes over that of a component when both begin: more, and the decoder does not know its codes again."""


class VaDE(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Codes and clusters learned together from images (n, n_frames, n_values) float32.

    The first ``n_pretrain`` of ``n_epochs`` train a plain autoencoder; a mixture fitted to its codes starts the prior; then
    the bound is maximised: squared error summed over the image + beta · the KL terms, both divided by the number of pixels.
    ``output`` clusters gives γ (n, n_clusters), for the clusterer argmax; codes gives means (n, n_latent).

    ``zipf_exponent`` gives π a prior of its own, a Dirichlet distribution around Zipf's law, ranks as the shares have them
    at the time; it counts as much as ``zipf_weight`` times the songs. None: π is what the songs make of it.
    """

    def __init__(  # noqa: PLR0913 - scikit-learn's habit: one argument per parameter
        self,
        n_clusters: int = 64,
        output: Literal["codes", "clusters"] = "clusters",
        *,
        architecture: Architecture = "vaenet",
        n_latent: int = 64,
        scaling: Scaling = "standard",
        beta: float = 1.0,
        zipf_exponent: float | None = None,
        zipf_weight: float = 1.0,
        n_epochs: int = 100,
        n_pretrain: int = 50,
        batch_size: int = 32,
        learning_rate: float = 1e-3,
        max_minutes: float | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_clusters, self.output, self.architecture, self.n_latent = n_clusters, output, architecture, n_latent
        self.scaling, self.beta, self.n_epochs, self.n_pretrain = scaling, beta, n_epochs, n_pretrain
        self.zipf_exponent, self.zipf_weight = zipf_exponent, zipf_weight
        self.batch_size, self.learning_rate, self.max_minutes = batch_size, learning_rate, max_minutes
        self.random_state = random_state

    def fit(self, X: FloatArray, y: None = None) -> Self:  # noqa: N803, ARG002 - scikit-learn's signature
        """Train on the images; ``history_`` has loss, reconstruction and KL of every epoch, and which were pre-training.

        With a Zipf prior also how far π is from Zipf's law, in nats.
        Pre-training has at most half of ``max_minutes``.
        """
        images = check_images(X)
        self._check(len(images))
        device = local_device()
        self.scale_ = learn_scale(images, self.scaling, (None, None))
        with torch.random.fork_rng():
            torch.manual_seed(self.random_state)
            network = build_autoencoder(self.architecture, self.scale_.inside, self.n_latent, variational=True)
        self.network_: Autoencoder = network.to(device)
        songs = torch.from_numpy(images).to(device)
        rng = np.random.default_rng([self.random_state, 7])
        noise = torch.Generator(device).manual_seed(self.random_state)
        self.history_: list[dict[str, float]] = []
        self._train(songs, rng, noise, None)
        self.prior_ = self._started_prior(images).to(device)
        self._train(songs, rng, noise, self.prior_)
        return self

    def transform(self, X: FloatArray) -> FloatArray:  # noqa: N803 - scikit-learn's signature
        """Return γ (n, n_clusters) or codes (n, n_latent) float32, as ``output`` says; nothing is drawn."""
        if self.output == "codes":
            return encode(self._codes, check_images(X))
        return encode(lambda images: self.prior_.log_responsibilities(self._codes(images)).exp(), check_images(X))

    def reconstruct(self, X: FloatArray) -> FloatArray:  # noqa: N803 - as in transform
        """Return what the network makes of images, in their unit, without drawing anything."""
        network: Autoencoder = self.network_
        return encode(lambda images: self.scale_.leave(network.decode(self._codes(images))), check_images(X))

    def _codes(self, images: Tensor) -> Tensor:
        return mean_and_log_variance(self.network_.encode(self.scale_.enter(images)))[0]

    def _check(self, n_songs: int) -> None:
        if self.output not in {"codes", "clusters"}:
            raise ConfigError(f"output is {self.output!r}; expected codes or clusters")
        if not 0 <= self.n_pretrain <= self.n_epochs:
            raise ConfigError(f"n_pretrain is {self.n_pretrain}; expected 0 to n_epochs, {self.n_epochs}")
        if min(self.zipf_exponent or 0.0, self.zipf_weight) < 0:
            raise ConfigError(
                f"zipf_exponent is {self.zipf_exponent} and zipf_weight {self.zipf_weight}; expected 0 or more of both"
            )
        if not 1 <= self.n_clusters <= n_songs:
            raise InputError(
                f"{self.n_clusters} clusters are asked of {n_songs} songs; give more songs or ask for fewer",
                reason="TOO_FEW_SONGS",
            )

    def _train(
        self, songs: Tensor, rng: np.random.Generator, noise: torch.Generator, prior: MixturePrior | None
    ) -> None:
        """Train the network alone when there is no prior yet, else both."""
        history = History(epochs=self.history_)
        history.constant = {"pretraining": float(prior is None)}
        modules = nn.ModuleList([self.network_] if prior is None else [self.network_, prior])

        def loss_of(index: IntArray) -> Tensor:
            images = self.scale_.enter(songs[torch.from_numpy(index).to(songs.device)])
            loss, terms = self._loss(images, noise, prior)
            history.add(len(index), **terms)
            return loss

        fit_network(
            loss_of,
            torch.optim.Adam(modules.parameters(), self.learning_rate),
            lambda _: shuffled(len(songs), self.batch_size, rng),
            n_epochs=self.n_pretrain if prior is None else self.n_epochs - self.n_pretrain,
            max_minutes=None if self.max_minutes is None else self.max_minutes / 2,
            on_epoch=history,
        )

    def _loss(
        self, images: Tensor, noise: torch.Generator, prior: MixturePrior | None
    ) -> tuple[Tensor, dict[str, float]]:
        network: Autoencoder = self.network_
        mean, log_variance = mean_and_log_variance(network.encode(images))
        codes = mean if prior is None else draw_codes(mean, log_variance, noise)
        reconstruction = image_error(network.decode(codes), images, "mse").mean()
        terms = {"reconstruction": float(reconstruction.detach()), "kl": 0.0}
        if prior is None:
            return reconstruction, terms
        kl = kl_to_mixture(mean, log_variance, prior.log_responsibilities(codes), prior).mean()
        terms["kl"] = float(kl.detach())
        if self.zipf_exponent is not None:
            gap = zipf_gap(prior.log_shares(), self.zipf_exponent)
            terms["zipf"] = float(gap.detach())
            kl = kl + self.zipf_weight * gap
        return reconstruction + self.beta * kl / images[0].numel(), terms

    def _started_prior(self, images: FloatArray) -> MixturePrior:
        """Return the mixture that fits the codes, and let the encoder's variances begin below those of its components."""
        codes = encode(self._codes, images).astype(np.float64)
        least = MIN_VARIANCE * float(codes.var(axis=0).mean()) + np.finfo(np.float32).tiny
        mixture = GaussianMixture(
            self.n_clusters, covariance_type="diag", reg_covar=least, n_init=3, random_state=self.random_state
        ).fit(codes)
        shares = np.maximum(mixture.weights_, 1e-6)
        variances = mixture.covariances_.astype(np.float32)
        with torch.no_grad():
            # Pre-training drew nothing, so the layer's log variances are still as random as they were born.
            last = self.network_.to_code
            assert isinstance(last, nn.Linear)  # noqa: S101 - so is every variational one
            last.weight[self.n_latent :] = 0
            spread = np.log(variances * FIRST_NOISE).T @ mixture.weights_.astype(np.float32)
            last.bias[self.n_latent :] = torch.from_numpy(spread)
        return MixturePrior(shares.astype(np.float32), mixture.means_.astype(np.float32), variances)
