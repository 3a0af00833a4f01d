"""What a study is doing, beside a spinner."""

from collections.abc import Callable

from rich.markup import escape
from rich.status import Status


def progress_of(status: Status) -> Callable[[str], None]:
    """Return a function that shows a message as it is: names in it are no markup."""
    return lambda message: status.update(escape(message))
