"""What stands beside the trained network: other looks at a song that nothing is learned for by gradient."""

from collections.abc import Sequence

import torch

from songcore.features import FeatureConfig
from songtrain.augment.store import FrameStore
from songtrain.encoders.build import build_encoder
from songtrain.encoders.modulation import fit_modulation, modulation_size
from songtrain.encoders.network import AnyEncoder, Beside, JointEncoder, Network
from songtrain.encoders.places import PlacedSpectra
from songtrain.settings import EncoderSettings, TrainSettings

__all__ = ["fit_beside", "random_networks", "with_beside"]


def random_networks(settings: EncoderSettings, n_mels: int, seed: int) -> list[Network]:
    """Return ``n_random`` networks of the trained one's shape with the weights they are born with, in evaluation mode."""
    networks: list[Network] = []
    for number in range(settings.n_random):
        with torch.random.fork_rng(devices=[]):
            # Far from the trained network's own seed, whose first weights would be the same.
            torch.manual_seed(1000 * (seed + 1) + number)
            networks.append(build_encoder(settings, n_mels).eval())
    return networks


def fit_beside(settings: TrainSettings, features: FeatureConfig, store: FrameStore) -> list[Beside]:
    """Return what the settings want beside the network, on the songs' device; the same again for the same songs."""
    found: list[Beside] = []
    if size := modulation_size(settings.encoder.n_modulation, features):
        found.append(fit_modulation(store, size, settings.seed))
    if settings.encoder.n_places:
        found.append(PlacedSpectra(store.n_mels, settings.encoder.n_places))
    found += random_networks(settings.encoder, store.n_mels, settings.seed)
    return [part.to(store.device) for part in found]


def with_beside(network: Network, beside: Sequence[Beside]) -> AnyEncoder:
    """Return the network with these beside it, or itself when there are none."""
    return JointEncoder(network, *beside) if beside else network
