"""Several vector environments side by side."""

from threading import Barrier, Event

import pytest

from metarl.rl.stepping import run_lanes


@pytest.mark.parametrize("failing", [0, 1])
def test_a_lanes_error_ends_the_other(failing: int) -> None:
    told: list[bool] = []
    both = Barrier(2, timeout=60)

    def run(lane: int, abandoned: Event) -> None:
        both.wait()
        if lane == failing:
            raise ValueError("this lane")
        told.append(abandoned.wait(timeout=5))

    with pytest.raises(ValueError, match="this lane"):
        run_lanes(run, 2)
    assert told == [True]
