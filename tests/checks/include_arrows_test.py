import unittest

import harness

ALLOWED = [
    ("ipc/ring.cpp", '"ipc/ring.h"'),
    ("ipc/ring.cpp", '"ipc/wire_generated.h"'),
    ("ipc/ring.cpp", "<sys/mman.h>"),
    ("ipc/messages.h", "<flatbuffers/flatbuffers.h>"),
    ("kernels/resolve.h", '"kernels/hot_table.h"'),
    ("storage/segment.cpp", "<liburing.h>"),
    ("storage/index.cpp", "<rocksdb/db.h>"),
    ("storage/segment.cpp", '"ipc/error.h"'),
    ("tools/sluicectl/store.cpp", '"storage/block_store.h"'),
    ("client/client.cpp", '"kernels/resolve.h"'),
    ("client/client.cpp", '"ipc/ring.h"'),
    ("client/connection.cpp", "<boost/asio.hpp>"),
    ("client/connection.cpp", '"ipc/wire_generated.h"'),
    ("daemon/residency/directory.cpp", '"ipc/ids.h"'),
    ("daemon/residency/directory.cpp", '"ipc/error.h"'),
    ("daemon/residency/directory.cpp", '"daemon/residency/directory.h"'),
    ("daemon/residency/directory.cpp", "<vector>"),
    ("daemon/server.cpp", '"daemon/residency/manager.h"'),
    ("daemon/server.cpp", '"daemon/keeper/protocol.h"'),
    ("daemon/keeper/serve.cpp", '"ipc/unix_socket.h"'),
    ("daemon/server.cpp", '"kernels/sweep.h"'),
    ("daemon/server.cpp", '"storage/store.h"'),
    ("daemon/server.cpp", "<spdlog/spdlog.h>"),
    ("daemon/config.cpp", "<toml++/toml.h>"),
    ("daemon/metrics.cpp", "<prometheus/registry.h>"),
    ("daemon/main.cpp", "<CLI/CLI.hpp>"),
    ("tools/sluicectl/main.cpp", "<CLI/CLI.hpp>"),
    ("tools/sluicectl/main.cpp", "<nlohmann/json.hpp>"),
    ("tools/replay/engine.cpp", '"client/sluice.hpp"'),
    ("tools/sim/main.cpp", '"daemon/residency/manager.h"'),
    ("kernels/cuda/resolve.cu", "<cuda_runtime.h>"),
    ("kernels/atomic.h", "<cuda/atomic>"),
    ("daemon/device_worker/cuda_backend.cpp", "<cuda.h>"),
    ("client/cuda/device.cpp", "<cuda_runtime_api.h>"),
    ("tests/daemon/server_test.cpp", '"client/client.h"'),
    ("tests/daemon/server_test.cpp", '"daemon/server.h"'),
    ("tests/residency/oracle.h", "<random>"),
    ("tests/tools/json_test.cpp", "<nlohmann/json.hpp>"),
]

