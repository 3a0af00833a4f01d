"""Messages of the library in the words of the command line: its arguments and names are not those of Python."""

import re

from dissimilarity.comparison.array_files import KINDS
from dissimilarity.tables.names import name_of

FORMS = (
    "hf:FOLDER, hf:ORG/MODEL@REVISION, a .gguf file, saved activations (.safetensors, .npy, a folder of .npy files), "
    "or runs/NAME in a clone of the repository"
)
REFERENCE = re.compile(r"^reference (['\"])(.+?)\1")
"""How messages of what loads models begin; A and B are no references."""
SHAPES = "reshape it to (sequences, positions, features)"
WORDS = {
    re.escape(KINDS): FORMS,
    r"; pass channels=\{[^}]*\} for .*?, or 'last'": f"; {SHAPES}",
    r", or take the measure with units='sample'": "",
    r",? or leave out units \(of a measure: units='sample'\) to take samples for independent": "",
    r"pass longer texts, or take every common boundary \(unit='token'\)": "type a larger --length or another --text",
    r"\bnulls=(\d+)": r"--nulls \1",
    r"\bsites='([^']*)'": r"--sites '\1'",
    r"choose other sites": "choose other --sites",
    r"choose `sites` that": "choose --sites that",
    r"influence=True": "--influence",
}
"""Parts of messages that name arguments of Python, as patterns, and what to type instead."""


def in_shell_words(message: str) -> str:
    """Return a message of the library for somebody at a command line.

    Examples:
        >>> in_shell_words("nulls=1000: 2 sequences make 1 circle; pass at most nulls=1")
        '--nulls 1000: 2 sequences make 1 circle; pass at most --nulls 1'
        >>> in_shell_words("reference 'hf:models/small' needs peft")
        'small needs peft'
    """
    message = REFERENCE.sub(lambda match: name_of(match[2]), message)
    for pattern, words in WORDS.items():
        message = re.sub(pattern, words, message)
    return message
