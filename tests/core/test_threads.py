"""What threads inherit from the one that starts them."""

from collections.abc import Iterator
from threading import Event

import pytest
import torch

from metarl.rl.stepping import run_lanes
from metarl.threads import map_on_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def kind() -> str:
    return torch.zeros(()).device.type


@pytest.mark.usefixtures("two_threads")
def test_tensors_are_made_where_the_caller_makes_them() -> None:
    """Torch keeps a default device for each thread."""

    def mapped() -> list[str]:
        found: list[str] = map_on_threads(lambda _: kind(), range(4), list)
        return found

    def lanes() -> list[str]:
        found = []

        def run(_: int, __: Event) -> None:
            found.append(kind())

        run_lanes(run, 2)
        return found

    for where in ("cpu", "meta", "cpu"):
        with torch.device(where):
            assert mapped() == [where] * 4
            assert lanes() == [where] * 2
    assert mapped() == ["cpu"] * 4
