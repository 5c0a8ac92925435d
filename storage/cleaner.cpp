#include "storage/cleaner.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "ipc/kill_point.h"
#include "storage/bytes.h"

namespace sluice::storage {
namespace {

// Segments that cleaning keeps free in the background: this share of all, and at least two.
constexpr std::uint32_t kFreeShare = 16;
constexpr std::uint32_t kLeastFree = 2;
// Compacting a segment that is fuller than this writes more than it gains.
constexpr double kMostToCompact = 0.75;
// Of a segment whose blocks are dropped.
constexpr double kMostToKeep = 0.5;
constexpr std::size_t kMovesAtOnce = 8;
// After there was nothing to be cleaned, while there is as much space as then.
constexpr std::chrono::milliseconds kPause{100};
// After held blocks of a segment could not be moved, which then stays as it is.
constexpr std::chrono::milliseconds kStuckPause{1000};
// After a write or the index failed, of everything.
constexpr std::chrono::milliseconds kPauseAfterFailure{100};

double benefit(double share_to_move, std::uint64_t age) {
  return (1 - share_to_move) * static_cast<double>(age) / (1 + share_to_move);
}

struct Choice {
  std::optional<std::uint32_t> segment;
  double best = -1;
  void offer(std::uint32_t candidate, double value) {
    if (value <= best) return;
    best = value;
    segment = candidate;
  }
};

}  // namespace

bool Cleaner::turn(bool urgent) {
  // Of a compaction one segment after the other, without a pause.
  do {
    if (!victim_ && !begin_victim(urgent)) return !urgent;
    start_moves((urgent || compaction_) && !careful_ ? kMovesAtOnce : 1);
  } while (to_move_.empty() && moving_ == 0 && end_victim() && compaction_);
  return true;
}

bool Cleaner::begin_victim(bool urgent) {
  if (!choose(urgent)) return false;
  std::uint64_t bytes = 0;
  for (const IndexEntry& block : to_move_) bytes += record_bytes(block);
  // What others write behind a move that fails takes its place for good.
  context_.segments.begin_cleaning(careful_ ? context_.segments.segment_bytes() : bytes);
  return true;
}

void Cleaner::leave_victim() {
  victim_.reset();
  context_.segments.end_cleaning();
}

bool Cleaner::end_victim() {
  if (compaction_ && compaction_->on_victim && !compaction_->failed) {
    leave_victim();
    end_compaction(compaction_->failed);
    return false;
  }
  return try_release();
}

void Cleaner::compact(double least_live, Done done) {
  if (compaction_) return done(ipc::fail(Errc::busy, "it is being compacted"));
  compaction_ = Compaction{least_live, context_.segments.newest(), std::move(done), false, {}};
}

void Cleaner::end_compaction(Status status) {
  Done done = std::move(compaction_->done);
  compaction_.reset();
  done(std::move(status));
}

void Cleaner::stop(const Status& why) {
  to_move_.clear();
  if (compaction_) end_compaction(why);
}

bool Cleaner::choose_to_compact() {
  const std::vector<SegmentUse> uses = context_.shared.catalog.segment_use(context_.device);
  Choice emptiest;
  for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
    if (!context_.segments.can_be_cleaned(segment)) continue;
    if (context_.segments.identity(segment).sequence > compaction_->newest) continue;
    const double live = share(uses[segment].live_bytes);
    if (live == 0 || live < compaction_->least_live) emptiest.offer(segment, 1 - live);
  }
  if (!emptiest.segment) {
    end_compaction({});
    return false;
  }
  const bool dead = uses[*emptiest.segment].live_bytes == 0;
  if (!dead && context_.segments.free_count() == 0) {
    // A segment that was given back is free soon.
    if (context_.segments.discarding()) return false;
    end_compaction(ipc::fail(Errc::no_memory, "no segment is free to move blocks into"));
    return false;
  }
  compaction_->on_victim = true;
  take_all(*emptiest.segment);
  return true;
}

