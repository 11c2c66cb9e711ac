"""Everything against a root of our own: no test reads or changes this machine's settings."""

import io
import json
import os
import sys
import tempfile
import unittest
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from tuning import change, command, knob, measure

KNOBS = knob.load(command.KNOBS)
FILES = {
    "sys/block/nvme0n1/queue/scheduler": "[mq-deadline] kyber none",
    "sys/block/nvme1n1/queue/scheduler": "[none] mq-deadline",
    "sys/block/nvme0n1/queue/nr_requests": "1023",
    "sys/block/nvme1n1/queue/nr_requests": "63",
    "sys/class/net/eth0/queues/rx-0/rps_cpus": "f0",
    "sys/class/net/lo/queues/rx-0/rps_cpus": "ff",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
    "proc/sys/vm/max_map_count": "65530",
    "proc/sys/net/core/rmem_max": "212992",
    "etc/sysctl.d/60-lanefs.conf": "# by hand\n",
}


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        for name, value in FILES.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(value if name.startswith("etc") else value + "\n")

    def run_command(self, name, *words):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = command.main(name, ["--root", str(self.root), *words])
        return code, out.getvalue(), err.getvalue()

    def read(self, name):
        return (self.root / name).read_text()

    def tree(self):
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path.relative_to(self.root)): path.read_text() for path in files}


class Check(Case):
    def test_each_device_is_judged_by_itself(self):
        code, out, _ = self.run_command("check")
        self.assertEqual(code, 1)
        self.assertIn("set   nvme-scheduler         [mq-deadline] kyber none", out)
        self.assertIn("ok    nvme-scheduler         [none] mq-deadline", out)
        self.assertIn("recommended: selected none", out)
        self.assertIn("this machine has none", out)

    def test_it_changes_nothing(self):
        before = self.tree()
        self.run_command("check")
        self.assertEqual(self.tree(), before)

    def test_the_loopback_interface_is_left_out(self):
        found = knob.look(self.root, knob.choose(KNOBS, ["rps"])[0])
        self.assertEqual([path.value for path in found], ["f0"])

    def test_what_cannot_be_read_is_said(self):
        path = self.root / "sys/kernel/mm/transparent_hugepage/enabled"
        path.unlink()
        path.mkdir()
        code, out, _ = self.run_command("check")
        self.assertEqual(code, 1)
        self.assertIn("?     thp                    cannot be read: Is a directory", out)
        self.assertIn("1 not readable", out)

    def test_a_machine_that_is_as_recommended_passes(self):
        self.run_command("apply", "--all")
        (self.root / "sys/devices/system/cpu").mkdir(parents=True, exist_ok=True)
        wrong = change.still_wrong(self.root, KNOBS)
        self.assertEqual(wrong, [])


class Rules(unittest.TestCase):
    def test_each_rule_on_both_sides(self):
        cases = [
            ("equals", "2", "2", True), ("equals", "2", "1", False),
            ("at_least", "10", "10", True), ("at_least", "10", "9", False),
            ("at_least", "10", "unlimited", True),
            ("at_most", "10", "10", True), ("at_most", "10", "11", False),
            ("selected", "none", "[none] bfq", True), ("selected", "none", "none [bfq]", False),
            ("selected", "none", "none", True),
            ("zero_mask", "0", "00000000,00000000", True), ("zero_mask", "0", "00,0f", False),
            ("not_empty", "", "1-3", True), ("not_empty", "", "", False),
            ("absent", "", "", True), ("absent", "", "123", False),
        ]
        for rule, want, value, good in cases:
            one = knob.Knob("x", "a", rule, want, "w", "m", file="f")
            self.assertEqual(knob.meets(one, value), good, (rule, value))
        self.assertEqual({rule for rule, *_ in cases}, set(knob.RULES))

    def test_a_bad_entry_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "knobs.toml"
            good = 'id = "a"\narea = "b"\nwant = "1"\nwhy = "c"\nmeasured = "d"\n'
            for text, expected in [
                (good + 'rule = "near"\nfile = "f"\n', "unknown rule"),
                (good + 'rule = "equals"\n', "exactly one of"),
                (good + 'rule = "equals"\nfile = "f"\ncolour = "red"\n', "colour"),
            ]:
                path.write_text("[[knob]]\n" + text)
                with self.assertRaisesRegex(knob.KnobError, expected):
                    knob.load(path)


class Apply(Case):
    def test_only_what_was_asked_for_is_set(self):
        code, out, _ = self.run_command("apply", "nvme-scheduler")
        self.assertEqual(code, 0)
        self.assertIn("mq-deadline -> none", out)
        self.assertEqual(self.read("sys/block/nvme0n1/queue/scheduler"), "none\n")
        self.assertEqual(self.read("sys/block/nvme1n1/queue/nr_requests"), "63\n")
        rules = self.read("etc/udev/rules.d/60-lanefs.rules")
        self.assertIn('KERNEL=="nvme*n*", ATTR{queue/scheduler}="none"', rules)

    def test_nothing_is_applied_without_being_asked(self):
        before = self.tree()
        code, _, err = self.run_command("apply")
        self.assertEqual(code, 2)
        self.assertIn("--all", err)
        self.assertEqual(self.run_command("apply", "no-such-knob")[0], 2)
        self.assertEqual(self.run_command("apply", "isolated-cores")[0], 2)
        self.assertEqual(self.tree(), before)

    def test_a_dry_run_says_it_and_leaves_it(self):
        before = self.tree()
        code, out, _ = self.run_command("apply", "--dry-run", "rmem-max", "memlock")
        self.assertEqual(code, 0)
        self.assertIn("212992 -> 16777216", out)
        self.assertIn("net.core.rmem_max = 16777216", out)
        self.assertIn("lanefs - memlock 262144", out)
        self.assertEqual(self.tree(), before)

    def test_a_value_that_is_better_already_is_left(self):
        self.run_command("apply", "nvme-queue-depth")
        self.assertEqual(self.read("sys/block/nvme0n1/queue/nr_requests"), "1023\n")
        self.assertEqual(self.read("sys/block/nvme1n1/queue/nr_requests"), "256\n")


