"""Ready configurations: songs of seconds, syllables of tens of milliseconds, and sounds of any kind."""

from songcore.features import FeatureConfig
from songcore.frontend import FrontendConfig
from songcore.quality import QualityConfig
from songcore.segment import SegmenterConfig
from songcore.stream import StreamConfig

__all__ = ["PRESETS", "STREAMS"]

PRESETS: dict[str, tuple[FrontendConfig, SegmenterConfig]] = {
    # Nightingale: songs of 1.5 to 10 s whose inner gaps stay below 0.5 s, with silences of about as long as a song.
    "song": (FrontendConfig(), SegmenterConfig()),
    # Finches and sparrows: syllables of 30 ms and more, parted by dips of a few milliseconds.
    "syllable": (
        FrontendConfig(n_fft=256, hop=64, n_mels=48, f_min_hz=500.0, f_max_hz=11_500.0),
        SegmenterConfig(
            smoothing_ms=19.0,
            quiet_db=0.0,
            onset_db=3.0,
            fall_db=25.0,
            recovery_db_per_s=200.0,
            min_fall_ms=2.5,
            min_gap_s=0.015,
            min_song_s=0.03,
            min_evidence_db_s=0.3,
            max_song_s=3.0,
            pre_roll_s=0.01,
            post_roll_s=0.01,
        ),
    ),
}
"""Front end and segmenter."""

STREAMS: dict[str, StreamConfig] = {
    # No margin: what noise does by chance stays below the level that a band exceeds for a fifth of the song.
    "song": StreamConfig(
        *PRESETS["song"],
        FeatureConfig(margin_db=0.0, steady_share=0.2),
        QualityConfig(min_song_s=0.8, min_snr_db=5.0, max_crowding=0.6),
    ),
    # A syllable is one sound: whatever a band holds is the syllable itself.
    # Harmonics fill the bands.
    "syllable": StreamConfig(*PRESETS["syllable"], FeatureConfig(), QualityConfig(min_snr_db=5.0)),
    # Clips of anything, rain and engines too, that lie cut already: cut like songs, but levels count from the loudest point.
    "general": StreamConfig(*PRESETS["song"], FeatureConfig(reference="loudest", range_db=60.0)),
}
"""The whole way from samples to features."""
