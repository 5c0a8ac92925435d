// A value that came from outside: another process, or a disk. It cannot be used until it is
// validated.
//
// There is no conversion and no accessor: the only ways out are the checks below, which give the
// plain value or a typed error that names the value, what was found and what was expected. The
// object holds a private copy, so what was validated is what is used.
//
// Thread-safety: a value type.
#pragma once

#include <concepts>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "ipc/error.h"

namespace sluice::ipc {

template <class T>
  requires std::is_trivially_copyable_v<T>
class Untrusted {
 public:
  constexpr Untrusted() = default;
  constexpr explicit Untrusted(T value) : value_(value) {}

  // The value if `acceptable(value)`. `expected` ends the sentence "<name> is not <expected>".
  template <std::predicate<const T&> Predicate>
  Result<T> validate(Predicate&& acceptable, std::string_view name, std::string_view expected,
                     Errc code = Errc::peer_violation) const {
    if (std::forward<Predicate>(acceptable)(value_)) return value_;
    return fail(code, std::string(name) + " is not " + std::string(expected));
  }

  // The value if least <= value <= most.
  Result<T> in_range(T least, T most, std::string_view name, Errc code = Errc::peer_violation) const
    requires std::integral<T>
  {
    if (least <= value_ && value_ <= most) return value_;
    return fail(code, std::string(name) + " is " + std::to_string(value_) + "; expected " +
                          std::to_string(least) + " to " + std::to_string(most));
  }

  // The value if it is below `end`: for indices.
  Result<T> below(T end, std::string_view name, Errc code = Errc::peer_violation) const
    requires std::unsigned_integral<T>
  {
    if (value_ < end) return value_;
    return fail(code, std::string(name) + " is " + std::to_string(value_) +
                          "; expected less than " + std::to_string(end));
  }

 private:
  T value_{};
};

}  // namespace sluice::ipc
