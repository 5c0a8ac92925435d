// A forward scanner over one line of JSON, for the lines that are nearly all numbers.
//
// It does not build a tree and accepts only what these lines need: objects, arrays, unsigned
// integers, and any value to be skipped. Every function returns false on text it does not expect
// and leaves the position there; it never reads outside the line. Strings are returned raw: no
// trace has escapes in its keys.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>

namespace sluice::tools {

class JsonScan {
 public:
  explicit JsonScan(std::string_view text)
      : at_(text.data()), end_(at_ + text.size()), begin_(at_) {}

  std::size_t position() const { return static_cast<std::size_t>(at_ - begin_); }
  bool at_end() {
    skip_space();
    return at_ == end_;
  }

  // Takes `c` if it is next.
  bool take(char c) {
    skip_space();
    if (at_ == end_ || *at_ != c) return false;
    ++at_;
    return true;
  }

  bool number(std::uint64_t& out) {
    skip_space();
    const char* const first = at_;
    std::uint64_t value = 0;
    while (at_ != end_ && *at_ >= '0' && *at_ <= '9') {
      const auto digit = static_cast<std::uint64_t>(*at_ - '0');
      if (value > (std::numeric_limits<std::uint64_t>::max() - digit) / 10) return false;
      value = value * 10 + digit;
      ++at_;
    }
    out = value;
    return at_ != first;
  }

  bool string(std::string_view& out) {
    if (!take('"')) return false;
    const char* const first = at_;
    while (at_ != end_ && *at_ != '"') {
      if (*at_ == '\\') ++at_;
      if (at_ == end_) return false;
      ++at_;
    }
    out = std::string_view(first, static_cast<std::size_t>(at_ - first));
    return take('"');
  }

  // Calls `member(key)` for each member of an object; it must consume the value.
  template <class Member>
  bool object(Member&& member) {
    if (!take('{')) return false;
    if (take('}')) return true;
    do {
      std::string_view key;
      if (!string(key) || !take(':') || !member(key)) return false;
    } while (take(','));
    return take('}');
  }

  // Calls `element()` for each element of an array; it must consume it.
  template <class Element>
  bool array(Element&& element) {
    if (!take('[')) return false;
    if (take(']')) return true;
    do {
      if (!element()) return false;
    } while (take(','));
    return take(']');
  }

  bool literal(std::string_view word) {
    skip_space();
    if (static_cast<std::size_t>(end_ - at_) < word.size()) return false;
    if (std::memcmp(at_, word.data(), word.size()) != 0) return false;
    at_ += word.size();
    return true;
  }

  bool skip_value(int depth = 0) {
    constexpr int kMaxDepth = 32;
    if (depth > kMaxDepth) return false;
    skip_space();
    if (at_ == end_) return false;
    std::string_view ignored;
    switch (*at_) {
      case '{':
        return object([&](std::string_view) { return skip_value(depth + 1); });
      case '[':
        return array([&] { return skip_value(depth + 1); });
      case '"':
        return string(ignored);
      case 't':
        return literal("true");
      case 'f':
        return literal("false");
      case 'n':
        return literal("null");
      default:
        return skip_number();
    }
  }

 private:
  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }
  bool skip_number() {
    const char* const first = at_;
    while (at_ != end_ && std::strchr("+-.0123456789eE", *at_) != nullptr && *at_ != '\0') ++at_;
    return at_ != first;
  }

  const char* at_;
  const char* end_;
  const char* begin_;
};

}  // namespace sluice::tools
