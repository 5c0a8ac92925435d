#include "tools/replay/line_reader.h"

#include <zstd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace sluice::tools {

using ipc::Errc;
using ipc::fail;

namespace {

constexpr unsigned char kZstdMagic[4] = {0x28, 0xB5, 0x2F, 0xFD};

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct FreeStream {
  void operator()(ZSTD_DStream* stream) const { ZSTD_freeDStream(stream); }
};

}  // namespace

struct LineReader::State {
  std::unique_ptr<std::FILE, CloseFile> file;
  std::unique_ptr<ZSTD_DStream, FreeStream> stream;  // none: a plain file
  std::string path;
  std::vector<char> raw;  // as read from the file
  std::size_t raw_begin = 0;
  std::size_t raw_end = 0;
  bool inside_frame = false;
  bool ended = false;
  std::vector<char> text;  // decompressed, from text_begin on not yet returned
  std::size_t text_begin = 0;
  std::size_t text_end = 0;
  std::uint64_t line = 0;

  ipc::Status read_raw();
  ipc::Status fill();
  ipc::Status decompress(char* out, std::size_t room, std::size_t& got);
};

LineReader::LineReader(std::unique_ptr<State> state) : state_(std::move(state)) {}
LineReader::LineReader(LineReader&&) noexcept = default;
LineReader& LineReader::operator=(LineReader&&) noexcept = default;
LineReader::~LineReader() = default;

std::uint64_t LineReader::line_number() const { return state_->line; }

ipc::Result<LineReader> LineReader::open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->file.reset(std::fopen(path.c_str(), "rbe"));
  if (!state->file) {
    return fail(Errc::invalid_argument, path + ": cannot be opened: " + std::strerror(errno));
  }
  state->raw.resize(std::size_t{1} << 17);
  state->text.resize(std::size_t{1} << 20);
  if (auto status = state->read_raw(); !status) return std::unexpected(status.error());
  if (state->raw_end >= sizeof kZstdMagic &&
      std::memcmp(state->raw.data(), kZstdMagic, sizeof kZstdMagic) == 0) {
    state->stream.reset(ZSTD_createDStream());
    if (!state->stream) return fail(Errc::no_memory, "no memory for a Zstandard stream");
  }
  return LineReader(std::move(state));
}

ipc::Status LineReader::State::read_raw() {
  raw_begin = 0;
  raw_end = std::fread(raw.data(), 1, raw.size(), file.get());
  if (raw_end == 0 && std::ferror(file.get()) != 0) {
    return fail(Errc::io_error, path + ": cannot be read: " + std::strerror(errno));
  }
  return {};
}

// Produces at least one byte of text, or sets `ended`.
ipc::Status LineReader::State::fill() {
  if (text_begin > 0) {
    std::memmove(text.data(), text.data() + text_begin, text_end - text_begin);
    text_end -= text_begin;
    text_begin = 0;
  }
  if (text_end == text.size()) text.resize(text.size() * 2);
  while (!ended) {
    if (raw_begin == raw_end) {
      if (auto status = read_raw(); !status) return status;
      if (raw_end == 0) {
        if (inside_frame) {
          return fail(Errc::invalid_argument,
                      path + ":" + std::to_string(line + 1) +
                          ": the file ends inside a Zstandard frame: it is truncated");
        }
        ended = true;
        break;
      }
    }
    std::size_t got = 0;
    if (auto status = decompress(text.data() + text_end, text.size() - text_end, got); !status) {
      return status;
    }
    text_end += got;
    if (got > 0) break;
  }
  return {};
}

ipc::Status LineReader::State::decompress(char* out, std::size_t room, std::size_t& got) {
  if (!stream) {
    got = std::min(room, raw_end - raw_begin);
    std::memcpy(out, raw.data() + raw_begin, got);
    raw_begin += got;
    return {};
  }
  ZSTD_inBuffer input{raw.data(), raw_end, raw_begin};
  ZSTD_outBuffer output{out, room, 0};
  const std::size_t hint = ZSTD_decompressStream(stream.get(), &output, &input);
  if (ZSTD_isError(hint) != 0) {
    return fail(Errc::invalid_argument, path + ":" + std::to_string(line + 1) +
                                            ": broken Zstandard data: " + ZSTD_getErrorName(hint));
  }
  raw_begin = input.pos;
  inside_frame = hint != 0;
  got = output.pos;
  return {};
}

ipc::Result<std::optional<std::string_view>> LineReader::next() {
  State& state = *state_;
  std::size_t searched = state.text_begin;
  for (;;) {
    const char* begin = state.text.data();
    const void* end = std::memchr(begin + searched, '\n', state.text_end - searched);
    if (end != nullptr || (state.ended && state.text_end > state.text_begin)) {
      const std::size_t stop = end != nullptr
                                   ? static_cast<std::size_t>(static_cast<const char*>(end) - begin)
                                   : state.text_end;
      const std::string_view line(begin + state.text_begin, stop - state.text_begin);
      state.text_begin = end != nullptr ? stop + 1 : stop;
      ++state.line;
      return line;
    }
    if (state.ended) return std::nullopt;
    const std::size_t pending = state.text_end - state.text_begin;
    if (pending > kMaxLineBytes) {
      return fail(Errc::invalid_argument, state.path + ":" + std::to_string(state.line + 1) +
                                              ": the line is longer than " +
                                              std::to_string(kMaxLineBytes) + " bytes");
    }
    if (auto status = state.fill(); !status) return std::unexpected(status.error());
    searched = pending;  // fill() moved what was pending to the beginning
  }
}

}  // namespace sluice::tools
