"""What limits and rows of the laboratory call time."""

from itertools import count

import pytest
import torch

from songtrain import stopwatch
from songtrain.stopwatch import Stopwatch


@pytest.mark.parametrize(("has_gpu", "seconds"), [(False, 4.0), (True, 10.0)])
def test_counts_work_and_not_waiting(monkeypatch: pytest.MonkeyPatch, has_gpu: bool, seconds: float) -> None:
    """On a processor two threads that work for 8 s of 10 took 4 s each; with a GPU, which works unseen, all 10 s count."""
    clock, work = count(100.0, 10.0), count(3.0, 8.0)
    monkeypatch.setattr(stopwatch, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(stopwatch, "process_time", lambda: next(work))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert Stopwatch().seconds() == seconds
