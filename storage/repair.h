// Makes a store clean again that check() found faults in.
//
// Blocks that are lost are forgotten, records that the index should know are told to it, torn ones
// are wiped (their header pages), segments whose page is wrong are emptied, short files made whole,
// a lost `device` page written again from what the segments say. An index that cannot be used is
// set aside ("<directory>.corrupt") and made anew. What check() does not call lost is not lost by
// it.
#pragma once

#include <cstdint>

#include "storage/check.h"

namespace sluice::storage {

struct Repaired {
  std::uint64_t forgotten_blocks = 0;
  std::uint64_t forgotten_bytes = 0;
  std::uint64_t found_blocks = 0;  // that the index did not know
};

// `image` was opened with Access::repair and is given up; `report` is of it. Errors: wrong_state (a
// device says nothing about who it is: empty it, or leave it out), io_error, no_memory (a disk is
// full). After an error the store is as far repaired as it got, and no worse.
Result<Repaired> repair(StoreImage image, const CheckReport& report);

}  // namespace sluice::storage
