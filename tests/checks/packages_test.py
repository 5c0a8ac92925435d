"""What the build at hand is installed as. usage: packages_test.py BUILD"""

import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
import unittest

import harness

# What is built here may need the glibc of here; a release is built on Debian 12.
MAX_GLIBC = max("2.36", platform.libc_ver()[1], key=lambda version: [int(part) for part in version.split(".")])
TRACE = harness.ROOT / "tests/data/smollm2_select_b16_slice.jsonl.zst"
BUILD = pathlib.Path(sys.argv.pop(1))


def run(*command, **options):
    done = subprocess.run([str(c) for c in command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **options)
    if done.returncode != 0:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


class PackagesTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sluice-packages-")
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name)

    def make(self, *arguments):
        """What tools/bundle makes of the build"""
        out = run(sys.executable, "-B", harness.ROOT / "tools/bundle", "--no-build", "--build", BUILD,
                  "--out", self.root / "made", "--max-glibc", MAX_GLIBC, *arguments)
        return [pathlib.Path(line.rsplit(" (", 1)[0]) for line in out.splitlines()]

    def assert_works(self, tree):
        """Programs of a folder that has moved use the libraries that it brings along."""
        for program in (tree / "bin").iterdir():
            for line in run("ldd", program).splitlines():
                if "=>" in line and not any(f" lib{name}.so" in line.replace("\t", " ") for name in ("c", "m", "pthread", "dl", "rt")):
                    self.assertIn(str(tree), line)
        alone = {"PATH": os.environ["PATH"]}
        self.assertIn("sluiced", run(tree / "bin/sluiced", "--version", env=alone))
        run(tree / "bin/sluicectl", "config", "check", tree / "etc/sluice/sluiced.toml", env=alone)
        replayed = run(tree / "bin/sluice-replay", TRACE, "--spawn", "--engines", "2", "--tenants", "2",
                       "--requests", "2", "--progress", "never", env=alone)
        self.assertIn("no mismatch", replayed)

    def assert_engines_can_be_built(self, folder):
        """A C program finds the headers and all that the library needs by pkg-config's file alone."""
        pc = dict(line.split(": ", 1) for line in (folder / "lib/pkgconfig/sluice.pc").read_text().splitlines() if ": " in line)
        flags = [flag.replace("${includedir}", f"{folder}/include/sluice").replace("${libdir}", f"{folder}/lib")
                 for flag in (pc["Cflags"] + " " + pc["Libs"]).split()]
        if "-lcudart_static" in flags:  # of the CUDA toolkit, which an engine has
            cache = (BUILD / "CMakeCache.txt").read_text()
            flags.append("-L" + os.path.dirname(re.search(r"=(.*/libcudart_static\.a)$", cache, re.MULTILINE)[1]))
        source = self.root / "engine.c"
        source.write_text('#include "client/sluice.h"\n'
                          "int main(void) { sluice_connect_desc where = {0}; sluice_client* client; sluice_error error;\n"
                          "  return sluice_abi_version() == 0 || sluice_connect(&where, &client, &error) == 0; }\n")
        run("gcc", source, *flags, "-o", self.root / "engine")
        run(self.root / "engine")

    def test_the_bundle_runs_where_it_is_put(self):
        tests = (BUILD / "packaging/gpu-tests").read_text().split()[::2]
        tree, archive = self.make(*(["--tests"] if tests else []))
        moved = self.root / "elsewhere"
        moved.mkdir()
        tree.rename(self.root / "gone")
        run("tar", "--zstd", "-xf", archive, "-C", moved)
        self.assert_works(moved / tree.name)
        if tests:
            listed = run(moved / tree.name / "run-gpu-tests", "--list").split()
            self.assertLessEqual({f"test/{name}" for name in tests}, set(listed))
            sanitized = (moved / tree.name / "tests/gpu/sanitizer-tests").read_text().splitlines()
            self.assertLessEqual({line.split()[0] for line in sanitized if line and line[0] != "#"}, set(tests))
            self.assertIn("4 passed, 0 failed", run(moved / tree.name / "run-gpu-tests", "--only", "^start/"))

    def test_the_packages_hold_programs_and_library(self):
        made = self.make("--packages")
        deb, archive = sorted(made, key=lambda path: path.suffix != ".deb")
        self.assertEqual(run("dpkg-deb", "--field", deb, "Maintainer").strip(), "Sluice authors")
        self.assertIn("libc6", run("dpkg-deb", "--field", deb, "Depends"))
        unpacked = self.root / "deb"
        run("dpkg-deb", "--raw-extract", deb, unpacked)
        for conffile in (unpacked / "DEBIAN/conffiles").read_text().split():
            self.assertTrue((unpacked / conffile.lstrip("/")).is_file(), conffile)
        self.assertTrue((unpacked / "usr/lib/systemd/system/sluiced.service").is_file())
        for program in (unpacked / "usr/bin").iterdir():
            self.assertNotIn("PATH", run("readelf", "--dynamic", program))
        self.assert_engines_can_be_built(unpacked / "usr")

        run("tar", "--zstd", "-xf", archive, "-C", self.root)
        tree = self.root / archive.name.removesuffix(".tar.zst")
        self.assert_works(tree)
        self.assert_engines_can_be_built(tree)


if __name__ == "__main__":
    unittest.main()
