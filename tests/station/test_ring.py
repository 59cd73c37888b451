"""The ring buffer against a plain list, and the estimate of what a device lost."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from songstation.ring import RingBuffer, lost_between

CAPACITY = 16
steps = st.lists(
    st.tuples(st.just("write"), st.integers(0, 12))
    | st.tuples(st.just("lose"), st.integers(1, 9))
    | st.tuples(st.just("read"), st.integers(1, 20)),
    max_size=60,
)


@given(steps)
def test_nothing_is_lost_without_being_counted_in_its_place(todo: list[tuple[str, int]]) -> None:
    """What is read is what was written, in order, with every loss counted exactly where it happened."""
    ring = RingBuffer(CAPACITY)
    written: list[int] = []  # sample values; a lost sample is -1
    read: list[int] = []
    n_inside = 0
    for what, n in [*todo, *[("read", 20)] * 70]:
        if what == "write":
            values = [(len(written) + i) % 30_000 for i in range(n)]
            ring.write(np.array(values, np.int16))
            fits = n_inside + n <= CAPACITY
            written += values if fits else [-1] * n
            n_inside += n if fits else 0
        elif what == "lose":
            ring.lose(n)
            written += [-1] * n
        else:
            n_lost, samples = ring.read(n)
            assert len(samples) <= n
            read += [-1] * n_lost + samples.tolist()
            n_inside -= len(samples)
    assert read == written


def test_lost_samples_are_estimated_from_the_devices_clock() -> None:
    """The hole between two blocks is measured by the device's clock; without a useful one it counts as a block."""
    assert lost_between(10.0, 10.5, 48_000, 480) == 24_000
    assert lost_between(10.0, 10.000001, 48_000, 480) == 1
    assert lost_between(None, 10.0, 48_000, 480) == 480
    assert lost_between(10.0, 0.0, 48_000, 480) == 480
