// A closed store with known blocks on two devices, and ways in which a disk can spoil it.
//
// Every damage changes bytes of blocks that exist, or of what finds them; it says which blocks are
// lost by it, and by which faults a check may tell.
#pragma once

#include <filesystem>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "storage/check.h"
#include "tests/storage/support.h"

namespace sluice::storage {

struct KnownBlock {
  std::string key;
  std::uint64_t seed = 0;
  int epoch = 0;  // in which run it was written
  StoredBlock place;
  Digest digest;
  std::uint64_t begin() const { return place.offset; }
  std::uint64_t end() const { return place.offset + record_bytes_of(place.block_bytes); }
};

struct Damage {
  std::string what;
  std::set<Digest> lost;
  std::set<FindingKind> kinds;   // that a check may tell, and one of them it must
  bool others_are_found = true;  // by the store that is opened then
};

class SpoiltStore {
 public:
  // Writes the store; some of its blocks are forgotten again.
  SpoiltStore() { make(); }

  // As it was closed.
  void restore();
  Damage spoil(std::mt19937_64& random);

  StoreConfig config() const;
  StoreLocation location() const;
  std::filesystem::path root() const { return root_.path() / "now"; }
  const std::vector<KnownBlock>& blocks() const { return blocks_; }
  // Each known block is right or not found; `found`: the others than `lost` are found.
  void expect_right_or_missing(const std::set<Digest>& lost, bool others_are_found) const;

 private:
  void make();

  using Way = Damage (SpoiltStore::*)(std::mt19937_64&);

  Damage flip_bit(std::mt19937_64& random);
  Damage overwrite(std::mt19937_64& random);
  Damage swap_blocks(std::mt19937_64& random);
  Damage swap_parts(std::mt19937_64& random);
  Damage misdirect(std::mt19937_64& random);
  Damage truncate(std::mt19937_64& random);
  Damage lose_segment(std::mt19937_64& random);
  Damage swap_segments(std::mt19937_64& random);
  Damage flip_segment_page(std::mt19937_64& random);
  Damage flip_device_page(std::mt19937_64& random);
  Damage old_segment(std::mt19937_64& random);
  Damage old_index(std::mt19937_64& random);
  Damage lose_index(std::mt19937_64& random);
  Damage flip_in_index(std::mt19937_64& random);

  const KnownBlock& any_block(std::mt19937_64& random) const;
  const KnownBlock& same_size(const KnownBlock& block, std::mt19937_64& random) const;
  std::set<Digest> in_segment(const KnownBlock& of) const;
  std::set<Digest> overlapping(const KnownBlock& of, std::uint64_t from, std::uint64_t to) const;
  std::filesystem::path file_of(const KnownBlock& block) const;
  void keep(const std::string& name) const;

  TemporaryDirectory root_{true};  // a test of bytes, not of disks
  std::vector<KnownBlock> blocks_;
};

}  // namespace sluice::storage
