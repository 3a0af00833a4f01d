"""How a training ends that a signal stopped: apart from `interrupts`, so that catching it loads no Lightning."""

import signal


class Interrupted(Exception):
    """Raised between two steps after a signal: the state of the training is that after `step` whole updates."""

    def __init__(self, signum: int, step: int) -> None:
        super().__init__(f"{signal.Signals(signum).name} after step {step}")
        self.signum = signum
        self.step = step


class OutOfTime(Interrupted):
    """Raised between two steps when `trainer.max_time` is over: as after a signal, but it was asked for."""

    def __init__(self, step: int) -> None:
        Exception.__init__(self, f"trainer.max_time after step {step}")
        self.signum = 0
        self.step = step
