"""The terms that autoencoders minimise, against torch's distributions."""

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from songcore.zipf import zipf_probabilities
from songtrain.encoders.mixture import MixturePrior
from songtrain.losses.variational import draw_codes, image_error, kl_to_mixture, kl_to_standard, zipf_gap


def tiny_prior(n_clusters: int = 3, n_latent: int = 2) -> MixturePrior:
    """Return a mixture of unlike shares, means and variances."""
    rng = np.random.default_rng(3)
    shares = np.arange(1, n_clusters + 1, dtype=np.float32)
    means, variances = rng.normal(size=(n_clusters, n_latent)), rng.uniform(0.2, 2, (n_clusters, n_latent))
    return MixturePrior(shares / shares.sum(), means.astype(np.float32), variances.astype(np.float32))


def test_errors_of_images_are_means_over_pixels() -> None:
    """Squared and absolute error of each image, by hand."""
    images, rebuilt = torch.zeros(2, 2, 2), torch.tensor([[[1.0, -1], [3, 0]], [[0, 0], [0, 2]]])
    assert image_error(rebuilt, images, "mse").tolist() == [11 / 4, 1]
    assert image_error(rebuilt, images, "mae").tolist() == [5 / 4, 0.5]


def test_kl_to_the_standard_normal_is_torchs() -> None:
    """The closed form is that of torch.distributions."""
    torch.manual_seed(0)
    mean, log_variance = torch.randn(6, 4), torch.randn(6, 4)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    torch.testing.assert_close(kl_to_standard(mean, log_variance), expected)


def test_codes_are_drawn_from_the_normal_asked_for() -> None:
    """Many draws have the mean and the variance, and the same generator draws the same."""
    mean, log_variance = torch.full((40_000, 1), 2.0), torch.full((40_000, 1), np.log(0.25))
    codes, again = (draw_codes(mean, log_variance, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(codes, again)
    np.testing.assert_allclose([codes.mean(), codes.std()], [2, 0.5], atol=0.01)


def test_responsibilities_are_bayes_rule() -> None:
    """γ is prior times likelihood over their sum, by torch's mixture; its rows sum to one, far from all components too."""
    prior = tiny_prior()
    components = Independent(Normal(prior.means, (prior.log_variances / 2).exp()), 1)
    mixture = MixtureSameFamily(Categorical(logits=prior.logits), components)
    codes = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    joint = components.log_prob(codes[:, None]) + prior.log_shares()  # type: ignore[no-untyped-call]
    gamma = prior.log_responsibilities(codes).exp()
    expected = (joint - mixture.log_prob(codes)[:, None]).exp()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(gamma, expected)
    far = prior.log_responsibilities(torch.full((1, 2), 1e4))
    torch.testing.assert_close(far.exp().sum(dim=1), torch.ones(1))
    assert torch.isfinite(far).all()


def test_vades_bound_is_that_of_its_distributions() -> None:
    """KL of q(z | x) q(c | x) to p(z, c), term by term: torch's KL to each component, and the KL of the categories."""
    prior, generator = tiny_prior(), torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(5, 2, generator=generator), torch.randn(5, 2, generator=generator)
    gamma = torch.rand(5, 3, generator=generator)
    gamma = gamma / gamma.sum(dim=1, keepdim=True)
    normal = Normal(mean[:, None], (log_variance[:, None] / 2).exp())
    each = kl_divergence(normal, Normal(prior.means, (prior.log_variances / 2).exp())).sum(dim=2)
    categories = kl_divergence(Categorical(gamma), Categorical(logits=prior.logits))
    expected = (gamma * each).sum(dim=1) + categories
    torch.testing.assert_close(kl_to_mixture(mean, log_variance, gamma.log(), prior), expected)


def test_vades_bound_has_gradients_where_a_share_is_nothing() -> None:
    """A code far from a component has γ rounded to zero there, and no gradient becomes NaN."""
    prior = tiny_prior()
    mean = torch.tensor([[30.0, 30.0]], requires_grad=True)
    gamma = prior.log_responsibilities(mean)
    assert (gamma.exp() == 0).any()
    kl_to_mixture(mean, torch.zeros(1, 2), gamma, prior).sum().backward()  # type: ignore[no-untyped-call]
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in prior.parameters())


def test_shares_are_compared_with_zipfs_law_in_order_of_size() -> None:
    """Nothing to pay for Zipf's law in any order; else torch's KL from the law to the ranked shares, with a gradient there."""
    law = torch.from_numpy(zipf_probabilities(5, 0.9)).float()
    shuffled = law[[3, 0, 4, 2, 1]].log()
    assert float(zipf_gap(shuffled, 0.9)) == pytest.approx(0, abs=1e-6)
    shares = torch.tensor([0.1, 0.4, 0.3, 0.05, 0.15]).log().requires_grad_()
    ranked = Categorical(probs=torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]))
    gap = zipf_gap(shares, 0.9)
    torch.testing.assert_close(gap.detach(), kl_divergence(Categorical(probs=law), ranked))
    gap.backward()  # type: ignore[no-untyped-call]
    # The largest share answers for the first rank, wherever it stands.
    assert shares.grad is not None
    assert int(shares.grad.argmin()) == 1
