"""Output streams whose failure does not end the command: a closed pipe, a full disk under a log, no output at all."""

import io
import os
import sys


class Unbreakable(io.FileIO):
    """A file descriptor that accepts everything; once it cannot be written to, it discards the output.

    The descriptor itself is redirected to /dev/null. Writes of C libraries and of child processes therefore succeed
    too, and the interpreter has nothing left to flush, and to complain about, as it exits.
    """

    def write(self, data: object) -> int:
        """Write, or discard; return the number of bytes handled."""
        size = memoryview(data).nbytes  # pyright: ignore[reportArgumentType]
        try:
            written = super().write(data)  # pyright: ignore[reportArgumentType]
            if written is None:  # a full pipe that another process has made non-blocking
                os.set_blocking(self.fileno(), True)
                written = super().write(data)  # pyright: ignore[reportArgumentType]
            return written
        except OSError:
            _redirect_to_null(self.fileno())
            return size


def make_unbreakable() -> None:
    """Make every later write to stdout or stderr succeed, in any library."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell: the next file opened would become the output
            _redirect_to_null(descriptor)
            setattr(sys, name, open(descriptor, "w", closefd=False))  # noqa: SIM115 - it stays open
        elif isinstance(stream, io.TextIOWrapper) and type(_raw(stream)) is io.FileIO and stream.fileno() == descriptor:
            setattr(sys, name, _unbreakable(stream))


def _unbreakable(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    """Return the same stream with the same buffering, which also escapes characters that the terminal does not know."""
    raw = Unbreakable(stream.fileno(), "wb", closefd=False)
    buffer = raw if stream.buffer is _raw(stream) else io.BufferedWriter(raw)
    options = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
    return io.TextIOWrapper(buffer, stream.encoding, errors="backslashreplace", **options)  # pyright: ignore


def _raw(stream: io.TextIOWrapper) -> object:
    """Return what is under a stream's buffer; for the stream of a test or a notebook it is not a file."""
    return getattr(stream.buffer, "raw", stream.buffer)


def _redirect_to_null(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    else:
        os.set_inheritable(null, True)
