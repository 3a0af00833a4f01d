"""A call that pauses in its middle and goes on when told to, as a generator does at each ``yield``.

A forward pass has no ``yield``, so it runs in a thread of its own. Only one thread ever runs: who resumes a call waits
until it pauses or ends.
"""

from collections.abc import Callable
from threading import Semaphore, Thread
from typing import Any

import torch


class _Ended(BaseException):
    """End a call that nobody resumes; no Exception, so that a model does not catch it."""


class PausedCall:
    """A call that has not begun.

    Args:
        function: what is called; it calls ``pause`` of this object where it pauses.

    Examples:
        >>> steps = []
        >>> call = PausedCall(lambda: [steps.append(1), call.pause(), steps.append(2)])
        >>> call.resume(), steps
        (False, [1])
        >>> call.resume(), steps
        (True, [1, 2])
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.result: Any = None
        self.has_returned = False
        self._function, self._error, self._is_unwanted = function, None, False
        self._go_on, self._stopped = Semaphore(0), Semaphore(0)
        self._thread = Thread(target=self._run, daemon=True)

    def resume(self) -> bool:
        """Run the call until it pauses or ends, and return whether it has ended; raise what it raised."""
        if self.has_returned:
            return True
        if self._thread.ident is None:
            self._thread.start()
        self._go_on.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return self.has_returned

    def pause(self) -> None:
        """Pause; for the call itself."""
        self._stopped.release()
        self._go_on.acquire()
        if self._is_unwanted:
            raise _Ended

    def close(self) -> None:
        """End the call where it pauses."""
        self._is_unwanted = True
        if self._thread.ident is not None:
            self._go_on.release()
            self._thread.join()

    def _run(self) -> None:
        self._go_on.acquire()
        try:
            with torch.no_grad():  # each thread has its own mode
                self.result = self._function()
        except _Ended:
            pass
        except BaseException as error:
            self._error = error
        self.has_returned = True
        self._stopped.release()