class Revert(Case):
    def test_values_and_files_are_exactly_as_they_were(self):
        before = self.tree()
        self.run_command("apply", "rmem-max")
        self.run_command("apply", "--all")
        self.assertNotEqual(self.tree(), before)
        code, _, _ = self.run_command("revert")
        self.assertEqual(code, 0)
        after = self.tree()
        # A list of choices takes the one that was chosen; the kernel writes the brackets.
        for name, value in FILES.items():
            if value.startswith("[") and after[name] != before[name]:
                self.assertEqual(after.pop(name).strip(), knob.selected(before.pop(name)))
        self.assertEqual(after, before)
        self.assertIn("nothing was applied", self.run_command("revert")[1])

    def test_what_was_there_is_known_before_anything_is_changed(self):
        path = self.root / "proc/sys/vm/max_map_count"
        path.unlink()
        path.mkdir()
        code, _, err = self.run_command("apply", "rmem-max", "map-count")
        self.assertEqual(code, 2)
        self.assertIn("nothing was changed", err)
        self.assertEqual(self.read("proc/sys/net/core/rmem_max"), "212992\n")

    def test_a_device_that_is_gone_stops_nothing(self):
        self.run_command("apply", "nvme-scheduler", "rmem-max")
        (self.root / "sys/block/nvme0n1/queue/scheduler").unlink()
        code, out, _ = self.run_command("revert")
        self.assertEqual(code, 0)
        self.assertIn("is gone", out)
        self.assertEqual(self.read("proc/sys/net/core/rmem_max"), "212992\n")

    def test_a_damaged_state_file_is_named(self):
        path = self.root / change.STATE
        path.parent.mkdir(parents=True)
        path.write_text("{")
        code, _, err = self.run_command("revert")
        self.assertEqual(code, 2)
        self.assertIn("kernel-tuning.json", err)


class Measure(Case):
    def fake(self, text):
        """A load generator whose throughput depends on the knob."""
        path = self.root / "loadgen"
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        os.environ["LANEFS_LOADGEN"] = str(path)
        self.addCleanup(os.environ.pop, "LANEFS_LOADGEN")

    def test_an_effect_is_shown_and_the_knob_put_back(self):
        rmem = self.root / "proc/sys/net/core/rmem_max"
        self.fake(
            "import json, pathlib, sys\n"
            f"on = pathlib.Path({str(rmem)!r}).read_text().strip() == '16777216'\n"
            "result = {'per_s': 120.0 if on else 100.0, 'latency': [[0.5, 1.0], [0.99, 2.0]],\n"
            "          'bytes_per_s': 1e9, 'server_cpu_s': 2.0}\n"
            "pathlib.Path(sys.argv[sys.argv.index('--json') + 1]).write_text(json.dumps(result))\n"
        )
        code, out, err = self.run_command("measure", "--pairs", "3", "rmem-max", "--", "--block", "1")
        self.assertEqual((code, err), (0, ""))
        self.assertIn("operations/s +20.0 % (+20.0 to +20.0, 90 %): more", out)
        self.assertIn("p99 latency +0.0 %", out)
        self.assertEqual(rmem.read_text(), "212992\n")
        turned = self.run_command("measure", "rmem-max", "--pairs", "3", "--", "--block", "1")
        self.assertEqual(turned, (code, out, err), "options may come behind the knob")

    def test_a_load_that_fails_is_told_and_the_knob_put_back(self):
        self.fake("import sys\nsys.exit('the run is void')\n")
        code, _, err = self.run_command("measure", "rmem-max")
        self.assertEqual(code, 2)
        self.assertIn("the run is void", err)
        self.assertEqual(self.read("proc/sys/net/core/rmem_max"), "212992\n")

    def test_the_interval_is_students(self):
        seen = measure.effect([(100, 110), (100, 112), (100, 108), (100, 110)])
        self.assertAlmostEqual(seen.percent, 10.0)
        self.assertAlmostEqual(seen.high - seen.percent, 2.353 * (8 / 3 / 4) ** 0.5, places=6)
        self.assertEqual(seen.verdict, "more")
        self.assertEqual(measure.effect([(100, 90), (100, 110)]).verdict, "no difference shown")
        with self.assertRaises(knob.KnobError):
            measure.effect([(1, 1)])

    def test_what_cannot_be_compared_is_refused(self):
        for one in ("memlock", "isolated-cores", "governor"):
            path = self.root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"
            path.write_text("performance\n")
            self.assertEqual(self.run_command("measure", one)[0], 2, one)


class Data(unittest.TestCase):
    def test_every_drop_in_can_be_written(self):
        texts = change.drop_ins(KNOBS, {})
        self.assertEqual(set(texts), set(change.DROP_INS))
        self.assertEqual(change.drop_ins(KNOBS, texts), texts)
        self.assertEqual(json.loads(json.dumps(texts)), texts)

    def test_every_knob_says_why_and_what_it_was_worth(self):
        self.assertTrue(all(one.why and one.measured for one in KNOBS))
        self.assertEqual(len({one.id for one in KNOBS}), len(KNOBS))


if __name__ == "__main__":
    unittest.main()
