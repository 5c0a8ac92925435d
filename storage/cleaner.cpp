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
// Segments in which nothing is wanted are looked for so often while there is space.
constexpr std::chrono::milliseconds kDeadPause{100};
// After held blocks could not be moved, only segments in which nothing is wanted are freed for so
// long.
constexpr std::chrono::milliseconds kStuckPause{100};

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
    if (!victim_ && !choose(urgent)) return !urgent;
    start_moves(urgent || compaction_ ? kMovesAtOnce : 1);
  } while (to_move_.empty() && moving_ == 0 && end_victim() && compaction_);
  return true;
}

bool Cleaner::end_victim() {
  if (compaction_ && compaction_->on_victim && !compaction_->failed) {
    victim_.reset();
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
  if (cleaning_ == Cleaning::when_asked) return false;
  const std::uint32_t wanted = std::max(kLeastFree, context_.segments.count() / kFreeShare);
  const bool enough = !urgent && context_.segments.free_count() >= wanted;
  const auto now = std::chrono::steady_clock::now();
  if (enough && now - looked_at_ < kDeadPause) return false;
  looked_at_ = now;

  const std::vector<SegmentUse> uses = context_.shared.catalog.segment_use(context_.device);
  Choice compact;
  for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
    if (!context_.segments.can_be_cleaned(segment)) continue;
    const double live = share(uses[segment].live_bytes);
    if (live == 0) {
      victim_ = segment;
      return true;
    }
    if (live <= kMostToCompact) {
      compact.offer(segment, benefit(live, context_.segments.age(segment)));
    }
  }
  if (enough || now < stuck_until_) return false;
  if (compact.segment) {
    take_all(*compact.segment);
  } else if (const auto drop = choose_to_drop(uses)) {
    take_used(*drop, uses[*drop].held_bytes);
  }
  return victim_.has_value();
}

std::optional<std::uint32_t> Cleaner::choose_to_drop(std::vector<SegmentUse> uses) {
  // Each segment is passed over once at most.
  for (std::uint32_t round = 0; round <= context_.segments.count(); ++round) {
    Choice drop;
    for (std::uint32_t segment = 0; segment < context_.segments.count(); ++segment) {
      const double held = share(uses[segment].held_bytes);
      if (!context_.segments.can_be_cleaned(segment) || held > kMostToCompact) continue;
      const double used = std::max(held, std::min(share(uses[segment].used_bytes), kMostToKeep));
      drop.offer(segment, benefit(used, context_.segments.age(segment)));
    }
    if (!drop.segment || share(uses[*drop.segment].used_bytes) <= kMostToKeep) return drop.segment;
    uses[*drop.segment].used_bytes = 0;
    context_.shared.catalog.clear_used(context_.device, *drop.segment);
    context_.segments.rejuvenate(*drop.segment);
  }
  return std::nullopt;
}

double Cleaner::share(std::uint64_t bytes) const {
  return static_cast<double>(bytes) /
         static_cast<double>(context_.segments.segment_bytes() - kPageBytes);
}

void Cleaner::take_all(std::uint32_t segment) {
  victim_ = segment;
  for (const IndexEntry& block : context_.shared.catalog.blocks_of(context_.device, segment)) {
    to_move_.push_back(block);
  }
}

void Cleaner::take_used(std::uint32_t segment, std::uint64_t held_bytes) {
  victim_ = segment;
  std::vector<IndexEntry> blocks = context_.shared.catalog.blocks_of(context_.device, segment);
  std::ranges::sort(blocks, std::greater(), [](const IndexEntry& block) {
    return std::pair(block.used, block.last_use_s);
  });
  auto left = static_cast<std::uint64_t>(kMostToKeep *
                                         static_cast<double>(context_.segments.segment_bytes()));
  left -= std::min(left, held_bytes);  // held ones move, whatever else does
  for (const IndexEntry& block : blocks) {
    const std::uint64_t bytes = record_bytes(block);
    const bool keep = block.used && bytes <= left;
    if (!keep && context_.shared.catalog.drop(block.digest, block.sequence, Drop::to_make_room)) {
      continue;
    }
    if (keep) left -= bytes;
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
    if (!job->moved_memory) {
      // Where it is held it stays, and its segment with it.
      context_.shared.catalog.drop(block.digest, block.sequence, Drop::to_make_room);
      continue;
    }
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

void Cleaner::write_ended(std::unique_ptr<Job> job, Status status) {
  SLUICE_KILL_POINT("store.move.written");
  --moving_;
  if (status) return;
  if (compaction_ && compaction_->on_victim && status.error().code != Errc::not_found) {
    compaction_->failed = std::move(status);
    to_move_.clear();
    return;
  }
  const IndexEntry& block = *job->moved;
  context_.shared.catalog.drop(block.digest, block.sequence, Drop::to_make_room);
}

bool Cleaner::try_release() {
  // What came to be in it or was left behind by a failure goes with the segment, unless it is held.
  for (const IndexEntry& block : context_.shared.catalog.blocks_of(context_.device, *victim_)) {
    if (context_.shared.catalog.drop(block.digest, block.sequence, Drop::to_make_room)) continue;
    if (!context_.shared.catalog.peek(block.digest)) continue;
    stuck_until_ = std::chrono::steady_clock::now() + kStuckPause;
    victim_.reset();
    return false;
  }
  if (context_.segments.is_pinned(*victim_)) return false;
  if (!context_.shared.commit.sync()) return false;
  SLUICE_KILL_POINT("store.segment.freeing");
  context_.segments.release(*victim_);
  SLUICE_KILL_POINT("store.segment.freed");
  ++context_.counters.freed_segments;
  victim_.reset();
  return true;
}

}  // namespace sluice::storage
