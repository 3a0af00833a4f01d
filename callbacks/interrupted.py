"""Exceptions that end a training after a signal or before time runs out, in a module that does not load Lightning."""

import signal


class Interrupted(Exception):  # noqa: N818 - not an error: everything is saved
    """The end of a training between two steps after a signal, with the state after ``step`` updates.

    Examples:
        >>> str(Interrupted(signal.SIGTERM, 12))
        'SIGTERM after step 12'
    """

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} after step {step:,}")
        self.signum = signum
        self.step = step


class OutOfTime(Interrupted):
    """The end of a training between two steps when `trainer.max_time` is over: like a signal, but on request.

    Examples:
        >>> str(OutOfTime(12))
        'trainer.max_time after step 12'
    """

    def __init__(self, step: int) -> None:
        Exception.__init__(self, f"trainer.max_time after step {step:,}")
        self.signum = 0
        self.step = step
