import json
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

    def test_only_cuda_headers_are_compiled_as_cuda(self):
        self.write("kernels/a.h", "#pragma once\ninline int f() { return 1; }\n")
        self.write("kernels/b.cuh", '#pragma once\n#include "kernels/a.h"\n')
        self.write("kernels/c.cu", "")
        self.assertIn("headers-alone: 2 checked", self.assert_passes())  # there is no nvcc in this build

        # An nvcc that compiles nothing but CUDA.
        nvcc = self.root / "nvcc"
        nvcc.write_text('#!/bin/sh\ncase "$*" in *"-x cu"*) exec g++ -I"$(dirname "$0")" -x c++ -c -o /dev/null'
                        ' -MD -MF "$(echo "$*" | sed "s/.*-MF \\([^ ]*\\).*/\\1/")" -MT x - ;; esac\nexit 1\n')
        nvcc.chmod(0o755)
        commands = json.loads((self.root / "build/dev/compile_commands.json").read_text())
        commands.append({"directory": str(self.root), "file": str(self.root / "kernels/c.cu"),
                         "arguments": [str(nvcc), "-x", "cu", "-c", "kernels/c.cu", "-o", "c.o"]})
        self.write("build/dev/compile_commands.json", json.dumps(commands))
        self.assertIn("headers-alone: 3 checked", self.assert_passes())
        self.write("kernels/b.cuh", "#pragma once\ninline int g() { return f(); }\n")
        self.assert_fails("kernels/b.cuh: does not compile alone")

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
