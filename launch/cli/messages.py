"""Messages for what Hydra and OmegaConf raise over a command line: what to type instead."""

import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dissimilarity.loading.untrusted import CONTROLS
from launch.cli.compose import CONF, compose, groups
from launch.cli.keys import OPTIONAL, ROOTS
from launch.cli.reference import choices
from launch.cli.renamed import renamed_key, renamed_value
from launch.cli.rules import PART
from launch.cli.suggestions import dotted_keys, nearest, suggestions
from launch.cli.validate import fault, rule_of

KINDS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
EXAMPLES = {"train": "width=256 or model=gelu", "analyze": "study=compare or models=[runs/a,runs/b]"}
PLUGINS = ("joblib", "optuna", "submitit_local", "submitit_slurm")

OF_ANOTHER_KIND = (
    r"Error merging override \+*([^=\n]+)=(.*)\n"
    r"(?:Invalid type assigned|Cannot merge|Invalid value assigned: .* is not a ListConfig)"
)
"""What Hydra raises for a value in place of a list, or of keys."""

USER_ERROR = 2


def report(error: Exception, overrides: Sequence[str], config_name: str = "train") -> tuple[int, str]:
    """Print an error: a message if the user can correct it, else the traceback.

    Returns:
        The exit code (`USER_ERROR`, or 1) and the message.
    """
    if isinstance(error, (HydraException, OmegaConfBaseException)) or (
        isinstance(error, ValueError) and _is_ours(error)
    ):
        message = harmless(explain(error, list(overrides), config_name))
        print(message, file=sys.stderr)
        return USER_ERROR, message
    if isinstance(error, ValueError) and str(error).startswith("No trials are completed"):  # raised by Optuna
        message = "no job of this sweep has a result to optimize; the table says why"
        print(message, file=sys.stderr)
        return 1, message
    if isinstance(error, OSError) and error.strerror:
        message = harmless(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        print(message, file=sys.stderr)
        return 1, message
    if type(error).__name__ == "DistStoreError":  # by name, since torch may not be imported
        message = f"{error}\nThe other machines did not connect: start them in time, or type trainer.num_nodes=1"
        print(message, file=sys.stderr)
        return 1, message
    print(harmless("".join(traceback.format_exception(error))), end="", file=sys.stderr)
    return 1, harmless(f"{type(error).__name__}: {error}")


def harmless(text: str) -> str:
    r"""Return text in which characters from a file cannot command the terminal.

    Examples:
        >>> print(harmless(chr(27) + "[2J"))
        \x1b[2J
    """
    return CONTROLS.sub(lambda match: repr(match[0])[1:-1], text)


def explain(error: Exception, overrides: Sequence[str], config_name: str = "train") -> str:
    """Return a message without a traceback for an error in the command line.

    Args:
        error: what composing or validating raised.
        overrides: the command line's overrides, for telling which one is meant.
        config_name: the primary config, for telling which keys there are.
    """
    if isinstance(error, OverrideParseException):
        return _unreadable(error, config_name)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_choice(error)
    message = f"{error}\n{error.__cause__ or ''}"
    if match := re.search(
        r"Could not (?:override|delete|append|rename)\b.*?'(?:\+*)([^'@=]+)|Key '([^']+)' (?:is not in|not in '\w+')",
        message,
    ):
        full = re.search(r"full_key: (\S+)", message)
        return _no_key(full[1] if full else match[1] or match[2], overrides, config_name)
    if match := re.search(OF_ANOTHER_KIND, message):
        return _of_another_kind(match[1], match[2], overrides, config_name)
    if match := re.search(r"Ambiguous value for argument '([^=]+)=(.*)'", message):
        return _several_values(match[1], match[2], overrides, config_name)
    if match := re.search(r"Value '(.*)' of type '\w+' could not be converted to (\w+)", message, re.DOTALL):
        return f"{_full_key(message)}={match.group(1)}: expected {KINDS.get(match.group(2), match.group(2))}"
    if match := re.search(r"Value '(.*)' is not a valid bool", message):
        return f"{_full_key(message)}={match.group(1)}: expected true or false"
    if "is not Optional" in message:
        return f"{_full_key(message)}=null: there has to be a value"
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        return "\n".join(line for line in lines if not line.startswith(("object_type=", "Set the environment")))
    return str(error)


def unknown_flag(flag: str, arguments: Sequence[str]) -> str:
    """Return a message for a flag that does not exist, such as a key with dashes before it.

    Args:
        flag: the flag, `--width` or `--width=64`.
        arguments: the command line.
    """
    key, given, value = flag.lstrip("-").partition("=")
    key = key.replace("-", "_")
    after = arguments[arguments.index(flag) + 1 :] if flag in arguments else []
    if not given and after and "=" not in after[0] and not after[0].startswith("-"):
        value = after[0]
    return f"{flag}: there is no such flag; keys have no dashes: type {key}={value or '...'}, and --help shows them all"


def _full_key(message: str) -> str:
    key = re.search(r"full_key: (\S+)", message)
    return key.group(1) if key else "?"


def _is_ours(error: ValueError) -> bool:
    """Return whether one of our own checks raised it; an error of a library shows its traceback."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return CONF.parent in raised_in.parents and "site-packages" not in raised_in.parts


def _unreadable(error: OverrideParseException, config_name: str) -> str:
    override = error.override
    if override.startswith("-"):
        return f"{override}: flags such as -m go first or last on the command line"
    if "=" not in override:
        fitting = [f"{group}={override}" for group in groups(config_name) if override in choices(group)]
        if fitting:
            return f"{override}: expected KEY=VALUE; did you mean {' or '.join(fitting)}?"
        return f"{override}: expected KEY=VALUE, such as {EXAMPLES[config_name]}"
    key, value = override.split("=", 1)
    reason = error.message.splitlines()[0]
    problem = f"{override}: the value cannot be read{'' if 'Exception' in reason else f' ({reason})'}.\n"
    if value.startswith("{"):
        example = '{name: ["some text"]}' if "[" in value else '{name: "some text"}'
        return (
            f"{problem}Names before a colon have letters, digits, - and _ alone. Put other texts in double quotes, and "
            f"all of it in single ones: '{key}={example}'"
        )
    if value.startswith("[") and value.endswith("]"):
        quoted = f"[{','.join(map(_in_quotes, value[1:-1].split(',')))}]"
    else:
        quoted = _in_quotes(value)
    typed = shlex.quote(f"{key}={quoted}")
    return f"{problem}Put values with = , [ ] {{ }} ( ) or spaces in two pairs of quotes: {typed}"


def _in_quotes(text: str) -> str:
    """Return a text in double quotes, in place of those that it may have around it."""
    inner = text.strip().strip("\"'").replace('"', r"\"")
    return f'"{inner}"'


def _no_choice(error: MissingConfigException) -> str:
    path = error.missing_cfg_file or ""
    group, _, choice = path.rpartition("/")
    options = sorted(error.options or choices(group))
    if not group:
        return str(error).splitlines()[0]
    if not options and not (CONF / group).is_dir():
        return str(error)
    if choice in PLUGINS and group in ("hydra/launcher", "hydra/sweeper"):
        return f'{group}={choice}: this {group[6:]} is not installed; type pip install -e ".[sweep]"'
    if present := renamed_value(group, choice):
        return f"{group}={choice}: the name is now {group}={present}"
    near = nearest(choice, options, 1)
    hint = f"; did you mean {group}={near[0]}?" if near else ""
    measures = nearest(choice, list(choices("measure")), 1) if group == "measures" else []
    if measures and (not near or choice in measures):
        hint = f"; for this measure alone type measures=none +measure@measures.{measures[0]}={measures[0]}"
    return f"{group}={choice}: no such choice{hint}\n{group} can be: {', '.join(options)}"


def _no_key(key: str, overrides: Sequence[str], config_name: str) -> str:
    typed = {override.lstrip("+~").split("=")[0].split("@")[0]: override for override in reversed(overrides)}
    argument = typed.get(key) or typed.get(key.rpartition(".")[0]) or key
    cfg = _with_choices(overrides, config_name)
    keys = list(dict.fromkeys([*dotted_keys(cfg), *groups(config_name)]))
    if present := renamed_key(key, keys):
        return f"{argument}: there is no key {key}; its name is now {present}"
    if matching := _choices_with(key, config_name):
        return (
            f"{argument}: there is no key {key} with this choice of {key.partition('.')[0]}; it belongs to "
            f"{', '.join(matching)}: leave it out, or type one of those"
        )
    other = {"train": "analyze", "analyze": "train"}[config_name]
    if key in {*compose([], other), *groups(other)}:
        return f"{argument}: {key} is a key of {other}.py; did you mean python {other}.py {argument}?"
    near = suggestions(key, cfg, keys)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    parent = key.rpartition(".")[0]
    siblings = [k for k in keys if k.rpartition(".")[0] == parent]
    shown = [k.rpartition(".")[2] for k in siblings] if siblings else [k for k in keys if "." not in k]
    where = f"{parent} has" if siblings and parent else "keys are"
    message = f"{argument}: there is no key {key}{hint}\n{where}: {', '.join(shown)}"
    if parent and not near:
        message += f"\nTo pass an argument that the config file does not list, put + before the key: +{key}=..."
    return message


def _of_another_kind(key: str, text: str, overrides: Sequence[str], config_name: str) -> str:
    """Return a message for a value that cannot take the place of a list, or of keys."""
    rule = rule_of(key, {**ROOTS[config_name], **OPTIONAL})
    if rule is not None and rule is not PART:
        return fault(key, OverridesParser.create().parse_override(f"{key}={text}").value(), rule)
    keys = OmegaConf.select(_with_choices(overrides, config_name), key) or ()
    names = ", ".join(str(name) for name in keys if not str(name).startswith("_"))
    return f"{key}={text}: expected values one by one, such as {key}.KEY=...; keys are {names}"


def _several_values(key: str, value: str, overrides: Sequence[str], config_name: str) -> str:
    """Return a message for values with commas between them, which a sweep has and a single run does not."""
    cfg = compose([], config_name)
    if key not in [*dotted_keys(cfg), *groups(config_name)]:
        return _no_key(key, overrides, config_name)
    if isinstance(OmegaConf.select(cfg, key), ListConfig):
        return f"{key}={value}: expected a list; type '{key}=[{value}]'"
    return f"{key}={value}: expected one value; for a sweep over several, type -m {key}={value}"


def _choices_with(key: str, config_name: str) -> list[str]:
    """Return the choices of a key's group that have the key, as they are typed; they are composed one by one."""
    group = key.partition(".")[0]
    matching = []
    for choice in choices(group) if group in groups(config_name) and "." in key else ():
        with suppress(HydraException, OmegaConfBaseException):
            if key in dotted_keys(compose([f"{group}={choice}"], config_name)):
                matching.append(f"{group}={choice}")
    return matching


def _with_choices(overrides: Sequence[str], config_name: str) -> DictConfig:
    """Compose the choices of a command alone, such as `study=scaling`, for the keys that they bring."""
    choices = [override for override in overrides if override.split("=")[0] in groups(config_name)]
    try:
        return compose(choices, config_name)
    except (HydraException, OmegaConfBaseException):
        return compose([], config_name)
