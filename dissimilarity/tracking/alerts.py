"""Alerts while a model trains: rules that look at each tick, and say when something happens that noise does not do.

| rule | raises an alert when |
| --- | --- |
| ``nearest`` | another group of references is the nearest one |
| ``move`` | a layer moves by more than ``by`` (a dissimilarity) from one tick to the next, after the dense start |
| ``collapse`` | the effective rank (RankMe) of a layer falls below the share ``below`` of its highest one so far |

**Noise.** A rule tests against the error over the text of the probe set: for moves, that of the paired difference of
two ticks; for groups, Welch's over references, or the error of the values where a group has fewer than three. It holds
its ``level`` over a whole training: Holm's correction over the layers, references and measures of a tick, and a share
6 / (pi k)^2 of the level for its k-th tick.

An alert is raised once, when its condition begins to hold, and again after a tick at which it did not.
"""

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from scipy import special, stats

from dissimilarity.inference.changes import holm
from dissimilarity.inference.coverage import FEWEST_REFERENCES
from dissimilarity.inference.drift import SCHEMA, drift, group_records
from dissimilarity.inference.paired import difference_of_rows
from dissimilarity.probe.arguments import is_real, shown

ONE = 1.001
"""Effective rank up to which a missing error bar means that there is one direction."""

log = logging.getLogger(__name__)

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Alert:
    """Something that happened at a tick.

    Attributes:
        step: step of the tick.
        rule: name of the rule.
        reference: reference of the curve, or group of references; empty where it is about the model alone.
        measure, site: what was measured, and where.
        value: what it is now.
        before: what it was before.
        p: p value of a change that is noise, adjusted for the number of tests of the tick.
        text: all of this in a sentence.
        stops: whether the training ends for it.
    """

    step: int
    rule: str
    reference: str
    measure: str
    site: str
    value: float
    before: float
    p: float
    text: str
    stops: bool = False


@dataclass(frozen=True)
class Tick:
    """What rules look at.

    Attributes:
        step: step of the tick.
        records: records of the curves, at sites of equal depth.
        ranks: effective rank of the model in training, one record per site.
        groups: labels of references by group.
        every: steps between ticks after the dense start.
    """

    step: int
    records: Sequence[Record]
    ranks: Sequence[Record] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    every: int = 1


@dataclass
class Rule(ABC):
    """A condition that is tested at each tick.

    Attributes:
        needs_ranks: whether it looks at effective ranks.
        looks_after: whether it compares ticks after the dense start.
        level: probability of a false alarm in a whole training.
        stop: whether an alert ends the training.
        state: what it remembers of earlier ticks, in plain values.
    """

    name: ClassVar[str]
    needs_ranks: ClassVar[bool] = False
    looks_after: ClassVar[bool] = True
    level: float = 0.01
    stop: bool = False
    state: dict[str, Any] = field(default_factory=dict, init=False, repr=False)

    def blind(self, tick: Tick) -> str:
        """Return why nothing that a tick measured can be told from noise; empty if something can."""
        return _without_error(tick.records)

    @abstractmethod
    def tested(self, tick: Tick) -> list[Alert]:
        """Return what a tick may raise, with p values of its own, and remember the tick."""

    def raised(self, tick: Tick) -> list[Alert]:
        """Return the alerts of a tick."""
        tests = self.tested(tick)
        if not tests:
            return []
        self.state["ticks"] = ticks = self.state.get("ticks", 0) + 1
        level = self.level * 6 / (math.pi * ticks) ** 2
        adjusted = holm(np.array([test.p for test in tests])).tolist()
        true = [replace(test, p=p, stops=self.stop) for test, p in zip(tests, adjusted, strict=True) if p < level]
        before, self.state["true"] = self.state.get("true", []), [_place(alert) for alert in true]
        return [alert for alert in true if _place(alert) not in before]


@dataclass
class Nearest(Rule):
    """Another group of references is the nearest one, at the last layer."""

    name = "nearest"
    looks_after = False

    def blind(self, tick: Tick) -> str:
        """Return why no group can be told from another; three references of each tell without error bars."""
        return super().blind(tick) if any(len(labels) < FEWEST_REFERENCES for labels in tick.groups.values()) else ""

    def tested(self, tick: Tick) -> list[Alert]:
        """Test where the nearest group is not the one that was nearest."""
        nearest: dict[str, str] = self.state.setdefault("nearest", {})
        tests = []
        table = pa.Table.from_pylist(group_records(tick.records, tick.groups), schema=SCHEMA)
        for measure, row in drift(table).items():
            p, group = row["p"], row["nearest"]
            if math.isnan(p) and row["stderr"] > 0:
                p = 2 * float(stats.norm.sf(row["difference"] / row["stderr"]))
            if p < self.level:
                nearest.setdefault(measure, group)
            before = nearest.get(measure, group)
            text = f"by {measure}, {group} is now nearer than {before}, by {row['difference']:.3g}"
            p = 1.0 if group == before else p
            tests.append(Alert(tick.step, self.name, group, measure, row["site"], row["difference"], math.nan, p, text))
        return tests

    def raised(self, tick: Tick) -> list[Alert]:
        """Return the alerts of a tick, and remember which group is nearest."""
        alerts = super().raised(tick)
        self.state["nearest"] |= {alert.measure: alert.reference for alert in alerts}
        return alerts


