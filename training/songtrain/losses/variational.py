"""What autoencoders minimise: the error of the image, and how far the code's distribution is from its prior."""

from typing import Literal, TypeAlias

import torch
from torch import Tensor

from songcore.errors import ConfigError
from songcore.zipf import zipf_probabilities
from songtrain.encoders.mixture import MixturePrior

__all__ = [
    "ImageError",
    "draw_codes",
    "image_error",
    "kl_to_mixture",
    "kl_to_standard",
    "mean_and_log_variance",
    "zipf_gap",
]

ImageError: TypeAlias = Literal["mse", "mae"]
LOG_VARIANCES = (-12.0, 8.0)
"""Beyond these a standard deviation is nothing or everything, and its exponential soon not a number."""


def image_error(rebuilt: Tensor, images: Tensor, error: ImageError) -> Tensor:
    """Return the mean squared or absolute error (n,) of images (n, n_frames, n_values)."""
    if error not in {"mse", "mae"}:
        raise ConfigError(f"error is {error!r}; expected mse or mae")
    difference = rebuilt - images
    return (difference.square() if error == "mse" else difference.abs()).mean(dim=(1, 2))


def mean_and_log_variance(outputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the halves (n, n_latent) of what a variational encoder gives (n, 2 n_latent)."""
    mean, log_variance = outputs.chunk(2, dim=1)
    return mean, log_variance.clamp(*LOG_VARIANCES)


def draw_codes(mean: Tensor, log_variance: Tensor, generator: torch.Generator) -> Tensor:
    """Return codes drawn from N(mean, variance), with gradients to both (Kingma & Welling 2014)."""
    noise = torch.randn(mean.shape, generator=generator, device=mean.device)
    return mean + noise * (0.5 * log_variance).exp()


def kl_to_standard(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Return KL(N(mean, variance) ‖ N(0, 1)) (n,) in nats (Kingma & Welling 2014, appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1)


def kl_to_mixture(mean: Tensor, log_variance: Tensor, log_responsibilities: Tensor, prior: MixturePrior) -> Tensor:
    """Return Σ_c γ_c [KL(N(mean, variance) ‖ N(µ_c, σ_c²)) + log(γ_c / π_c)] (n,) in nats.

    The terms of the bound of VaDE (Jiang et al. 2017) that are not the image's; q(c | x) is γ (n, n_clusters), given as its
    logarithm.
    """
    ratio = (log_variance[:, None] - prior.log_variances).exp()
    distance = (mean[:, None] - prior.means).square() / prior.log_variances.exp()
    each = 0.5 * (ratio + distance - 1 - log_variance[:, None] + prior.log_variances).sum(dim=2)
    return (log_responsibilities.exp() * (each + log_responsibilities - prior.log_shares())).sum(dim=1)


def zipf_gap(log_shares: Tensor, exponent: float) -> Tensor:
    """Return KL(Zipf's law ‖ π) in nats for log π (n_clusters,), whatever their order: the largest share has the first rank.

    Up to a constant minus the logarithm of a Dirichlet density of the ranked shares, for one pseudo-count in all.
    """
    law = torch.from_numpy(zipf_probabilities(len(log_shares), exponent)).to(log_shares)
    return (law * (law.log() - log_shares.sort(descending=True).values)).sum()
