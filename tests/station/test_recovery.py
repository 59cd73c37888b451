"""What a station does about failures, and how long it waits."""

from random import Random

import pytest

from songstation.link import LinkSettings
from songstation.recovery import Action, Backoff, Failure, action_for, asking_delay_s
from songstation.station_settings import StationSettings


def _rng(seed: int) -> Random:
    return Random(seed)


@pytest.mark.parametrize(
    ("code", "reason", "action"),
    [
        ("UNAVAILABLE", "", Action.RETRY),
        ("UNAVAILABLE", "DRAINING", Action.RETRY),
        ("RESOURCE_EXHAUSTED", "DISK_LOW", Action.RETRY),
        ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE", Action.STOP),
        ("DEADLINE_EXCEEDED", "IDLE", Action.RETRY),
        ("INTERNAL", "INTERNAL", Action.RETRY),
        ("SOMETHING_NEW", "", Action.RETRY),
        ("UNAUTHENTICATED", "", Action.ASK_LATER),
        ("UNAUTHENTICATED", "TOKEN_EXPIRED", Action.ASK_LATER),
        ("UNAUTHENTICATED", "CERT_INVALID", Action.ASK_LATER),
        ("PERMISSION_DENIED", "", Action.ASK_LATER),
        ("PERMISSION_DENIED", "STATION_MISMATCH", Action.ASK_LATER),
        ("PERMISSION_DENIED", "STATION_DISABLED", Action.ASK_LATER),
        ("OUT_OF_RANGE", "SEQUENCE_GAP", Action.REWIND),
        ("INVALID_ARGUMENT", "CHUNK_CORRUPT", Action.RESEND),
        ("INVALID_ARGUMENT", "SETUP_INVALID", Action.STOP),
        ("FAILED_PRECONDITION", "SEQUENCE_REUSED", Action.NEW_SESSION),
        ("FAILED_PRECONDITION", "SESSION_FINISHED", Action.NEW_SESSION),
        ("ABORTED", "WRITER_FENCED", Action.RETAKE),
    ],
)
def test_every_failure_has_its_action(code: str, reason: str, action: Action) -> None:
    """The status map of the protocol, from the station's side."""
    assert action_for(Failure(code, reason)) is action


def test_delays_are_jittered_grow_and_stay_bounded() -> None:
    """Delays are spread over the whole range up to a bound that doubles until it reaches the longest."""
    backoffs = [Backoff(_rng(seed), first_s=1, longest_s=60) for seed in range(400)]
    for bound_s in [1, 2, 4, 8, 16, 32, 60, 60]:
        delays = [backoff.next_delay_s() for backoff in backoffs]
        assert 0 <= min(delays) < 0.05 * bound_s
        assert 0.95 * bound_s < max(delays) <= bound_s


def test_a_server_that_refuses_is_asked_about_every_five_minutes() -> None:
    """That is the default of link and settings; each station's own delay is a fifth shorter to a fifth longer."""
    assert LinkSettings().refused_retry_s == StationSettings().refused_retry_s == 300
    delays = [asking_delay_s(_rng(seed), 300) for seed in range(400)]
    assert 240 <= min(delays) < 245
    assert 355 < max(delays) <= 360


def test_success_resets_and_the_servers_wish_is_kept() -> None:
    """After a commit delays are short again, and not shorter than what the server asked for, but for the longest of all."""
    backoff = Backoff(_rng(1), first_s=1, longest_s=60)
    for _ in range(2000):
        backoff.next_delay_s()
    backoff.reset()
    assert backoff.next_delay_s() <= 1
    assert 5 <= backoff.next_delay_s(5) <= 7
    assert 60 <= backoff.next_delay_s(3600) <= 64
