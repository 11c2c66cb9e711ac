"""Knobs: read from knobs.toml, looked up below a root, judged. Nothing is changed here."""

import fnmatch
import re
import resource
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

RULES = (
    "equals", "at_least", "at_most", "selected", "zero_mask", "not_empty", "absent",
)


class KnobError(Exception):
    """What is wrong with a knob or a value, in one line."""


@dataclass(frozen=True)
class Knob:
    """One setting of the kernel, which may be there once for each device or core."""

    id: str
    area: str
    rule: str
    want: str
    why: str
    measured: str
    file: str = ""
    limit: str = ""
    persist: str = ""


@dataclass(frozen=True)
class Finding:
    """A knob's state at one path: `value` is None when it is not there, `problem` when unreadable."""

    knob: Knob
    path: Path
    value: str | None
    problem: str = ""

    @property
    def good(self) -> bool:
        return not self.problem and self.value is not None and meets(self.knob, self.value)


def load(path: Path) -> list[Knob]:
    """The knobs of a file; KnobError names the entry that is wrong."""
    knobs = []
    for entry in tomllib.loads(path.read_text())["knob"]:
        try:
            knob = Knob(**entry)
        except TypeError as error:
            raise KnobError(f"{path}: knob {entry.get('id')!r}: {error}") from error
        if knob.rule not in RULES:
            raise KnobError(f"{path}: knob {knob.id!r}: unknown rule {knob.rule!r}")
        if bool(knob.file) == bool(knob.limit):
            raise KnobError(f"{path}: knob {knob.id!r}: exactly one of file and limit")
        knobs.append(knob)
    return knobs


def choose(knobs: list[Knob], ids: list[str]) -> list[Knob]:
    """The knobs of these ids; KnobError names one that does not exist."""
    known = {knob.id: knob for knob in knobs}
    for wanted in ids:
        if wanted not in known:
            raise KnobError(f"no knob {wanted!r}; there are: {', '.join(known)}")
    return [known[wanted] for wanted in ids]


def paths(root: Path, knob: Knob) -> list[Path]:
    """Where the knob is below the root; the loopback interface is left out."""
    if "*" not in knob.file and "[" not in knob.file:
        return [root / knob.file]
    found = root.glob(knob.file)
    return sorted(path for path in found if not fnmatch.fnmatch(str(path), "*/net/lo/*"))


def look(root: Path, knob: Knob) -> list[Finding]:
    """The state of a knob wherever it is; an empty list when the machine has nothing of the kind."""
    if knob.limit:
        return [_limit(knob)]
    findings = []
    for path in paths(root, knob):
        try:
            findings.append(Finding(knob, path, path.read_text().strip()))
        except FileNotFoundError:
            if knob.rule == "absent":
                findings.append(Finding(knob, path, ""))
        except OSError as error:
            findings.append(Finding(knob, path, None, f"cannot be read: {error.strerror}"))
    return findings


def _limit(knob: Knob) -> Finding:
    number = getattr(resource, f"RLIMIT_{knob.limit.upper()}")
    soft, _ = resource.getrlimit(number)
    value = "unlimited" if soft == resource.RLIM_INFINITY else str(soft)
    return Finding(knob, Path(f"ulimit {knob.limit}"), value)


def meets(knob: Knob, value: str) -> bool:
    """True when a value is what is recommended, or better."""
    match knob.rule:
        case "equals":
            return value == knob.want
        case "at_least":
            return value == "unlimited" or _number(value) >= _number(knob.want)
        case "at_most":
            return _number(value) <= _number(knob.want)
        case "selected":
            return selected(value) == knob.want
        case "zero_mask":
            return not re.search("[1-9a-f]", value)
        case "not_empty":
            return bool(value)
        case "absent":
            return not value
    raise KnobError(f"knob {knob.id!r}: unknown rule {knob.rule!r}")


def selected(value: str) -> str:
    """The word in brackets of `a [b] c`; the whole value when there is none."""
    found = re.search(r"\[([^\]]+)\]", value)
    return found.group(1) if found else value


def settable(knob: Knob) -> bool:
    """True when the recommended value can be written while the machine runs."""
    return bool(knob.file) and knob.rule not in ("not_empty", "absent") and bool(knob.persist)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise KnobError(f"{text!r} is not a number") from error


@dataclass
class Report:
    """Every finding, and what could not be looked at."""

    findings: list[Finding] = field(default_factory=list)
    nowhere: list[Knob] = field(default_factory=list)


def check(root: Path, knobs: list[Knob]) -> Report:
    """Looks at all knobs; changes nothing."""
    report = Report()
    for knob in knobs:
        findings = look(root, knob)
        report.findings += findings
        if not findings:
            report.nowhere.append(knob)
    return report
