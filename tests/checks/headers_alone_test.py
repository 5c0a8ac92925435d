import unittest

import harness


class HeadersAloneTest(harness.CheckTest):
    check = "headers-alone"

    def setUp(self):
        super().setUp()
        self.write("ipc/a.cpp", "")
        self.write_compile_commands("dev", "g++", ["ipc/a.cpp"])

    def test_a_header_that_includes_what_it_uses_passes(self):
        self.write("ipc/a.h", "#pragma once\n#include <string>\nstd::string name();\n")
        self.assertIn("0 failed", self.assert_passes())

    def test_a_header_that_leans_on_its_users_fails(self):
        self.write("ipc/a.h", "#pragma once\nstd::string name();\n")
        self.assert_fails("ipc/a.h: does not compile alone as c++23")

    def test_kernel_headers_must_be_cpp20(self):
        text = "#pragma once\n#include <utility>\ninline int f(int x) { return x; }\n"
        self.write("kernels/a.h", text)
        self.assert_passes()
        self.write("kernels/a.h", text + "inline int g() { return std::to_underlying(static_cast<std::byte>(1)); }\n")
        self.assert_fails("kernels/a.h: does not compile alone as c++20")

    def test_a_header_guarded_for_c_must_be_c(self):
        guard = '#pragma once\n#ifdef __cplusplus\nextern "C" {\n#endif\n%s\n#ifdef __cplusplus\n}\n#endif\n'
        self.write("client/a.h", guard % "int sluice_open(void);")
        self.assert_passes()
        self.write("client/a.h", guard % "int sluice_open(int size = 1);")
        self.assert_fails("client/a.h: does not compile alone as c11")

    def test_a_passed_header_is_compiled_again_only_after_a_change_below_it(self):
        self.write("ipc/a.h", '#pragma once\n#include "ipc/b.h"\ninline B b;\n')
        self.write("ipc/b.h", "#pragma once\nstruct B {};\n")
        self.make_older()
        self.assertIn("(0 unchanged)", self.assert_passes())
        self.assertIn("(2 unchanged)", self.assert_passes())
        self.write("ipc/b.h", "#pragma once\nstruct C {};\n")
        self.assert_fails("ipc/a.h: does not compile alone")
        self.assert_fails("ipc/a.h: does not compile alone")


if __name__ == "__main__":
    unittest.main()
