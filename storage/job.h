// What a device's thread is asked for, and the order in which it does it: by class, inside a class
// by tenant, each as much as its weight says.
//
// Thread-safety: none; a queue is its thread's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string_view>

#include "storage/block_store.h"
#include "storage/digest.h"
#include "storage/file.h"
#include "storage/index.h"

namespace sluice::storage {

struct Key {
  std::array<std::byte, kMaxKeyBytes> bytes{};
  std::size_t size = 0;

  Key() = default;
  explicit Key(std::span<const std::byte> key);
  std::span<const std::byte> view() const { return std::span(bytes).first(size); }
};

struct Job {
  enum class Kind : std::uint8_t { read, hurry, write, answer, compact };
  Kind kind = Kind::answer;
  IoClass io_class = IoClass::must_have;
  std::uint32_t tenant = 0;
  double weight = 1;
  Digest digest;
  // Whose the block is; points to what outlives the job. Empty in a read that moves a block.
  std::string_view encoded_namespace;
  Key key;

  // read: [offset, offset + to.size()) of a block of block_bytes.
  std::uint64_t block_bytes = 0;
  std::uint64_t offset = 0;
  std::span<std::byte> to;

  // write
  std::span<const std::byte> payload;
  std::uint64_t valid_bytes = 0;

  // Cleaning: the record that moves, in memory of the job: header page, then the block.
  std::optional<IndexEntry> moved;
  AlignedMemory moved_memory;

  double least_live = 0;  // of compact
  Status status;          // of answer
  Done done;              // not of writes for callers: the catalog has theirs

  std::uint64_t bytes() const { return kind == Kind::read ? to.size() : payload.size(); }
};

class JobQueue {
 public:
  void push(std::unique_ptr<Job> job);
  bool empty(IoClass io_class) const { return classes_[index(io_class)].count == 0; }
  bool empty() const { return count() == 0; }
  std::size_t count() const;
  // Null: there is none in the class.
  std::unique_ptr<Job> pop(IoClass io_class);
  // Reads of the block that wait as forecasts go on as must_have, behind those of their tenant.
  void hurry(std::uint32_t tenant, const Digest& digest);

 private:
  // Virtual time: what a tenant was served, divided by its weight. The least comes first; one that
  // comes back from idling starts where the others are, and keeps its debt.
  struct Tenant {
    std::deque<std::unique_ptr<Job>> jobs;
    double served = 0;
  };
  struct Class {
    std::map<std::uint32_t, Tenant> tenants;  // that had jobs in this class
    double now = 0;
    std::size_t count = 0;
  };
  static std::size_t index(IoClass io_class) { return static_cast<std::size_t>(io_class); }

  std::array<Class, kIoClasses> classes_;
};

}  // namespace sluice::storage
