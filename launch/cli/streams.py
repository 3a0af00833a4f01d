"""Output that can break without ending the command: a closed pipe, a full disk under a log, no output at all."""

import io
import os
import sys


class Unbreakable(io.FileIO):
    """A descriptor that takes everything: once it cannot be written to, it leads nowhere, for this process and its own.

    The descriptor itself is turned to /dev/null, so that what libraries in C and child processes write fails no more
    than what Python writes, and nothing is left over for the interpreter to complain of as it ends.
    """

    def write(self, data: object) -> int:
        """Writes, or does as if; returns how many bytes are dealt with."""
        size = memoryview(data).nbytes  # pyright: ignore[reportArgumentType]
        try:
            written = super().write(data)  # pyright: ignore[reportArgumentType]
            if written is None:  # a pipe that another process has made non-blocking, and that is full
                os.set_blocking(self.fileno(), True)
                written = super().write(data)  # pyright: ignore[reportArgumentType]
            return written
        except OSError:
            _lead_nowhere(self.fileno())
            return size


def make_unbreakable() -> None:
    """Makes sure that nothing written to stdout or stderr from here on raises, in any library."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: the next file to be opened would become the output
            _lead_nowhere(descriptor)
            setattr(sys, name, open(descriptor, "w", closefd=False))
        elif isinstance(stream, io.TextIOWrapper) and type(_raw(stream)) is io.FileIO and stream.fileno() == descriptor:
            setattr(sys, name, _unbreakable(stream))


def _unbreakable(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """The same stream, buffered as it was; a letter that the terminal does not know is no reason to end either."""
    raw = Unbreakable(stream.fileno(), "wb", closefd=False)
    buffer = raw if stream.buffer is _raw(stream) else io.BufferedWriter(raw)
    options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(buffer, stream.encoding, errors="backslashreplace", **options)  # pyright: ignore


def _raw(stream: io.TextIOWrapper) -> object:
    """What lies under a stream's buffer; the stream of a test or a notebook has something else there than a file."""
    return getattr(stream.buffer, "raw", stream.buffer)


def _lead_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    else:
        os.set_inheritable(nowhere, True)
