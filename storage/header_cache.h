// What the headers of records said that were read and verified: reads of other parts of the same
// record do not read its header again.
//
// A record is never changed in place, and its sequence is given once, so what is kept here is true
// as long as the index has that sequence. It is bounded: each record has one place, which the next
// one of the same place takes.
//
// Thread-safety: none; a device's thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "storage/index.h"
#include "storage/job.h"
#include "storage/record.h"

namespace sluice::storage {

// Of a device; with 32 parts a block some 7 MiB.
inline constexpr std::size_t kCachedHeaders = 16384;

// A header that is the one of its index entry.
struct VerifiedHeader {
  std::uint64_t sequence = 0;
  std::string encoded_namespace;
  Key key;
  std::vector<std::uint64_t> part_checksums;

  explicit VerifiedHeader(const RecordFields& fields)
      : sequence(fields.sequence),
        encoded_namespace(fields.encoded_namespace),
        key(fields.key),
        part_checksums(fields.part_checksums.begin(), fields.part_checksums.end()) {}
  bool is_of(std::string_view scope, const Key& name) const {
    return encoded_namespace == scope && std::ranges::equal(key.view(), name.view());
  }
};
using HeaderPtr = std::shared_ptr<const VerifiedHeader>;

class HeaderCache {
 public:
  HeaderCache() : places_(kCachedHeaders) {}

  // Null: it is not kept.
  HeaderPtr find(const IndexEntry& entry) const {
    const HeaderPtr& header = places_[place_of(entry)];
    return header && header->sequence == entry.sequence ? header : nullptr;
  }
  void keep(const IndexEntry& entry, HeaderPtr header) {
    places_[place_of(entry)] = std::move(header);
  }

 private:
  static std::size_t place_of(const IndexEntry& entry) { return entry.digest.low % kCachedHeaders; }

  std::vector<HeaderPtr> places_;
};

}  // namespace sluice::storage
