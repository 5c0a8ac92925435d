import unittest

import harness

HOME, ROOT, WORK = (f"/{name}" for name in ("home", "root", "work"))  # whole, this file would not pass


class NoMachinePathsTest(harness.CheckTest):
    check = "no-machine-paths"

    def test_paths_that_every_machine_has_pass(self):
        self.write("README.md", "See /usr/include, /dev/shm, /run/sluice/sluice.sock and ../shared/root/x.\n")
        self.write("tools/x", 'cd "${dir}' + f'{ROOT}/x"\n')
        self.assert_passes()

    def test_a_home_folder_fails(self):
        for text in (f"cd {HOME}/ada/sluice", f"`{ROOT}/sluice`", f"path={WORK}/main"):
            with self.subTest(text):
                self.write("README.md", f"First line.\n{text}\n")
                self.assert_fails("README.md:2: ")

    def test_the_place_of_this_checkout_fails(self):
        self.write("a.txt", f"{self.root}/build\n")
        self.assert_fails("a.txt:1: ")


if __name__ == "__main__":
    unittest.main()
