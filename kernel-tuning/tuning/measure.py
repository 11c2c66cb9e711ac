"""What a knob is worth here: the load generator with the knob off and on, again and again."""

import json
import math
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .change import written
from .knob import Finding, Knob, KnobError, look

# 95th percentile of Student's distribution for 1 to 30 degrees of freedom.
STUDENT = (
    6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771, 1.761,
    1.753, 1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706, 1.703, 1.701,
    1.699, 1.697,
)


@dataclass(frozen=True)
class Effect:
    """Change of a figure with the knob on, in per cent, and its 90 % interval."""

    percent: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        if self.low > 0:
            return "more"
        return "less" if self.high < 0 else "no difference shown"

    def __str__(self) -> str:
        return f"{self.percent:+.1f} % ({self.low:+.1f} to {self.high:+.1f}, 90 %): {self.verdict}"


def effect(pairs: list[tuple[float, float]]) -> Effect:
    """The mean change of pairs (off, on) and where it lies with 90 % confidence."""
    if len(pairs) < 2:
        raise KnobError("at least two pairs are needed for an interval")
    changes = [100 * (on / off - 1) for off, on in pairs]
    mean = sum(changes) / len(changes)
    spread = sum((change - mean) ** 2 for change in changes) / (len(changes) - 1)
    student = STUDENT[min(len(changes) - 1, len(STUDENT)) - 1]
    reach = student * math.sqrt(spread / len(changes))
    return Effect(mean, mean - reach, mean + reach)


def measure(root: Path, knob: Knob, pairs: int, command: list[str]) -> list[str]:
    """Runs the load with the knob as it is and as recommended, in turns; puts it back at the end."""
    if not knob.file or knob.rule in ("not_empty", "absent"):
        raise KnobError(f"knob {knob.id!r} cannot be set while the machine runs")
    findings = look(root, knob)
    if not findings:
        raise KnobError(f"knob {knob.id!r}: this machine has none")
    for finding in findings:
        if finding.problem:
            raise KnobError(f"{finding.path} {finding.problem}")
    if all(finding.good for finding in findings):
        raise KnobError(f"knob {knob.id!r} is as recommended already: set it otherwise to compare")
    seen: dict[str, list[tuple[float, float]]] = {}
    try:
        for turn in range(pairs):
            results = {}
            for on in (False, True) if turn % 2 == 0 else (True, False):
                _set(findings, knob, on)
                results[on] = _run(command)
            for name, off in results[False].items():
                seen.setdefault(name, []).append((off, results[True][name]))
    finally:
        _set(findings, knob, False)
    return [f"{knob.id}: {name} {effect(values)}" for name, values in seen.items()]


def _set(findings: list[Finding], knob: Knob, on: bool) -> None:
    for finding in findings:
        try:
            finding.path.write_text((knob.want if on else written(finding)) + "\n")
        except OSError as error:
            raise KnobError(f"{finding.path}: cannot be set: {error.strerror}") from error


def _run(command: list[str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        done = subprocess.run(
            [*command, "--quiet", "--json", str(path)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise KnobError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        result = json.loads(path.read_text())
    figures = {"operations/s": result["per_s"], "p99 latency": dict(result["latency"])[0.99]}
    if result["server_cpu_s"]:
        figures["bytes per server CPU-s"] = result["bytes_per_s"] / result["server_cpu_s"]
    return figures
