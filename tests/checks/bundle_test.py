import subprocess
import sys
import unittest

import harness


class BundleTest(harness.CheckTest):
    """Completes and checks folders with programs of ours that need what the bundle's programs need."""

    def setUp(self):
        super().setUp()
        for folder in ("bin", "lib"):
            (self.root / folder).mkdir()

    def make_program(self, *flags, name="bin/program", text="int main() {}"):
        rpath = () if any("rpath" in flag for flag in flags) else ("-Wl,-rpath,$ORIGIN/../lib,--disable-new-dtags",)
        subprocess.run(["g++", "-x", "c++", "-", "-x", "none", "-s", "-Wl,--no-as-needed", "-o", self.root / name, *flags, *rpath],
                       input=text, text=True, check=True)

    def make_library(self, name, *flags):
        self.make_program("-shared", "-fPIC", f"-Wl,-soname,{name}", *flags, name=f"lib/{name}", text="")

    def bundle(self, *arguments):
        done = subprocess.run([sys.executable, "-B", harness.ROOT / "tools/bundle", *arguments],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, done.stdout

    def assert_fault(self, expected, *arguments):
        status, output = self.bundle("--check", self.root, *arguments)
        self.assertEqual(status, 1, output)
        self.assertIn(expected, output)

    def test_libraries_and_their_terms_are_added(self):
        self.make_program("-lzstd")
        self.assertEqual(self.bundle("--complete", self.root), (0, ""))
        self.assertLessEqual({"libzstd.so.1", "libstdc++.so.6", "libgcc_s.so.1"},
                             {path.name for path in (self.root / "lib").iterdir()})
        self.assertEqual([], list((self.root / "lib").glob("libc.so*")))
        self.assertTrue((self.root / "share/doc/sluice/libraries/libzstd1").is_file())

    def test_a_library_that_is_not_there_is_a_fault(self):
        self.make_program("-lzstd")
        self.bundle("--complete", self.root)
        (self.root / "lib/libzstd.so.1").unlink()
        self.assert_fault("bin/program needs libzstd.so.1, which is not in lib/")

    def test_so_is_one_that_only_a_library_needs(self):
        self.make_library("libinner.so.1")
        self.make_library("libouter.so.1", f"{self.root}/lib/libinner.so.1")
        self.make_program(f"{self.root}/lib/libouter.so.1")
        self.bundle("--complete", self.root)
        (self.root / "lib/libinner.so.1").unlink()
        self.assert_fault("lib/libouter.so.1 needs libinner.so.1")

    def test_a_library_that_this_machine_lacks_is_said_at_once(self):
        self.make_library("libgone.so.1")
        self.make_program(f"{self.root}/lib/libgone.so.1")
        (self.root / "lib/libgone.so.1").unlink()
        status, output = self.bundle("--complete", self.root)
        self.assertEqual(status, 1)
        self.assertIn("needs libgone.so.1, which this machine does not have", output)

    def test_a_newer_glibc_than_promised_is_a_fault(self):
        self.make_program()
        self.bundle("--complete", self.root)
        self.assert_fault("bin/program needs glibc 2.", "--max-glibc", "2.2")

    def test_the_driver_is_not_linked(self):
        self.make_library("libcuda.so.1")
        self.make_program(f"{self.root}/lib/libcuda.so.1")
        self.assert_fault("bin/program is linked with libcuda.so.1")
        self.assertEqual(self.bundle("--complete", self.root)[0], 1)

    def test_programs_look_beside_themselves(self):
        self.make_program("-Wl,-rpath,/opt/lib")
        self.assert_fault("bin/program has the RPATH /opt/lib")
        self.make_program("-Wl,-rpath,$ORIGIN/../lib,--enable-new-dtags")
        self.assert_fault("bin/program has a RUNPATH")

    def test_programs_are_stripped(self):
        self.make_program()
        self.bundle("--complete", self.root)
        subprocess.run(["g++", "-x", "c++", "-", "-o", self.root / "bin/other"], input="int main() {}", text=True, check=True)
        self.assert_fault("bin/other is not stripped")

    def test_it_has_a_limit_of_size(self):
        self.make_program()
        self.bundle("--complete", self.root)
        self.assertEqual(self.bundle("--check", self.root)[0], 0)
        with open(self.root / "large", "wb") as file:
            file.truncate(61 * 2**20)
        self.assert_fault("at most 60 are allowed; the largest: large 61.0")

    def test_an_empty_folder_is_no_bundle(self):
        self.assert_fault("there is no program")

    def test_a_folder_that_was_never_configured_is_refused(self):
        status, output = self.bundle("--no-build", "--build", self.root)
        self.assertEqual(status, 1)
        self.assertIn("is no build folder", output)


if __name__ == "__main__":
    unittest.main()
