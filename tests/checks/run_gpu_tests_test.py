import json
import os
import subprocess
import unittest

import harness

REPLAY = '''case "$*" in *--help*) exit 0 ;; esac
echo "$@" >> {root}/replays
rate=0.95
case "$*" in *"--backend cuda"*) {cuda} ;; esac
echo '{{"schema": "sluice-replay",'
echo ' "mismatches": 0, "no_slot": 0, "absent": 0, "hit_rate": '$rate','
echo ' "prefix_hit_rate": 0.5, "first_mismatches": []}}'
'''


class RunGpuTestsTest(harness.CheckTest):
    """Runs the script in a bundle of scripts, on a machine whose nvidia-smi is ours."""

    def setUp(self):
        super().setUp()
        self.program("run-gpu-tests", (harness.ROOT / "tests/gpu/run-gpu-tests").read_text())
        for name in ("sluiced", "sluicectl"):
            self.script(f"bin/{name}")
        self.replay(cuda=":")
        self.bench("  gpu [x]")
        self.script("machine/nvidia-smi", "echo NVIDIA Test, 580.1")
        self.script("machine/compute-sanitizer", f'echo "$2 $5" >> {self.root}/sanitized')
        self.write("tests/gpu/gpu-tests", "first_test 20\nsecond_test 20\n")
        self.write("tests/gpu/sanitizer-tests", "# Comment.\nfirst_test Small.*\n")
        self.script("tests/first_test")
        self.script("tests/second_test")
        self.write("tests/data/small.jsonl.zst", "")

    def program(self, path, text):
        self.write(path, text)
        (self.root / path).chmod(0o755)

    def script(self, path, body=":"):
        self.program(path, f"#!/bin/sh\n{body}\n")

    def replay(self, cuda):
        self.script("bin/sluice-replay", REPLAY.format(root=self.root, cuda=cuda))

    def bench(self, described, status=0):
        self.script("bin/sluice-bench", f'case "$1" in gpu) exit {status} ;; *) echo "{described}" ;; esac')

    def run_script(self, *arguments):
        """(exit status, lines)"""
        done = subprocess.run([self.root / "run-gpu-tests", *arguments], text=True, cwd=self.root, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT,
                              env={**os.environ, "TMPDIR": str(self.root),
                                   "PATH": f"{self.root}/machine:{os.environ['PATH']}"})
        return done.returncode, done.stdout.splitlines()

    def assert_one_fails(self, name, reason, *arguments):
        status, lines = self.run_script(*arguments)
        self.assertEqual(status, 1, lines)
        failed = [line for line in lines if line.startswith("FAILED")]
        self.assertEqual(len(failed), 1, lines)
        self.assertIn(f"  {name}: ", failed[0])
        self.assertIn(reason, failed[0])
        self.assertIn(" 1 failed, ", lines[-1])
        return lines

    def test_all_is_run_and_counted(self):
        status, lines = self.run_script()
        self.assertEqual((status, lines[-1]), (0, "16 passed, 0 failed, 0 skipped"), lines)
        self.assertEqual(len([line for line in lines if line.startswith("ok ")]), 16)
        replays = (self.root / "replays").read_text().splitlines()
        self.assertEqual(["--graphs" in replay for replay in replays], [False, False, True, False, False, False])
        self.assertEqual(["--backend cuda" in replay for replay in replays], [False, True, True, True, True, True])
        for replay in replays[:4]:
            self.assertIn("--spawn --executor direct --engines 4 --tenants 2", replay)
        self.assertIn("--restart warm --kill-daemon-at 20 --kill-daemon-at 40", replays[3])
        self.assertIn("--spawn --executor daemon --engines 4 --tenants 2", replays[4])
        self.assertIn("--spawn --executor direct --engines 4 --tenants 1", replays[5])
        self.assertIn("--backend cuda --devices 2", replays[5])
        self.assertEqual((self.root / "sanitized").read_text().splitlines(),
                         [f"{tool} tests/first_test" for tool in ("memcheck", "initcheck", "racecheck")])

    def test_executors_run_under_an_mps_server_of_their_own(self):
        self.script("machine/nvidia-cuda-mps-control",
                    f'echo "$CUDA_MPS_PIPE_DIRECTORY $1 $([ -n "$1" ] || cat)" >> {self.root}/mps')
        self.assertEqual(self.run_script("--only", "executor")[0], 0)
        started, ended = (self.root / "mps").read_text().splitlines()
        folder = started.split()[0]
        self.assertEqual((started, ended), (f"{folder} -d ", f"{folder}  quit"))
        self.assertFalse(os.path.exists(folder))

    def test_what_passed_in_part_says_so(self):
        self.script("tests/second_test", "echo '[  SKIPPED ] Two.Gpus (0 ms)'; echo '[  SKIPPED ] 1 test, listed below:'")
        status, lines = self.run_script("--only", "second|executor")
        self.assertEqual((status, lines[-1]), (0, "2 passed, 0 failed, 0 skipped"), lines)
        self.assertIn("test/second_test: without 1 of its tests, which this machine cannot run", lines[1])
        self.assertIn("replay/small/cuda-executor: without an MPS server: none can be started here", lines[2])

    def test_list_and_only(self):
        self.assertEqual(self.run_script("--list", "--only", "^(test|bench)/"),
                         (0, ["test/first_test", "test/second_test", "bench/gpu"]))
        self.assertEqual(self.run_script("--only", "second")[1][-1], "1 passed, 0 failed, 0 skipped")
        self.assertEqual(self.run_script("--only", "third")[0], 2)

    def test_a_failed_test_shows_its_output(self):
        self.script("tests/second_test", "echo a slot was lost; exit 1")
        self.assertIn("    | a slot was lost", self.assert_one_fails("test/second_test", "exit status 1"))

    def test_a_test_that_finds_no_device_has_failed_where_there_is_one(self):
        self.script("tests/second_test", "exit 77")
        self.assert_one_fails("test/second_test", "finds no CUDA device, although there is one")

    def test_a_test_that_hangs_is_ended(self):
        self.write("tests/gpu/gpu-tests", "second_test 1\n")
        self.script("tests/second_test", "sleep 300")
        self.assert_one_fails("test/second_test", "did not end within 1 s", "--only", "^test/")

    def test_what_does_not_fit_into_the_time_has_failed(self):
        self.assert_one_fails("test/second_test", "not run: the 0 s for all tests are over", "--seconds", "0", "--only",
                              "second")

    def test_replays_fail_by_their_figures(self):
        for cuda, reason in (
                ('echo \'{"mismatches": 2, "no_slot": 0, "absent": 0, "hit_rate": 0.95}\'; exit 0', "mismatches is 2"),
                ('echo \'{"mismatches": 0, "no_slot": 3, "absent": 0, "hit_rate": 0.95}\'; exit 0', "no_slot is 3"),
                ('echo \'{"mismatches": 0, "no_slot": 0, "hit_rate": 0.95}\'; exit 0', "absent is missing"),
                ('echo \'{"mismatches": 0, "no_slot": 0, "absent": 0}\'; exit 0', "the hit rate is missing"),
                ("rate=0.93", "the hit rate is 0.93, on the host backend 0.95"),
                ("rate=0.9701", "the hit rate is 0.9701, on the host backend 0.95"),
                ("echo unknown option --backend; exit 2", "exit status 2")):
            with self.subTest(reason):
                self.replay(cuda)
                self.assert_one_fails("replay/small/cuda", reason, "--only", "replay/small/cuda$")

    def test_rates_that_are_close_are_equal(self):
        self.replay("rate=0.9401")
        self.assertEqual(self.run_script("--only", "replay")[0], 0)

    def test_further_traces(self):
        self.write("more/large.jsonl.zst", "")
        self.write("more/plain.jsonl", "")
        self.write("more/notes.json", "")
        status, lines = self.run_script("--list", "--only", "graphs", "--trace", "more")
        self.assertEqual((status, sorted(lines)), (0, [f"replay/{name}/cuda-graphs" for name in ("large", "plain", "small")]))
        self.assertEqual(self.run_script("--trace", "tests")[0], 2)

    def test_without_a_gpu_it_says_so_and_skips(self):
        self.script("machine/nvidia-smi", "echo no driver; exit 9")
        status, lines = self.run_script()
        self.assertEqual((status, lines[-1]), (0, "4 passed, 0 failed, 12 skipped"))
        self.assertIn("NO GPU HERE (nvidia-smi finds none: no driver).", lines)
        self.assertEqual(self.run_script("--require-gpu")[0], 77)

    def test_what_this_machine_lacks_is_skipped_with_the_reason(self):
        self.bench("  ring [us]")
        _, lines = self.run_script("--only", "^bench")
        self.assertIn("bench/gpu: this sluice-bench has no benchmark gpu", lines[1])
        self.assertEqual(lines[-1], "0 passed, 0 failed, 1 skipped")

    def test_a_missed_target_fails(self):
        self.bench("  gpu [x]", status=1)
        self.assert_one_fails("bench/gpu", "exit status 1")

    def test_json(self):
        self.script("tests/second_test", "exit 3")
        self.run_script("--json", "results", "--only", "^test/")
        results = json.loads((self.root / "results").read_text())
        self.assertEqual((results["passed"], results["failed"], results["skipped"]), (1, 1, 0))
        self.assertEqual(results["gpu"], "NVIDIA Test, 580.1")
        self.assertEqual([(t["name"], t["result"], t["reason"]) for t in results["tests"]],
                         [("test/first_test", "ok", ""), ("test/second_test", "failed", "exit status 3")])

    def test_elsewhere_than_in_a_bundle_it_says_what_to_do(self):
        (self.root / "bin/sluiced").unlink()
        status, lines = self.run_script()
        self.assertEqual(status, 2)
        self.assertIn("tools/gpu-test makes one", lines[0])


if __name__ == "__main__":
    unittest.main()
