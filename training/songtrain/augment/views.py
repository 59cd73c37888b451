"""Views of songs for contrastive training, made on whole batches of floor-subtracted log-mel.

Values are units of 10 dB above the noise floor, so sounds mix by their maximum, a change of level is an addition, and
noise that rises by x dB is a song x dB lower, clipped at zero. Warps gather rows; pitch is one small matrix product per song.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from songcore.arrays import IntArray
from songcore.features import SCALE_DB, FeatureConfig
from songcore.frontend import FrontendConfig
from songtrain.augment.soundscape import SCENE_FRAMES, soundscape_rows
from songtrain.augment.store import FrameStore
from songtrain.settings import AugmentSettings

__all__ = ["ViewMaker", "without_steady"]

N_SCENES = 64
SCENES_AT_ONCE = 4
EQ_KNOTS = 6
LOG2_10 = float(np.log2(10))
SOFT_DB = 6.0
"""Gain acts fully on what is this far above the floor and not on the floor itself, which does not know of the song's level."""


class ViewMaker:
    """Makes one random view of every song asked for; the generator decides all."""

    def __init__(
        self,
        store: FrameStore,
        settings: AugmentSettings,
        frontend: FrontendConfig,
        features: FeatureConfig,
        *,
        max_frames: int,
        seed: int,
    ) -> None:
        self._store, self._settings = store, settings
        self._max_frames = max_frames
        self._features = features
        self._ceiling = features.range_db / SCALE_DB
        rows = soundscape_rows(frontend, features, N_SCENES, np.random.default_rng(seed))
        self._noise = torch.from_numpy(rows).to(store.device)
        self._generator = torch.Generator(store.device)

    def seed(self, seed: int) -> None:
        """Begin a reproducible sequence of views."""
        self._generator.manual_seed(seed)

    def views(self, indices: IntArray) -> Tensor:
        """Return one view of each song, (n, 1, n_mels, n_frames) float32."""
        s = self._settings
        index = torch.from_numpy(indices).to(self._store.device)
        x = self._shift_pitch(self._warped(index))
        x = self._add_level(x)
        if s.mix_probability:
            x = torch.maximum(x, self._other_songs(x))
        if s.raise_floor_probability:
            x = self._raise_floor(x)
        if s.background_probability and len(self._store.background):
            x = torch.maximum(x, self._background(x))
        x = x.clamp_(0, self._ceiling)
        if self._features.steady_share is not None:
            x = without_steady(x, self._features.steady_share, self._features.steady_below_db)
        if s.n_masks:
            x = x * self._masks(x, self._store.lengths[index])
        return x.transpose(1, 2)[:, None]

    def _uniform(self, low: float, high: float, *shape: int) -> Tensor:
        u = torch.rand(*shape, generator=self._generator, device=self._store.device)
        return low + (high - low) * u

    def _happens(self, probability: float, n: int) -> Tensor:
        return (self._uniform(0, 1, n, 1, 1) < probability).float()

    def _warped(self, index: Tensor) -> Tensor:
        """Songs at another pace, cut at the ends, moved in time: (n, n_frames, n_mels), linear between frames."""
        s, n = self._settings, len(index)
        starts, lengths = self._store.starts[index], self._store.lengths[index].float()
        pace = torch.exp(self._uniform(-1, 1, n) * float(np.log1p(s.tempo)))
        shift = self._uniform(-1, 1, n) * s.shift_share * lengths
        begin = lengths * self._uniform(0, s.crop_share, n)
        end = lengths * (1 - self._uniform(0, s.crop_share, n))
        # Of a song longer than the window a random stretch is seen.
        window = self._max_frames * pace
        begin = begin + (end - begin - window).clamp(min=0) * self._uniform(0, 1, n)
        end = torch.minimum(end, begin + window)
        n_out = int(((end - begin) / pace + shift.abs()).max().ceil().clamp(max=self._max_frames))
        n_out = -(-n_out // 8) * 8
        source = (torch.arange(n_out, device=index.device) - shift.clamp(min=0)[:, None]) * pace[:, None]
        source = source + begin[:, None] + (-shift).clamp(min=0)[:, None]
        valid = (source >= begin[:, None]) & (source <= torch.minimum(end, lengths - 1)[:, None])
        low = source.floor()
        weight = (source - low)[..., None]
        row = starts[:, None] + low.long()
        last = (starts + lengths.long() - 1)[:, None]
        silence = self._store.silence
        first = self._store.frames[torch.where(valid, row, silence)].float()
        second = self._store.frames[torch.where(valid, torch.minimum(row + 1, last), silence)].float()
        return torch.lerp(first, second, weight)

    def _shift_pitch(self, x: Tensor) -> Tensor:
        """Every band takes its value from ``shift`` bands away, linear between bands, silence from beyond the edge."""
        n, n_mels = len(x), self._store.n_mels
        shift = self._uniform(-1, 1, n, 1, 1) * self._settings.pitch_mels
        bands = torch.arange(n_mels, device=x.device, dtype=torch.float32)
        distance = (bands[:, None] + shift - bands[None, :]).abs()
        return torch.bmm(x, (1 - distance).clamp(min=0))

    def _curve(self, n: int) -> Tensor:
        """Smooth random curves over the bands, (n, 1, n_mels), about -1 to 1."""
        knots = self._uniform(-1, 1, n, 1, EQ_KNOTS)
        return interpolate(knots, self._store.n_mels, mode="linear", align_corners=True)

    def _add_level(self, x: Tensor) -> Tensor:
        gain = self._settings.gain_db / SCALE_DB
        level = self._uniform(-gain, gain, len(x), 1, 1) + 0.5 * gain * self._curve(len(x))
        return torch.addcmul(x, (x * (SCALE_DB / SOFT_DB)).clamp(max=1), level).clamp_(min=0)

    def _other_songs(self, x: Tensor) -> Tensor:
        """Stretches of random other songs, some dB lower, in some rows."""
        n, n_frames, _ = x.shape
        other = torch.randint(len(self._store), (n,), generator=self._generator, device=x.device)
        offset = self._uniform(-0.5, 0.5, n) * n_frames
        at = torch.arange(n_frames, device=x.device) - offset.long()[:, None]
        valid = (at >= 0) & (at < self._store.lengths[other][:, None])
        rows = torch.where(valid, self._store.starts[other][:, None] + at, self._store.silence)
        low, high = self._settings.mix_db
        fainter = self._uniform(low / SCALE_DB, high / SCALE_DB, n, 1, 1)
        return (self._store.frames[rows].float() - fainter) * self._happens(self._settings.mix_probability, n)

    def _raise_floor(self, x: Tensor) -> Tensor:
        """Let the noise rise under the song, more in some bands than in others, down to a random ratio of song to noise.

        What the noise itself does shows above the new floor. Ratios are of mean powers, over all bands and the song's frames.
        """
        n, n_frames, _ = x.shape
        # Few scenes in a batch: songs that share their noise must still be told apart, so noise becomes no clue.
        few = torch.randint(N_SCENES, (SCENES_AT_ONCE,), generator=self._generator, device=x.device)
        scene = few[torch.randint(SCENES_AT_ONCE, (n, 1), generator=self._generator, device=x.device)] * SCENE_FRAMES
        begin = torch.randint(SCENE_FRAMES, (n, 1), generator=self._generator, device=x.device)
        at = (begin + torch.arange(n_frames, device=x.device)) % SCENE_FRAMES
        noise = self._noise[scene + at]
        sounds = x.amax(dim=2, keepdim=True) > 0
        song_level = _mean_level(x, sounds)
        lowest = self._settings.lowest_snr_db / SCALE_DB
        ratio = lowest + (song_level - lowest) * self._uniform(0, 1, n, 1, 1)
        rise = song_level - _mean_level(noise, sounds) - ratio
        # A song already fainter than that stays as it is: noise can only be added.
        happens = self._happens(self._settings.raise_floor_probability, n) * (rise > 0)
        rise = (rise + 0.5 * self._curve(n)).clamp(min=0) * happens
        misjudged = self._uniform(-0.15, 0.15, n, 1, 1)  # the floor itself is an estimate, good to a decibel or two
        return torch.maximum(x - rise, (noise + misjudged) * happens)

    def _background(self, x: Tensor) -> Tensor:
        n, n_frames, _ = x.shape
        start = torch.randint(len(self._store.background), (n, 1), generator=self._generator, device=x.device)
        rows = (start + torch.arange(n_frames, device=x.device)) % len(self._store.background)
        sound = self._store.background[rows].float()
        level = self._uniform(-1.0, 0.5, n, 1, 1)
        return (sound + level * (sound > 0)) * self._happens(self._settings.background_probability, n)

    def _masks(self, x: Tensor, lengths: Tensor) -> Tensor:
        """One, but zero in a few short stretches of time and of frequency (SpecAugment, Park et al. 2019)."""
        s, (n, n_frames, n_mels) = self._settings, x.shape
        longest_frames = (s.mask_share * lengths.clamp(max=n_frames))[:, None, None]
        highest = torch.full_like(longest_frames, float(s.mask_mels))
        keep = torch.ones(n, n_frames, 1, device=x.device) * torch.ones(n, 1, n_mels, device=x.device)
        for size, axis, longest in ((n_frames, 1, longest_frames), (n_mels, 2, highest)):
            at = torch.arange(size, device=x.device)
            width = self._uniform(0, 1, n, s.n_masks, 1) * longest
            begin = self._uniform(0, 1, n, s.n_masks, 1) * (size - width).clamp(min=0)
            hidden = ((at >= begin) & (at < begin + width)).any(dim=1)
            keep = keep.masked_fill(hidden.unsqueeze(3 - axis), 0.0)
        return keep


def _mean_level(x: Tensor, counts: Tensor) -> Tensor:
    """Return the level (n, 1, 1) of the mean power over all bands of those frames (n, n_frames, 1) that count."""
    power = (torch.exp2(x * LOG2_10) * counts).sum(dim=(1, 2), keepdim=True)
    return (power / (counts.sum(dim=(1, 2), keepdim=True) * x.shape[2]).clamp(min=1)).clamp(min=1).log10()


def without_steady(x: Tensor, share: float, below_db: float) -> Tensor:
    """Return views (n, n_frames, n_mels) without what their bands hold for ``share`` of their frames.

    As `songcore.features.song_features` takes it from songs, so that noise laid over a song leaves here what it leaves there;
    frames count from the first to the last that is not silent.
    """
    sounds = x.amax(dim=2) > 0
    at = torch.arange(x.shape[1], device=x.device)
    last = torch.where(sounds, at, -1).amax(dim=1)
    first = torch.where(sounds, at, x.shape[1]).amin(dim=1)
    rank = (share * (last + 1 - first).clamp(min=0)).long()
    # Only levels up to that rank need be in order.
    loudest = x.topk(int(rank.max()) + 1, dim=1).values
    level = loudest.gather(1, rank[:, None, None].expand(-1, 1, x.shape[2]))
    limit = (x.amax(dim=(1, 2)) - below_db / SCALE_DB).clamp(min=0)
    return (x - torch.minimum(level, limit[:, None, None])).clamp_(min=0)
