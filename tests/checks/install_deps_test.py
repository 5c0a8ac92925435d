import os
import subprocess
import unittest

import harness


class InstallDepsTest(harness.CheckTest):
    """Runs the script with a dpkg-query and an apt-get of ours in front of the machine's."""

    def setUp(self):
        super().setUp()
        self.stub("sudo", 'exec "$@"')
        self.stub("dpkg-query", f'sed "s/^/installed /" {self.root}/packages')
        self.write("packages", "")

    def stub(self, name, body):
        self.write(f"bin/{name}", f"#!/bin/sh\n{body}\n")
        (self.root / "bin" / name).chmod(0o755)

    def run_script(self, *arguments):
        return subprocess.run([harness.ROOT / "tools/install-deps", *arguments], text=True, capture_output=True,
                              env={**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}"})

    def calls(self):
        log = self.root / "calls"
        return log.read_text().splitlines() if log.exists() else []

    def apt_get(self, status_of_first_call, status_of_others=0):
        self.stub("apt-get", f'echo "$@" >> {self.root}/calls\n'
                             f'[ "$(wc -l < {self.root}/calls)" -gt 1 ] && exit {status_of_others}\n'
                             f'echo no such package; exit {status_of_first_call}')

    def test_installs_what_is_missing_and_then_nothing(self):
        self.apt_get(0)
        self.assertEqual(self.run_script().returncode, 0)
        wanted = self.calls()[0].split("--no-install-recommends ")[1].split()
        self.assertIn("clang-19", wanted)

        self.write("packages", "\n".join(p for p in wanted if p != "spin") + "\n")
        self.assertEqual(self.run_script().returncode, 0)
        self.assertTrue(self.calls()[1].endswith("--no-install-recommends spin"))

        self.write("packages", "\n".join(wanted) + "\n")
        done = self.run_script()
        self.assertEqual((done.returncode, done.stdout + done.stderr), (0, ""))
        self.assertEqual(len(self.calls()), 2)

    def test_the_quickstart_needs_no_clang(self):
        self.apt_get(0)
        self.assertEqual(self.run_script("--quickstart").returncode, 0)
        self.assertNotIn("clang", self.calls()[0])
        self.assertIn("librocksdb-dev", self.calls()[0])

    def test_old_package_lists_are_updated_once(self):
        self.apt_get(100)
        done = self.run_script()
        self.assertEqual(done.returncode, 0)
        self.assertNotIn("no such package", done.stdout + done.stderr)
        self.assertEqual([c.split()[4] for c in self.calls()], ["install", "update", "install"])

    def test_a_failure_says_what_apt_said(self):
        self.apt_get(100, 100)
        done = self.run_script()
        self.assertEqual(done.returncode, 1)
        self.assertIn("apt-get update failed", done.stderr)

    def test_an_unknown_option_is_refused(self):
        self.assertEqual(self.run_script("--quick").returncode, 2)


if __name__ == "__main__":
    unittest.main()
