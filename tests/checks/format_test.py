import shutil
import unittest

import harness


class FormatTest(harness.CheckTest):
    check = "format"

    def setUp(self):
        super().setUp()
        shutil.copy(harness.ROOT / ".clang-format", self.root)

    def test_formatted_code_passes(self):
        self.write("ipc/a.cpp", "int* f(int x);\n")
        self.assert_passes()

    def test_unformatted_code_fails_until_it_is_fixed(self):
        self.write("ipc/a.cpp", "int *f( int x );\n")
        self.assert_fails("ipc/a.cpp:1")
        self.assert_passes("--fix")
        self.assert_passes()
        self.assertEqual((self.root / "ipc/a.cpp").read_text(), "int* f(int x);\n")


if __name__ == "__main__":
    unittest.main()