FORBIDDEN = [
    ("ipc/ring.cpp", '"kernels/hot_table.h"', "ipc -> kernels"),
    ("ipc/ring.cpp", '"client/client.h"', "ipc -> client"),
    ("ipc/ring.cpp", "<boost/asio.hpp>", "ipc -> Asio"),
    ("ipc/ids.h", "<chrono>", "pure library"),
    ("kernels/resolve.h", '"ipc/error.h"', "kernels -> ipc"),
    ("kernels/resolve.h", "<flatbuffers/flatbuffers.h>", "kernels -> FlatBuffers"),
    ("storage/segment.cpp", '"ipc/ids.h"', "storage -> ipc"),
    ("client/client.cpp", '"storage/block_store.h"', "client -> storage"),
    ("storage/segment.cpp", "<spdlog/spdlog.h>", "storage -> spdlog"),
    ("client/client.cpp", '"daemon/server.h"', "client -> daemon"),
    ("client/client.cpp", '"daemon/residency/manager.h"', "client -> daemon/residency"),
    ("client/client.cpp", "<liburing.h>", "client -> liburing"),
    ("client/client.cpp", "<nlohmann/json.hpp>", "client -> nlohmann-json"),
    ("client/client.cpp", '"tests/support/x.h"', "client -> tests"),
    ("daemon/server.cpp", '"client/client.h"', "daemon -> client"),
    ("daemon/server.cpp", "<client/client.h>", "daemon -> client"),
    ("daemon/server.cpp", '"tools/text.h"', "daemon -> tools"),
    ("daemon/server.cpp", "<CLI/CLI.hpp>", "daemon -> CLI11"),
    ("daemon/server.cpp", "<rocksdb/db.h>", "daemon -> RocksDB"),
    ("daemon/server.cpp", "<gtest/gtest_prod.h>", "daemon -> GoogleTest"),
    ("daemon/keeper/serve.cpp", '"daemon/logging.h"', "daemon/keeper -> daemon"),
    ("daemon/keeper/serve.cpp", "<boost/asio.hpp>", "daemon/keeper -> Asio"),
    ("daemon/residency/manager.cpp", '"ipc/ring.h"', "daemon/residency -> ipc/ring.h"),
    ("daemon/residency/manager.cpp", '"ipc/wire_generated.h"', "daemon/residency -> ipc/wire_generated.h"),
    ("daemon/residency/manager.cpp", '"daemon/server.h"', "daemon/residency -> daemon/server.h"),
    ("daemon/residency/manager.cpp", '"kernels/hot_table.h"', "daemon/residency -> kernels/hot_table.h"),
    ("tools/replay/engine.cpp", '"kernels/hot_table.h"', "tools -> kernels"),
    ("tools/replay/engine.cpp", '"daemon/residency/manager.h"', "tools -> daemon/residency"),
    ("tools/replay/engine.cpp", "<boost/asio.hpp>", "tools -> Asio"),
    ("daemon/server.cpp", "<cuda_runtime.h>", "daemon -> CUDA"),
    ("kernels/resolve.h", "<cuda/atomic>", "kernels -> CUDA"),
    ("client/client.cpp", "<cuda.h>", "client -> CUDA"),
    ("daemon/server.cpp", '"../client/client.h"', "named by their path"),
    ("daemon/server.cpp", "CLIENT_HEADER", "an include names its header"),
    ("examples/main.cpp", "<vector>", "lives in one of"),
] + [("daemon/residency/manager.cpp", header, "pure library") for header in (
    "<thread>", "<mutex>", "<chrono>", "<atomic>", "<fstream>", "<iostream>", "<filesystem>", "<sys/mman.h>",
    "<unistd.h>", "<random>", "<spdlog/spdlog.h>", "<boost/asio.hpp>", "<condition_variable>", "<ctime>")]


class IncludeArrowsTest(harness.CheckTest):
    check = "include-arrows"

    def test_allowed_includes_pass(self):
        for path, header in ALLOWED:
            with self.subTest(f"{path} includes {header}"):
                self.write(path, f"#include {header}\n")
                self.assert_passes()
                (self.root / path).unlink()

    def test_each_forbidden_include_is_named_with_its_line(self):
        for path, header, expected in FORBIDDEN:
            with self.subTest(f"{path} includes {header}"):
                self.write(path, f"// A header.\n#include <cstdint>\n#  include {header}  // x\n")
                output = self.assert_fails(expected)
                self.assertIn(f"{path}:3: ", output)
                (self.root / path).unlink()

    def test_a_header_named_from_its_own_folder_is_refused(self):
        self.write("ipc/ring.h", "")
        self.write("ipc/ring.cpp", '#include "ring.h"\n')
        self.assert_fails("ipc/ring.cpp:1: ")

    def test_an_include_in_a_comment_is_no_include(self):
        self.write("ipc/ring.cpp", '/* for example\n#include "daemon/server.h"\n*/\n// #include "daemon/a.h"\n')
        self.assert_passes()


if __name__ == "__main__":
    unittest.main()