bool Cleaner::choose(bool urgent) {
  if (compaction_ && !urgent) return choose_to_compact();
  if (compaction_) compaction_->on_victim = false;
  if (context_.shared.cleaning == Cleaning::when_asked) return false;
  const std::uint32_t wanted = std::max(kLeastFree, context_.segments.count() / kFreeShare);
  const bool enough = !urgent && context_.segments.free_count() >= wanted;
  const auto now = std::chrono::steady_clock::now();
  if (now < paused_until_) return false;
  if (!urgent && enough == looked_with_enough_ && now < look_again_) return false;
  std::erase_if(stuck_until_, [&](const auto& stuck) { return stuck.second <= now; });

  const std::vector<SegmentUse> uses = context_.shared.catalog.segment_use(context_.device);
  // The only room that there is may be behind what is of no use.
  if (const auto tail = context_.segments.idle_tail();
      tail && !enough && uses[*tail].live_bytes == 0 && context_.segments.free_count() == 0) {
    context_.segments.seal(*tail);
  }
  for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
    if (uses[segment].live_bytes > 0 || !context_.segments.can_be_cleaned(segment)) continue;
    victim_ = segment;
    return true;
  }
  // A segment that was given back is free soon, and there is none to move blocks into before.
  const bool wait = context_.segments.free_count() == 0 && context_.segments.discarding();
  if (!enough && !wait && !take_one(uses, context_.segments.room_to_clean()) && urgent &&
      is_there_one(uses, bytes(1)) && context_.segments.exceed()) {
    static_cast<void>(take_one(uses, context_.segments.room_to_clean()));
  }
  if (const auto beyond = context_.segments.beyond(); enough && beyond && may_be_moved(*beyond)) {
    take_used(*beyond, unheld_to_keep(uses[*beyond], bytes(1)));
  }
  if (!victim_ && !wait) {
    look_again_ = now + kPause;
    looked_with_enough_ = enough;
  }
  return victim_.has_value();
}

bool Cleaner::is_there_one(const std::vector<SegmentUse>& uses, std::uint64_t room) {
  return choose_to_move(uses, room) || choose_to_drop(uses, room);
}

bool Cleaner::take_one(const std::vector<SegmentUse>& uses, std::uint64_t room) {
  if (const auto move = choose_to_move(uses, room)) {
    take_all(*move);
  } else if (const auto drop = choose_to_drop(uses, room)) {
    take_used(*drop, unheld_to_keep(uses[*drop], room));
  }
  return victim_.has_value();
}

bool Cleaner::may_be_moved(std::uint32_t segment) const {
  return context_.segments.can_be_cleaned(segment) && !stuck_until_.contains(segment);
}

std::optional<std::uint32_t> Cleaner::choose_to_move(const std::vector<SegmentUse>& uses,
                                                     std::uint64_t room) const {
  Choice compact;
  for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
    if (uses[segment].live_bytes > std::min(bytes(kMostToCompact), room)) continue;
    if (!may_be_moved(segment)) continue;
    compact.offer(segment,
                  benefit(share(uses[segment].live_bytes), context_.segments.age(segment)));
  }
  return compact.segment;
}

std::optional<std::uint32_t> Cleaner::choose_to_drop(std::vector<SegmentUse> uses,
                                                     std::uint64_t room) {
  // Each segment is passed over once at most.
  for (std::uint32_t round = 0; round <= context_.segments.count(); ++round) {
    Choice drop;
    for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
      const SegmentUse& use = uses[segment];
      if (use.held_bytes > std::min(bytes(kMostToCompact), room)) continue;
      if (!may_be_moved(segment)) continue;
      const std::uint64_t moves =
          use.held_bytes + std::min(use.used_bytes, unheld_to_keep(use, room));
      drop.offer(segment, benefit(share(moves), context_.segments.age(segment)));
    }
    if (!drop.segment) return std::nullopt;
    SegmentUse& use = uses[*drop.segment];
    if (use.used_bytes <= unheld_to_keep(use, room)) return drop.segment;
    use.used_bytes = 0;
    context_.shared.catalog.clear_used(context_.device, *drop.segment);
    context_.segments.rejuvenate(*drop.segment);
  }
  return std::nullopt;
}

// Of the blocks that are not held of a segment that is chosen to drop some.
std::uint64_t Cleaner::unheld_to_keep(const SegmentUse& use, std::uint64_t room) const {
  const std::uint64_t most = std::min(bytes(kMostToKeep), room);
  return most - std::min(most, use.held_bytes);
}

std::uint64_t Cleaner::bytes(double share) const {
  return static_cast<std::uint64_t>(
      share * static_cast<double>(context_.segments.segment_bytes() - kPageBytes));
}

