"""The commands: check, apply, revert, measure."""

import argparse
import os
import sys
from pathlib import Path

from . import change, knob, measure

KNOBS = Path(__file__).parent.parent / "knobs.toml"


def main(name: str, words: list[str] | None = None) -> int:
    """Runs one command; 0 when all is as it should be, 1 when not, 2 when it could not be done."""
    words = sys.argv[1:] if words is None else words
    load: list[str] = []
    if name == "measure" and "--" in words:
        # What follows is the load's, and only that: options of `measure` may come before or after the knob.
        at = words.index("--")
        words, load = words[:at], words[at + 1 :]
    try:
        arguments = _arguments(name).parse_args(words)
        arguments.load = load
        return COMMANDS[name](arguments)
    except knob.KnobError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def _arguments(name: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="root of the file system")
    if name == "apply":
        parser.add_argument("--dry-run", action="store_true", help="says what would be done")
        parser.add_argument("--all", action="store_true", help="every knob that can be set")
        parser.add_argument("knobs", nargs="*", help="ids of knobs, as `check` prints them")
    if name == "measure":
        parser.add_argument("--pairs", type=int, default=10, help="runs off and on each")
        parser.add_argument("knob", help="id of a knob; after `--`, arguments of lanefs-loadgen run")
    return parser


def _check(arguments: argparse.Namespace) -> int:
    report = knob.check(arguments.root, knob.load(KNOBS))
    for finding in report.findings:
        _show(finding)
    for one in report.nowhere:
        print(f"-     {one.id:<22} this machine has none ({one.area})")
    unread = sum(bool(finding.problem) for finding in report.findings)
    wrong = sum(not finding.good for finding in report.findings) - unread
    print(f"{len(report.findings) - wrong - unread} as recommended, {wrong} not, {unread} not readable")
    if unread and os.geteuid() != 0:
        print("run as root to read the rest")
    return 1 if wrong or unread else 0


def _show(finding: knob.Finding) -> None:
    one = finding.knob
    word = "ok" if finding.good else "?" if finding.problem else "set"
    value = finding.problem or f"{finding.value or 'absent'}"
    print(f"{word:<5} {one.id:<22} {value} [{finding.path}]")
    if not finding.good:
        print(f"      recommended: {one.rule.replace('_', ' ')} {one.want}: {one.why}")
        print(f"      measured: {one.measured}")


def _apply(arguments: argparse.Namespace) -> int:
    knobs = knob.load(KNOBS)
    if bool(arguments.knobs) == arguments.all:
        raise knob.KnobError("name knobs, or say --all; `check` lists them")
    chosen = knobs if arguments.all else knob.choose(knobs, arguments.knobs)
    if not arguments.all:
        for one in chosen:
            if not knob.settable(one) and not one.persist:
                raise knob.KnobError(f"knob {one.id!r} cannot be set from here: {one.why}")
    if arguments.dry_run:
        for finding in change.still_wrong(arguments.root, chosen):
            print(f"{finding.knob.id}: {finding.path}: {finding.value} -> {finding.knob.want}")
        for kind, text in change.drop_ins(chosen, {}).items():
            print(f"{arguments.root / change.DROP_INS[kind]}:\n{text}", end="")
        return 0
    print("\n".join(change.apply(arguments.root, chosen)))
    return 0


def _revert(arguments: argparse.Namespace) -> int:
    print("\n".join(change.revert(arguments.root)))
    return 0


def _measure(arguments: argparse.Namespace) -> int:
    (one,) = knob.choose(knob.load(KNOBS), [arguments.knob])
    command = [os.environ.get("LANEFS_LOADGEN", "lanefs-loadgen"), "run", *arguments.load]
    print("\n".join(measure.measure(arguments.root, one, arguments.pairs, command)))
    return 0


COMMANDS = {"check": _check, "apply": _apply, "revert": _revert, "measure": _measure}
