"""Hypothesis plays weather: links drop at any message, servers die at any point of a step, stations lose samples."""

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from protocol_model import World, songs_of

SOUND = st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=9)


class ProtocolMachine(RuleBasedStateMachine):
    """One session; the promises are checked after every step, and at the end that fine weather heals everything."""

    acks_early = False

    @initialize()
    def begin(self) -> None:
        """Begin with a station that has no connection."""
        self.world = World(acks_early=self.acks_early)

    @rule(samples=SOUND)
    def capture(self, samples: list[int]) -> None:
        """Sound arrives."""
        self.world.capture(samples)

    @rule(n=st.integers(1, 20))
    def lose(self, n: int) -> None:
        """Let the device lose samples."""
        self.world.lose(n)

    @rule()
    def connect(self) -> None:
        """Let a new stream take the session over."""
        self.world.connect()

    @precondition(lambda self: self.world.server)
    @rule(n=st.integers(1, 5))
    def exchange(self, n: int) -> None:
        """Messages travel both ways, and the server works."""
        for _ in range(n):
            self.world.answer()
            self.world.send()
            self.world.deliver()
        if self.world.server:
            self.world.server.work()

    @precondition(lambda self: self.world.server)
    @rule()
    def send(self) -> None:
        """Put a message on the way that may never arrive."""
        self.world.send()

    @precondition(lambda self: self.world.server)
    @rule(n=st.integers(1, 4))
    def arrive(self, n: int) -> None:
        """Let messages arrive that the server does not come to work on yet."""
        for _ in range(n):
            self.world.answer()
            self.world.send()
            self.world.deliver()

    @precondition(lambda self: self.world.server)
    @rule()
    def answer(self) -> None:
        """Let an answer arrive."""
        self.world.answer()

    @rule()
    def drop(self) -> None:
        """Break the link, with all that is on the way."""
        self.world.drop()

    @precondition(lambda self: self.world.server)
    @rule(sound=st.lists(SOUND, max_size=5), before_commit=st.booleans(), sees_answer=st.booleans())
    def kill_server(self, sound: list[list[int]], *, before_commit: bool, sees_answer: bool) -> None:
        """Let sound come in, then kill the server within a step: before the commit, or between the commit and the ack."""
        for samples in sound:
            self.capture(samples)
            self.arrive(1)
        assert self.world.server
        self.world.server.work(dies_before_commit=before_commit, dies_before_ack=True)
        while sees_answer and self.world.server.answers:
            self.world.answer()
        self.world.kill()

    @precondition(lambda self: self.world.lingering)
    @rule()
    def linger(self) -> None:
        """Let a stream that the station has left go on in the server."""
        self.world.linger()

    @invariant()
    def promises_hold(self) -> None:
        """Nothing is lost, nothing doubled, and what is acknowledged is stored."""
        if hasattr(self, "world"):
            self.world.check()

    def teardown(self) -> None:
        """In fine weather everything is heard, once."""
        if not hasattr(self, "world"):
            return
        self.world.settle()
        self.world.check()
        assert set(self.world.store.rows.values()) == songs_of(self.world.sound)
        assert self.world.outbox.n_held == 0
        assert self.world.outbox.n_committed == len(self.world.sound)


class BrokenMachine(ProtocolMachine):
    """The same with a server that acknowledges before it commits."""

    acks_early = True


TestProtocol: Any = ProtocolMachine.TestCase
TestProtocol.settings = settings(
    max_examples=120, stateful_step_count=40, suppress_health_check=[HealthCheck.filter_too_much]
)


def test_acks_before_the_commit_are_caught() -> None:
    """Breaking the rule of acks on purpose, the machine finds a chunk that was acknowledged and is not stored."""
    quick = settings(
        max_examples=500,
        stateful_step_count=30,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(BrokenMachine, settings=quick)
    told = [str(error) for error in (caught.value, caught.value.__cause__, caught.value.__context__) if error]
    assert "was acknowledged" in " ".join([*told, *getattr(caught.value, "__notes__", ())])
