"""Setting knobs and restoring exactly what was there.

What was there is written to the state file, and flushed, before anything is changed, so that a
machine that stops half way can be restored. Drop-ins are whole files of our own: restoring removes
them, or puts back what stood there.
"""

import json
import os
from pathlib import Path

from .knob import Finding, Knob, KnobError, look, selected, settable

STATE = "var/lib/lanefs/kernel-tuning.json"
DROP_INS = {
    "sysctl": "etc/sysctl.d/60-lanefs.conf",
    "udev": "etc/udev/rules.d/60-lanefs.rules",
    "limits": "etc/security/limits.d/60-lanefs.conf",
    "tmpfiles": "etc/tmpfiles.d/60-lanefs.conf",
}
HEADER = "# Written by kernel-tuning/apply of lanefs; `revert` removes it.\n"


def apply(root: Path, knobs: list[Knob]) -> list[str]:
    """Sets the knobs that are not as recommended; what was done, a line each."""
    state = _load(root)
    todo = [(knob, finding) for knob in knobs if settable(knob) for finding in look(root, knob)]
    todo = [(knob, finding) for knob, finding in todo if not finding.good]
    for _, finding in todo:
        if finding.problem:
            raise KnobError(f"{finding.path} {finding.problem}; nothing was changed")
        state["values"].setdefault(_below(root, finding.path), written(finding))
    kept = sorted({*state["knobs"], *(knob.id for knob in knobs if knob.persist)})
    for kind, text in drop_ins([knob for knob in knobs if knob.id in kept], state["texts"]).items():
        path = root / DROP_INS[kind]
        before = path.read_text() if path.exists() else None
        state["files"].setdefault(DROP_INS[kind], before)
        state["texts"][kind] = text
    state["knobs"] = kept
    _save(root, state)
    lines = []
    for knob, finding in todo:
        _write(finding.path, knob.want)
        lines.append(f"{knob.id}: {finding.path}: {written(finding)} -> {knob.want}")
    for kind, text in state["texts"].items():
        path = root / DROP_INS[kind]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(HEADER + text)
        lines.append(f"kept after a restart by {path}")
    return lines


def revert(root: Path) -> list[str]:
    """Puts back every value and file that `apply` found; what was done, a line each."""
    state = _load(root)
    lines = []
    for name, value in state["values"].items():
        path = root / name
        if not path.exists():
            lines.append(f"{path}: is gone, and with it what was set")
            continue
        _write(path, value)
        lines.append(f"{path}: {value}")
    for name, before in state["files"].items():
        path = root / name
        if before is None:
            path.unlink(missing_ok=True)
            lines.append(f"{path}: removed")
        else:
            path.write_text(before)
            lines.append(f"{path}: as it was")
    (root / STATE).unlink(missing_ok=True)
    return lines or ["nothing was applied"]


def drop_ins(knobs: list[Knob], texts: dict[str, str]) -> dict[str, str]:
    """The text of each drop-in: what it holds already and a line for each of these knobs."""
    made = dict(texts)
    for knob in knobs:
        if not knob.persist:
            continue
        line = _line(knob)
        if line not in made.get(knob.persist, ""):
            made[knob.persist] = made.get(knob.persist, "") + line
    return made


def written(finding: Finding) -> str:
    """What has to be written to get a value back: files that list choices take the chosen one."""
    value = finding.value or ""
    return selected(value) if finding.knob.rule == "selected" else value


def _line(knob: Knob) -> str:
    match knob.persist:
        case "sysctl":
            key = knob.file.removeprefix("proc/sys/").replace("/", ".")
            return f"{key} = {knob.want}\n"
        case "limits":
            return f"lanefs - {knob.limit} {int(knob.want) // 1024}\n"
        case "tmpfiles":
            return f"w /{knob.file} - - - - {knob.want}\n"
        case "udev":
            return _rule(knob)
    raise KnobError(f"knob {knob.id!r}: unknown drop-in {knob.persist!r}")


def _rule(knob: Knob) -> str:
    parts = knob.file.split("/")
    if knob.file.startswith("sys/block/"):
        attribute = "/".join(parts[3:])
        return (
            f'ACTION=="add|change", SUBSYSTEM=="block", KERNEL=="{parts[2]}", '
            f'ATTR{{{attribute}}}="{knob.want}"\n'
        )
    if knob.file.startswith("sys/class/net/"):
        inner = "/".join(parts[4:])
        run = f"for f in /sys/class/net/%k/{inner}; do echo {knob.want} > $f; done"
        return f"ACTION==\"add\", SUBSYSTEM==\"net\", RUN+=\"/bin/sh -c '{run}'\"\n"
    inner = "/".join(parts[5:])
    run = f"for f in /sys%p/{inner}; do echo {knob.want} > $f; done"
    return f"ACTION==\"add\", SUBSYSTEM==\"cpu\", RUN+=\"/bin/sh -c '{run}'\"\n"


def _write(path: Path, value: str) -> None:
    try:
        path.write_text(value + "\n")
    except OSError as error:
        raise KnobError(
            f"{path}: cannot be set to {value}: {error.strerror}; `revert` restores the others"
        ) from error


def _below(root: Path, path: Path) -> str:
    return str(path.relative_to(root))


def _load(root: Path) -> dict:
    empty = {"values": {}, "files": {}, "texts": {}, "knobs": []}
    try:
        return empty | json.loads((root / STATE).read_text())
    except FileNotFoundError:
        return empty
    except (OSError, ValueError) as error:
        raise KnobError(f"{root / STATE}: {error}; mend or remove it by hand") from error


def _save(root: Path, state: dict) -> None:
    path = root / STATE
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(".new")
        with new.open("w") as file:
            json.dump(state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError as error:
        raise KnobError(f"{path}: {error.strerror}; nothing was changed") from error


def still_wrong(root: Path, knobs: list[Knob]) -> list[Finding]:
    """Knobs that can be set and are not as recommended."""
    found = [finding for knob in knobs if settable(knob) for finding in look(root, knob)]
    return [finding for finding in found if not finding.good]
