"""Keys and choices that have a new name: a command with the old one is answered with the new one."""

RENAMED = {
    "start": "init_from",
    "groups": "reference_groups",
    "study=generalisation": "study=generalization",
}
"""New names by old ones, as they are typed on the command line: KEY or GROUP=CHOICE."""
