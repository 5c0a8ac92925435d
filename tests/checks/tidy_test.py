import shutil
import unittest

import harness


class TidyTest(harness.CheckTest):
    check = "tidy"

    def setUp(self):
        super().setUp()
        shutil.copy(harness.ROOT / ".clang-tidy", self.root)
        self.write("ipc/a.h", "#pragma once\nint f(int value);\n")
        self.write("ipc/a.cpp", '#include "ipc/a.h"\n\nint f(int value) { return value; }\n')
        self.write_compile_commands("tidy", "clang++-19", ["ipc/a.cpp"])

    def test_clean_code_passes_and_is_read_again_only_after_a_change(self):
        self.make_older()
        self.assertIn("(0 unchanged)", self.assert_passes())
        self.assertIn("(1 unchanged)", self.assert_passes())
        self.write("ipc/a.h", "#pragma once\nstruct bad_name {};\nint f(int value);\n")
        self.assert_fails("bad_name")
        self.assert_fails("bad_name")

    def test_a_change_of_the_rules_is_seen(self):
        self.make_older()
        self.assert_passes()
        self.write(".clang-tidy", "Checks: '-*,misc-use-internal-linkage,google-runtime-int'\n")
        self.assertIn("(0 unchanged)", self.assert_passes())

    def test_a_null_written_as_zero_fails(self):
        self.write("ipc/a.cpp", '#include "ipc/a.h"\n\nint f(int value) {\n  int* p = 0;\n  return p == nullptr ? value : 0;\n}\n')
        self.assert_fails("modernize-use-nullptr")

    def test_sources_that_are_read_together_are_told_apart(self):
        self.write("ipc/b.cpp", '#include "ipc/a.h"\n\nnamespace {\nint twice(int value) { return 2 * value; }\n}  // namespace\n\n'
                                "int g(int value) { return twice(value); }\n")
        self.write_compile_commands("tidy", "clang++-19", ["ipc/a.cpp", "ipc/b.cpp"])
        self.make_older()
        self.assertIn("1 checked (0 unchanged)", self.assert_passes())
        self.assertIn("1 checked (0 unchanged)", self.assert_passes("ipc/b.cpp"))
        self.assertIn("1 checked (1 unchanged)", self.assert_passes())
        self.write("ipc/b.cpp", "int g() {\n  int* p = 0;\n  return p == nullptr ? 1 : 0;\n}\n")
        self.assert_fails("ipc/b.cpp:2:12: error: use nullptr")

    def test_a_name_in_two_sources_of_a_target_fails(self):
        one = "namespace {\nint twice(int value) { return 2 * value; }\n}  // namespace\n\nint %s(int value) { return twice(value); }\n"
        self.write("ipc/a.cpp", one % "g")
        self.write("ipc/b.cpp", one % "h")
        self.write_compile_commands("tidy", "clang++-19", ["ipc/a.cpp", "ipc/b.cpp"])
        self.assert_fails("ipc/b.cpp:2:5: error: redefinition of 'twice'")

    def test_a_namespace_alias_that_nothing_uses_fails(self):
        alias = "namespace one::two {\nint f(int value);\n}  // namespace one::two\n\nnamespace three = one::two;\n"
        self.write("ipc/a.cpp", alias + "\nint g(int value) { return three::f(value); }\n")
        self.assert_passes()
        self.write("ipc/a.cpp", alias)
        self.assert_fails("ipc/a.cpp:5: namespace alias 'three' is unused")

    def test_sources_that_the_build_hides_in_others_are_an_error(self):
        unity = "build/tidy/ipc/CMakeFiles/sluice_ipc.dir/Unity/unity_0_cxx.cxx"
        self.write(unity, f'#include "{self.root}/ipc/a.cpp"\n')
        self.write_compile_commands("tidy", "clang++-19", ["ipc/a.cpp", unity])
        self.assert_fails("hides sources")

    def test_a_file_that_the_build_does_not_know_is_an_error(self):
        self.assert_fails("not a source that the build compiles", "ipc/b.cpp")


if __name__ == "__main__":
    unittest.main()
