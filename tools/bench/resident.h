// A cache whose every page is in the arena, and lists of pages drawn from it at random.
//
// Pages were brought in one by one in random order, so that neither a page's slot nor its word can
// be guessed from its number. Thread-safety: one thread.
#pragma once

#include <memory>
#include <vector>

#include "tools/bench/node.h"

namespace sluice::tools {

// Lists of kListPages blocks each; each list is of one page of its blocks, as those of an engine
// are of one layer.
struct RandomLists {
  static constexpr std::uint32_t kListPages = 256;

  std::vector<std::uint32_t> pages;   // per list
  std::vector<std::uint32_t> blocks;  // kListPages per list

  void draw(Random& random, std::uint32_t lists, std::uint32_t pages_per_block,
            std::uint32_t block_count);
  std::uint32_t size() const { return static_cast<std::uint32_t>(pages.size()); }
};

class Resident {
 public:
  // A cache of about `pages` pages in blocks of `pages_per_block`. Errors: of the daemon.
  static ipc::Result<std::unique_ptr<Resident>> make(const Setting& setting, const char* name,
                                                     std::uint32_t pages,
                                                     std::uint32_t pages_per_block,
                                                     sluice_executor executor);

  std::uint32_t pages() const { return blocks_ * pages_per_block_; }
  const std::string& note() const { return node_.note(); }
  client::Client& client() { return node_.client(); }
  Random& random() { return random_; }
  void draw(RandomLists& lists, std::uint32_t count) {
    lists.draw(random_, count, pages_per_block_, blocks_);
  }

  ipc::Status begin_step();
  ipc::Status end_step();
  // Lists [first, end), a step each or all in the step that the actor is in.
  ipc::Status resolve_in_steps(const RandomLists& lists, std::uint32_t first, std::uint32_t end);
  ipc::Status resolve(const RandomLists& lists, std::uint32_t first, std::uint32_t end);

 private:
  explicit Resident(Node node) : node_(std::move(node)) {}
  ipc::Status bring_in();
  ipc::Status resolve_one(const RandomLists& lists, std::uint32_t i);

  Node node_;
  std::uint32_t blocks_ = 0;
  std::uint32_t pages_per_block_ = 0;
  std::optional<client::Cache> cache_;
  std::optional<client::Sequence> sequence_;
  std::optional<client::Actor> actor_;
  std::vector<std::int32_t> slots_;
  Random random_{kSeed};
};

}  // namespace sluice::tools