@dataclass
class Move(Rule):
    """A layer moves by more than `by` from one tick to the next, after the dense start."""

    name = "move"
    by: float = 0.05

    def tested(self, tick: Tick) -> list[Alert]:
        """Test each curve against its last tick, without those of ``previous``: a new reference is no move."""
        last: dict[str, Any] = self.state.get("last", {})
        current = {
            "\n".join(_curve(record)): {key: record[key] for key in ("value", "dissimilarity", "influence", "probe")}
            for record in tick.records
            if record["reference_step"] <= 0 and math.isfinite(record["value"])
        }
        self.state["last"] = current if tick.step >= tick.every else {}
        tests = []
        for curve in [curve for curve in current if curve in last]:
            now, then = current[curve], last[curve]
            if len(now["influence"]) != len(then["influence"]) or now["probe"] != then["probe"]:
                continue
            reference, measure, site, _ = curve.split("\n")
            falls = (now["value"] - then["value"]) * (now["dissimilarity"] - then["dissimilarity"]) < 0
            slopes = {measure: -1.0 if falls else 1.0}
            change = difference_of_rows(now | {"measure": measure}, then | {"measure": measure}, slopes)
            p, size = 1.0, abs(change.difference) - self.by
            if size > 0 and change.stderr > 0:
                p = 2 * float(special.stdtr(change.n_units - 1, -size / change.stderr))
            place, values = (reference, measure, site), (now["dissimilarity"], then["dissimilarity"])
            text = f"dissimilarity to {reference} by {measure} at {site} moved from {values[1]:.3g} to {values[0]:.3g}"
            tests.append(Alert(tick.step, self.name, *place, *values, p, text))
        return tests


@dataclass
class Collapse(Rule):
    """The effective rank of a layer falls below a share of its highest one since the dense start."""

    name = "collapse"
    needs_ranks = True
    below: float = 0.5

    def blind(self, tick: Tick) -> str:
        """Return why no rank can be told from noise; one of 1 needs no error bar."""
        return _without_error([record for record in tick.ranks if record["value"] > ONE])

    def tested(self, tick: Tick) -> list[Alert]:
        """Test each layer; one without any variance has collapsed."""
        highest: dict[str, list[float]] = self.state.setdefault("highest", {})
        tests = []
        for record in tick.ranks:
            site, rank, stderr = record["site"], record["value"], record["stderr"]
            if "zero variance" in record["note"]:
                rank, stderr = 0.0, 0.0
            if not math.isfinite(rank) or (not math.isfinite(stderr) and rank > ONE):
                continue
            if not math.isfinite(stderr):  # at rank 1 it has no derivative
                stderr = 0.0
            if site in highest:
                top, top_stderr = highest[site]
                gap, error = self.below * top - rank, math.hypot(stderr, self.below * top_stderr)
                p = 1.0 if gap <= 0 else 0.0 if error == 0 else float(stats.norm.sf(gap / error))
                text = f"the effective rank of {site} fell to {rank:.3g}, from a high of {top:.3g}"
                tests.append(Alert(tick.step, self.name, "", record["measure"], site, rank, top, p, text))
            if tick.step >= tick.every and rank > highest.get(site, [0.0])[0]:
                highest[site] = [rank, stderr]
        return tests


