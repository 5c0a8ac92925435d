// The status of a result of libsluice.
#pragma once

#include "client/sluice.hpp"

namespace sluice::test {

template <class T>
sluice_status status_of(const client::Result<T>& result) {
  return result ? SLUICE_OK : result.error().code;
}

}  // namespace sluice::test
