"""What a training shows of its progress."""

from callbacks.console import RECENT, Console


def pass_steps(console: Console, steps: range, in_batch: float, between: float) -> list[float | None]:
    """Let steps take some seconds in their batch and between batches, and return the pace after each."""
    paces = []
    for step in steps:
        console.seconds += in_batch + between
        console._in_batches += in_batch
        paces.append(console._seconds_per_step(step))
    return paces


def test_the_time_left_follows_the_recent_pace() -> None:
    """Ten slow steps, then many at a tenth of a second each."""
    console = Console()
    first, *slow = pass_steps(console, range(1, 11), 10.0, 0.0)
    assert first is None and slow == [10.0] * 9
    *_, pace = pass_steps(console, range(11, 1000), 0.1, 0.0)
    assert pace is not None and abs(pace - 0.1) < 1e-6 and len(console._passed) <= RECENT / 0.1 + 3


def test_ticks_of_the_dense_start_do_not_count_in_the_time_left() -> None:
    console = Console()
    _, *dense = pass_steps(console, range(1, 10), 0.1, 2.0)
    assert all(pace is not None and abs(pace - 0.1) < 1e-9 for pace in dense)
    *_, pace = pass_steps(console, range(10, 2000), 0.1, 0.05)
    assert pace is not None and abs(pace - 0.15) < 1e-9, "but later ticks do"