class AlertRules:
    """The rules of a training.

    Args:
        alerts: rules, as for ``rules_of``.
        groups: labels of references by group.
        every: steps between ticks after the dense start.
    """

    def __init__(self, alerts: "Alerts", groups: Mapping[str, Sequence[str]], every: int) -> None:
        self.rules, self.groups, self.every = rules_of(alerts, groups), groups, every
        self._blind: set[str] = set()

    @property
    def need_ranks(self) -> bool:
        """Whether a rule looks at effective ranks."""
        return any(rule.needs_ranks for rule in self.rules)

    def begin(self, step: int, last_step: int | None) -> None:
        """Forget another training at step 0; warn of rules that no tick can raise, because training ends too early."""
        if not step:
            self._blind.clear()
            for rule in self.rules:
                rule.state = {}
        names = [rule.name for rule in self.rules if rule.looks_after]
        if names and last_step is not None and last_step <= self.every:
            log.warning(
                "alerts: %s: no tick comes after step %d, the first that they compare; lower every",
                *(", ".join(names), self.every),
            )

    def raised(self, step: int, records: Sequence[Record], ranks: Sequence[Record]) -> list[Alert]:
        """Return the alerts of a tick; a fault in a rule is a warning.

        Args:
            step: step of the tick.
            records: records of the curves, at sites of equal depth.
            ranks: effective rank of the model in training, one record per site.
        """
        alerts: list[Alert] = []
        tick = Tick(step, records, ranks, self.groups, self.every)
        for rule in self.rules:
            try:
                alerts += rule.raised(tick)
                if step >= self.every and rule.name not in self._blind and (note := rule.blind(tick)):
                    self._blind.add(rule.name)
                    log.warning("step %d: %s cannot be raised: %s", step, rule.name, note)
            except Exception as error:
                log.warning("step %d: no alerts from %s: %s: %s", step, rule.name, type(error).__name__, error)
        for alert in alerts:
            log.warning("step %d: %s (p = %.1g)", step, alert.text, alert.p)
        return alerts

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return what the rules remember, by their names and options."""
        return {repr(rule): deepcopy(rule.state) for rule in self.rules}

    def load_state_dict(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Continue from the state in a checkpoint; a rule that is new or has changed since starts afresh."""
        for rule in self.rules:
            rule.state = deepcopy(states.get(repr(rule), {}))


Alerts = str | Rule | Mapping[str, Any] | Sequence[str | Rule | Mapping[str, Any]] | None
"""Rules as users pass them."""

RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (Nearest, Move, Collapse)}


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return numbers as Python's, which tables of JSON take."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in options.items()}


def rules_of(alerts: Alerts, groups: Mapping[str, Sequence[str]]) -> list[Rule]:
    """Return rules, given as such, by name, or as mappings of ``rule`` and its numbers: one, or several in a list.

    Raises:
        ValueError: an unknown rule or number, or ``nearest`` without groups.

    Examples:
        >>> rules_of(["move", {"rule": "collapse", "below": 0.3, "stop": True}], {})
        [Move(level=0.01, stop=False, by=0.05), Collapse(level=0.01, stop=True, below=0.3)]
        >>> rules_of({"rule": "move", "by": 0.1}, {})
        [Move(level=0.01, stop=False, by=0.1)]
    """
    is_list = isinstance(alerts, Sequence) and not isinstance(alerts, (str, bytes))
    listed: Any = alerts if is_list else [alerts]
    rules: list[Rule] = []
    options: dict[str, Any]
    for alert in [] if alerts is None else listed:
        if isinstance(alert, Rule):
            options = {entry.name: getattr(alert, entry.name) for entry in fields(alert) if entry.init}
            _check(alert.name, options)
            # A new one: what a rule remembers is of one training.
            rules.append(replace(alert, **_plain(options)))
            continue
        options = dict(alert) if isinstance(alert, Mapping) else {"rule": alert}
        name = options.pop("rule", None)
        rule = RULES.get(name) if isinstance(name, str) else None
        if rule is None:
            raise ValueError(
                f"alerts: expected one of the rules {', '.join(RULES)}, found {shown(alert)}; pass names, "
                "mappings such as {'rule': 'collapse', 'stop': True}, or rules such as Collapse(stop=True)"
            )
        names = [entry.name for entry in fields(rule) if entry.init]
        if unknown := sorted(options.keys() - set(names)):
            raise ValueError(f"alerts: {rule.name}: unknown key {unknown[0]}; expected some of {', '.join(names)}")
        _check(rule.name, options)
        rules.append(rule(**_plain(options)))
    if any(isinstance(rule, Nearest) for rule in rules) and len(groups) < 2:
        raise ValueError(
            "alerts: nearest needs two groups of references or more: reference_groups={a: [...], b: [...]}"
        )
    return rules


def _check(name: str, options: Mapping[str, Any]) -> None:
    """Check the numbers of a rule."""
    for key in ("level", "by", "below"):
        value = options.get(key, 0.5)
        least = 0 if key == "by" else 1e-12
        if not is_real(value) or not least <= value < 1:
            bound = "of 0 or more" if key == "by" else "above 0"
            raise ValueError(f"alerts: {name}: expected {key} {bound} and below 1, found {value!r}")
    if not isinstance(options.get("stop", False), (bool, np.bool_)):
        raise ValueError(f"alerts: {name}: expected stop to be true or false, found {options['stop']!r}")


def _without_error(records: Sequence[Record]) -> str:
    """Return the note of a value without an error bar if no value has one; empty otherwise, or without any value."""
    values = [record for record in records if math.isfinite(record["value"])]
    if not values or any(math.isfinite(record.get("stderr", 0.0)) for record in values):
        return ""
    return values[0]["note"] or "no value has an error bar"


def _curve(record: Record) -> tuple[str, str, str, str]:
    return record["reference"], record["measure"], record["site_a"], record["site_b"]


def _place(alert: Alert) -> list[str]:
    return [alert.reference, alert.measure, alert.site]
