"""What a training shows of its progress."""

from callbacks.console import RECENT, Console


def test_the_time_left_follows_the_recent_pace() -> None:
    """Ten slow steps, then many at a tenth of a second each."""
    console = Console()
    console._passed.append((0.0, 0))
    for step in range(1, 11):
        console.seconds += 10.0
        assert console._seconds_per_step(step) == 10.0 or console.seconds > RECENT
    for step in range(11, 1000):
        console.seconds += 0.1
        pace = console._seconds_per_step(step)
    assert abs(pace - 0.1) < 1e-6 and len(console._passed) <= RECENT / 0.1 + 3
