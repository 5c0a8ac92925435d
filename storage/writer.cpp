#include "storage/writer.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ipc/kill_point.h"
#include "storage/bytes.h"

namespace sluice::storage {
namespace {

// A record that fits, with its header, is one request; a block of 2 MiB does.
constexpr std::uint64_t kPieceBytes = (std::uint64_t{2} << 20) + kPageBytes;
constexpr std::uint32_t kMaxPieces = 32;
// A group is closed when it has so much, or is so old, or nothing more waits.
constexpr std::uint64_t kGroupBytes = std::uint64_t{64} << 20;
constexpr std::chrono::milliseconds kGroupAge{20};

}  // namespace

struct Writer::Op {
  std::unique_ptr<Job> job;
  Group* group = nullptr;
  Place place;
  std::uint64_t sequence = 0;
  PartLayout layout;
  std::uint64_t copied = 0;
  std::vector<std::uint64_t> checksums;
  PartChecksum checksum;
  std::uint64_t part_left = 0;
  int error = 0;
};

struct Writer::Group {
  SegmentIdentity segment;
  IoFile file;
  std::vector<std::unique_ptr<Op>> ops;
  std::uint32_t unanswered = 0;
  std::uint64_t bytes = 0;
  std::uint64_t end_offset = 0;
  std::chrono::steady_clock::time_point since;
  bool closed = false;
  int error = 0;  // of all of it
};

Writer::Writer(DeviceContext& context, std::uint32_t depth, Moved moved)
    : context_(context),
      staging_(context.io.engine(), kPieceBytes, std::clamp(depth, 2U, kMaxPieces)),
      moved_(std::move(moved)) {}

Writer::~Writer() = default;

Status Writer::begin(std::unique_ptr<Job>& job) {
  SLUICE_ASSERT(has_room());
  const std::uint64_t bytes = record_bytes_of(job->payload.size());
  const auto place = context_.segments.take_place(bytes, job->moved.has_value());
  if (!place) {
    if (place.error().code == Errc::no_memory) return std::unexpected(place.error());
    ++context_.counters.io_errors;
    answer(std::move(job), ipc::fail(Errc::io_error, place.error().text));
    return ipc::fail(Errc::io_error, "answered");
  }
  Group& group = group_for(*place);
  group.bytes += bytes;
  group.end_offset = place->offset + bytes;
  auto op = std::make_unique<Op>();
  op->group = &group;
  op->place = *place;
  op->sequence = context_.shared.next_sequence.fetch_add(1);
  op->layout = layout_of(job->payload.size(), context_.part_bytes);
  op->checksums.reserve(op->layout.parts);
  op->part_left = op->layout.bytes_of(0);
  op->job = std::move(job);
  pumping_ = op.get();
  group.ops.push_back(std::move(op));
  if (place->begins_segment) push_segment_page(group, place->segment);
  return {};
}

Writer::Group& Writer::group_for(const Place& place) {
  if (!groups_.empty() && !groups_.back()->closed) {
    if (groups_.back()->segment == place.segment) return *groups_.back();
    groups_.back()->closed = true;
  }
  auto group = std::make_unique<Group>();
  group->segment = place.segment;
  group->file = *context_.segments.file(place.segment.segment);
  group->since = std::chrono::steady_clock::now();
  context_.segments.begin_group(place.segment.segment);
  groups_.push_back(std::move(group));
  return *groups_.back();
}

void Writer::turn(bool more) {
  pump();
  if (!groups_.empty() && !groups_.back()->closed && pumping_ == nullptr && !syncing_) {
    Group& open = *groups_.back();
    const auto age = std::chrono::steady_clock::now() - open.since;
    if (!more || open.bytes >= kGroupBytes || age >= kGroupAge) open.closed = true;
  }
  begin_sync();
}

void Writer::pump() {
  while (pumping_ != nullptr && !staging_.empty() && context_.io.has_room()) pump_piece();
}

void Writer::pump_piece() {
  Op& op = *pumping_;
  const std::uint64_t block_bytes = op.layout.block_bytes;
  const bool whole = record_bytes_of(block_bytes) <= kPieceBytes;
  if (op.copied == block_bytes) return write_header();

  std::byte* piece = staging_.take();
  std::byte* copy = whole ? piece + kPageBytes : piece;
  const std::uint64_t length = std::min(block_bytes - op.copied, kPieceBytes - kPageBytes);
  // Part by part: what is copied is still in the processor's cache when it is read again.
  for (std::uint64_t done = 0; done < length;) {
    const std::uint64_t bytes = std::min(op.part_left, length - done);
    std::memcpy(copy + done, op.job->payload.data() + op.copied + done, bytes);
    op.checksum.add({copy + done, bytes});
    done += bytes;
    op.part_left -= bytes;
    if (op.part_left > 0) continue;
    op.checksums.push_back(op.checksum.value());
    op.checksum.restart();
    const auto next = static_cast<std::uint32_t>(op.checksums.size());
    if (next < op.layout.parts) op.part_left = op.layout.bytes_of(next);
  }
  const std::uint64_t at = op.place.offset + kPageBytes + op.copied;
  op.copied += length;
  if (!whole) return push(op, piece, at, length);
  write_header_page(op, Page(piece, kPageBytes));
  pumping_ = nullptr;
  push(op, piece, op.place.offset, kPageBytes + length);
}

void Writer::write_header() {
  Op& op = *pumping_;
  std::byte* piece = staging_.take();
  write_header_page(op, Page(piece, kPageBytes));
  pumping_ = nullptr;
  push(op, piece, op.place.offset, kPageBytes);
}

void Writer::write_header_page(const Op& op, Page page) {
  RecordFields fields;
  fields.segment = op.place.segment;
  fields.offset = op.place.offset;
  fields.sequence = op.sequence;
  fields.valid_bytes = op.job->valid_bytes;
  fields.written_s = wall_clock_s();
  fields.layout = op.layout;
  fields.encoded_namespace = op.job->encoded_namespace;
  fields.key = op.job->key.view();
  fields.part_checksums = op.checksums;
  write_record_page(fields, page);
}

void Writer::push(Op& op, std::byte* piece, std::uint64_t offset, std::uint64_t length) {
  Group* group = op.group;
  ++group->unanswered;
  context_.io.push({IoOp::write, group->file, offset, piece, length, 0},
                   [this, &op, group, piece](int error) {
                     staging_.give_back(piece);
                     if (error != 0) op.error = error;
                     --group->unanswered;
                     SLUICE_KILL_POINT("store.record.written");
                   });
}

void Writer::push_segment_page(Group& group, const SegmentIdentity& segment) {
  auto memory = std::make_shared<AlignedMemory>(allocate_aligned(kPageBytes));
  if (!*memory) {
    group.error = ENOMEM;
    return;
  }
  write_segment_page(segment, Page(memory->get(), kPageBytes));
  ++group.unanswered;
  context_.io.push({IoOp::write, group.file, 0, memory->get(), kPageBytes, 0},
                   [&group, memory](int error) {
                     if (error != 0) group.error = error;
                     --group.unanswered;
                   });
}

void Writer::begin_sync() {
  while (!syncing_ && !groups_.empty() && groups_.front()->closed &&
         groups_.front()->unanswered == 0) {
    Group& group = *groups_.front();
    const auto failed = [](const std::unique_ptr<Op>& op) { return op->error != 0; };
    if (group.error != 0 || std::ranges::all_of(group.ops, failed)) {
      end_group(group);
      continue;
    }
    SLUICE_KILL_POINT("store.record.syncing");
    syncing_ = true;
    ++context_.counters.syncs;
    context_.io.push({IoOp::sync, group.file, 0, nullptr, 0, 0},
                     [this](int error) { synced(error); });
  }
}

void Writer::synced(int error) {
  SLUICE_KILL_POINT("store.record.synced");
  syncing_ = false;
  if (error != 0) groups_.front()->error = error;
  end_group(*groups_.front());
}

// Whether what was written before a failed sync reached the disk cannot be known any more, and
// without its page a segment is not found again: both hold for the groups behind this one too.
void Writer::give_up_segment(const Group& group) {
  for (const auto& other : groups_) {
    if (other->segment == group.segment) other->error = group.error;
  }
  context_.segments.seal(group.segment.segment);
}

void Writer::end_group(Group& group) {
  if (group.error != 0) give_up_segment(group);
  std::vector<DurableRecord> durable;
  std::vector<Op*> written;
  for (const auto& op : group.ops) {
    if (group.error != 0) op->error = group.error;
    if (context_.counters.taken_out) op->error = ENODEV;
    if (op->error != 0) continue;
    DurableRecord& record = durable.emplace_back();
    record.moved_from = op->job->moved ? std::optional(op->job->moved->sequence) : std::nullopt;
    IndexEntry& entry = record.entry;
    entry.digest = op->job->digest;
    entry.sequence = op->sequence;
    entry.segment_sequence = group.segment.sequence;
    entry.device = context_.device;
    entry.segment = group.segment.segment;
    entry.offset_pages = static_cast<std::uint32_t>(op->place.offset / kIoAlign);
    entry.block_pages = static_cast<std::uint32_t>(op->layout.block_bytes / kIoAlign);
    entry.part_pages = static_cast<std::uint32_t>(op->layout.part_bytes / kIoAlign);
    entry.valid_bytes = static_cast<std::uint32_t>(op->job->valid_bytes);
    entry.tenant = op->job->tenant;
    entry.last_use_s = op->job->moved ? op->job->moved->last_use_s : wall_clock_s();
    written.push_back(op.get());
  }
  const Checkpoint checkpoint{group.segment.sequence, group.end_offset, false};
  Status told;
  if (!durable.empty()) told = context_.shared.commit.commit(context_.device, durable, checkpoint);
  if (told && !durable.empty()) {
    // Recovery reads little more than one segment.
    const bool next_segment = checkpoint_.segment_sequence != checkpoint.segment_sequence;
    checkpoint_ = checkpoint;
    if (next_segment) static_cast<void>(context_.shared.commit.sync());
  }
  context_.segments.end_group(group.segment.segment);
  // Of one record alone: its header may be on the disk, and those of others would be behind that of
  // what is written over it.
  if (const Op& only = *group.ops.front(); group.ops.size() == 1 && only.error != 0) {
    context_.segments.take_back(group.segment, only.place.offset,
                                record_bytes_of(only.layout.block_bytes));
  }

  const std::unique_ptr<Group> ended = std::move(groups_.front());
  groups_.pop_front();
  for (std::size_t i = 0; i < written.size(); ++i) {
    const std::uint64_t bytes = record_bytes(durable[i].entry);
    context_.counters.written_bytes += bytes;
    if (written[i]->job->moved) context_.counters.cleaned_bytes += bytes;
    Status status = told;
    if (told && !durable[i].exists) {
      status = ipc::fail(Errc::not_found, "the block was forgotten while it was written");
    }
    answer(std::move(written[i]->job), status);
  }
  for (const auto& op : ended->ops) {
    if (op->job)
      answer(std::move(op->job), std::unexpected(context_.io_failed("a write", op->error)));
  }
}

void Writer::answer(std::unique_ptr<Job> job, const Status& status) {
  if (job->moved) return moved_(std::move(job), status);
  for (Done& done : context_.shared.catalog.end_write(job->digest)) done(status);
}

}  // namespace sluice::storage
