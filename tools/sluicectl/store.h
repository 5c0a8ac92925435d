// What the `store` commands do alike: where the store is, how it is opened while no daemon runs on
// it, how its names are written.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "storage/store_image.h"
#include "tools/sluicectl/request.h"

namespace sluice::tools::store {

// The directories of the command line, else those of the configuration that --config names, else of
// the installed one. Errors: invalid_argument (none is named anywhere), bad_config, and those of
// Surroundings::list_config.
ipc::Result<std::vector<doctor::WantedDirectory>> directories(const Request& request);

// Errors: as directories() and storage::open_image.
ipc::Result<storage::StoreImage> open(const Request& request, storage::Access access);

// Tells an error; of a store that runs, what to do about it. The exit code.
int fail(const Request& request, const ipc::Error& error);

// "tenant/model/salt/layout/shard". A '/' or '%' in a word, or what is not printable, as "%2F".
std::string scope_text(const storage::Namespace& scope);
Json scope_json(const storage::Namespace& scope);
// Whether a --namespace means it: all of its text, or the first words of it.
bool is_in(const storage::Namespace& scope, std::string_view wanted);

std::string hex(std::string_view bytes);
// Errors: invalid_argument.
ipc::Result<std::string> bytes_of_hex(std::string_view text);
std::string hex(const storage::Digest& digest);

// "1 block", "2,345 blocks"; "2,345 blocks (1.2 GiB)".
std::string counted(std::uint64_t count, const char* one, const char* many);
std::string blocks_text(std::uint64_t blocks, std::uint64_t bytes);

// Tells how far long work is: on a terminal in one line that changes, else now and then in a line
// of its own.
class Progress {
 public:
  Progress(const Request& request, std::string what);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  bool is_due() const;
  void show(const std::string& how_far);

 private:
  const Request& request_;
  const std::string what_;
  TimePoint shown_;
  bool line_is_open_ = false;
};

}  // namespace sluice::tools::store
