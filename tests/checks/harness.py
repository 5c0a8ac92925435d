"""A throw-away repository to run a check in."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]


class CheckTest(unittest.TestCase):
    check = None  # the script in tools/checks

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sluice-check-")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def write_compile_commands(self, preset, compiler, files, flags=("-std=c++23", "-Wall", "-Werror")):
        self.write(f"build/{preset}/compile_commands.json", json.dumps([
            {"directory": str(self.root), "file": str(self.root / file),
             "arguments": ["ccache", compiler, f"-I{self.root}", *flags, "-o", "x.o", "-c", str(self.root / file)]}
            for file in files]))

    def make_older(self):
        """A check does not remember files that changed while it ran; an hour ago is before it ran."""
        for folder, _, names in os.walk(self.root):
            for name in names:
                path = pathlib.Path(folder, name)
                then = path.stat().st_mtime - 3600
                os.utime(path, (then, then))

    def run_check(self, *arguments):
        """(exit status, output)"""
        done = subprocess.run([sys.executable, "-B", ROOT / "tools/checks" / self.check, "--root", self.root, *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def assert_passes(self, *arguments):
        status, output = self.run_check(*arguments)
        self.assertEqual(status, 0, output)
        return output

    def assert_fails(self, expected, *arguments):
        status, output = self.run_check(*arguments)
        self.assertEqual(status, 1, output)
        self.assertIn(expected, output)
        return output
