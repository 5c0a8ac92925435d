// Lines of a text file, plain or Zstandard-compressed (told by its first bytes), streamed.
//
// A file that ends inside a Zstandard frame is an error, never a short read: a truncated trace must
// not pass for a whole one. Thread-safety: one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "ipc/error.h"

namespace sluice::tools {

// A longer line is refused, so that a file of another kind cannot take all memory.
inline constexpr std::size_t kMaxLineBytes = std::size_t{64} << 20;

class LineReader {
 public:
  static ipc::Result<LineReader> open(const std::string& path);
  LineReader(LineReader&&) noexcept;
  LineReader& operator=(LineReader&&) noexcept;
  ~LineReader();

  // The next line without its end; valid until the next call. nullopt: the file's end.
  ipc::Result<std::optional<std::string_view>> next();

  // Number of the line that next() returned last; the first is 1.
  std::uint64_t line_number() const;

 private:
  struct State;
  explicit LineReader(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace sluice::tools