double Cleaner::share(std::uint64_t bytes) const {
  return static_cast<double>(bytes) /
         static_cast<double>(context_.segments.segment_bytes() - kPageBytes);
}

void Cleaner::take_all(std::uint32_t segment) {
  victim_ = segment;
  for (const auto& one : context_.shared.catalog.blocks_of(context_.device, segment)) {
    to_move_.push_back(one.block);
  }
}

void Cleaner::take_used(std::uint32_t segment, std::uint64_t most_to_keep) {
  victim_ = segment;
  auto blocks = context_.shared.catalog.blocks_of(context_.device, segment);
  std::ranges::sort(blocks, std::greater(), [](const Catalog::SegmentBlock& one) {
    return std::pair(one.block.used, one.block.last_use_s);
  });
  for (const auto& [block, held] : blocks) {
    const std::uint64_t bytes = record_bytes(block);
    if (!held && (!block.used || bytes > most_to_keep)) continue;  // it goes with the segment
    if (!held) most_to_keep -= bytes;
    to_move_.push_back(block);
  }
}

void Cleaner::start_moves(std::size_t most) {
  while (!to_move_.empty() && moving_ < most) {
    const IndexEntry block = to_move_.front();
    to_move_.pop_front();
    auto job = std::make_unique<Job>();
    job->kind = Job::Kind::read;
    job->io_class = IoClass::cleaning;
    job->tenant = block.tenant;
    job->digest = block.digest;
    job->block_bytes = std::uint64_t{block.block_pages} * kIoAlign;
    job->moved = block;
    job->moved_memory = allocate_aligned(record_bytes(block));
    if (!job->moved_memory && compaction_ && compaction_->on_victim) {
      compaction_->failed = ipc::fail(Errc::no_memory, "no memory to move a block");
      return to_move_.clear();
    }
    if (!job->moved_memory) continue;
    job->to = {job->moved_memory.get() + kPageBytes, job->block_bytes};
    ++moving_;
    reads_.push(std::move(job));
  }
}

void Cleaner::read_ended(std::unique_ptr<Job> job, Status status) {
  SLUICE_KILL_POINT("store.move.read");
  if (status) {
    const IndexEntry& block = *job->moved;
    const auto fields = parse_record_page(
        ConstPage(job->moved_memory.get(), kPageBytes), context_.segments.identity(block.segment),
        std::uint64_t{block.offset_pages} * kIoAlign, context_.segments.segment_bytes());
    if (fields) {
      job->kind = Job::Kind::write;
      job->encoded_namespace = fields->encoded_namespace;
      job->key = Key(fields->key);
      job->valid_bytes = fields->valid_bytes;
      job->payload = job->to;
      context_.shared.written.count(record_bytes(block), wall_clock_s());
      return writes_.push(std::move(job));
    }
  }
  // The reader dropped it, or somebody else did.
  --moving_;
}

void Cleaner::write_ended(Status status) {
  SLUICE_KILL_POINT("store.move.written");
  --moving_;
  if (status) return;
  if (compaction_ && compaction_->on_victim && status.error().code != Errc::not_found) {
    compaction_->failed = std::move(status);
    to_move_.clear();
    return;
  }
  if (status.error().code == Errc::not_found) return;
  to_move_.clear();
  careful_ = true;
  paused_until_ = std::chrono::steady_clock::now() + kPauseAfterFailure;
}

bool Cleaner::try_release() {
  // What is not worth moving goes with the segment, and what was left behind by a failure.
  if (!context_.shared.catalog.drop_segment(context_.device, *victim_)) {
    stuck_until_[*victim_] = std::chrono::steady_clock::now() + kStuckPause;
    leave_victim();
    return false;
  }
  if (context_.segments.is_pinned(*victim_)) return false;
  if (!context_.shared.commit.sync()) {
    leave_victim();
    paused_until_ = std::chrono::steady_clock::now() + kPauseAfterFailure;
    return false;
  }
  SLUICE_KILL_POINT("store.segment.freeing");
  context_.segments.release(*victim_);
  SLUICE_KILL_POINT("store.segment.freed");
  ++context_.counters.freed_segments;
  careful_ = false;
  leave_victim();
  return true;
}

}  // namespace sluice::storage
