#include "storage/reader.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "storage/bytes.h"

namespace sluice::storage {
namespace {

// So that one large block does not hold the device against others.
constexpr std::uint64_t kMaxRequestBytes = std::uint64_t{2} << 20;

}  // namespace

struct Reader::Op {
  std::unique_ptr<Job> job;
  IndexEntry entry;
  SegmentIdentity segment;
  IoFile file;
  PartLayout layout;
  std::byte* page = nullptr;  // the header; null: it is known
  HeaderPtr header;
  bool pinned = false;
  // The parts that the range touches.
  std::uint32_t first = 0;
  std::uint32_t end = 0;
  // Private memory of a part: not wanted whole, or being read again. By part - first.
  std::vector<AlignedMemory> own;
  std::uint32_t unanswered = 0;
  int error = 0;
  bool again = false;  // every part that is still unverified was read again
  std::vector<std::uint32_t> unverified;

  std::uint64_t begin_of(std::uint32_t part) const { return part * layout.part_bytes; }
  std::uint64_t end_of(std::uint32_t part) const { return begin_of(part) + layout.bytes_of(part); }
  bool wanted_whole(std::uint32_t part) const {
    return begin_of(part) >= job->offset && end_of(part) <= job->offset + job->to.size();
  }
  std::span<std::byte> caller_memory(std::uint64_t from, std::uint64_t to) const {
    return job->to.subspan(from - job->offset, to - from);
  }
  std::span<std::byte> memory_of(std::uint32_t part) const {
    if (own[part - first]) return {own[part - first].get(), layout.bytes_of(part)};
    return caller_memory(begin_of(part), end_of(part));
  }
};

Reader::Reader(DeviceContext& context, std::uint32_t depth, Moved moved)
    : context_(context), pages_(context.io.engine(), kPageBytes, depth), moved_(std::move(moved)) {}

void Reader::begin(std::unique_ptr<Job> job) {
  const auto op = std::make_shared<Op>();
  op->job = std::move(job);
  if (Status prepared = prepare(*op); !prepared) return end(*op, std::move(prepared));
  context_.segments.pin(op->entry.segment);
  op->pinned = true;
  if (!op->header) {
    op->page = pages_.take();
    push(op, std::uint64_t{op->entry.offset_pages} * kIoAlign, {op->page, kPageBytes});
  }
  push_parts(op);
}

// Where the block is now, which may be another place than when it was found.
Status Reader::prepare(Op& op) {
  const Job& job = *op.job;
  const auto entry = context_.shared.catalog.peek(job.digest);
  if (!entry || entry->device != context_.device ||
      std::uint64_t{entry->block_pages} * kIoAlign != job.block_bytes ||
      (job.moved && job.moved->sequence != entry->sequence)) {
    return ipc::fail(Errc::not_found, "the block does not exist any more");
  }
  op.entry = *entry;
  // What moves, moves with its page.
  if (!job.moved) op.header = headers_.find(*entry);
  if (op.header && !op.header->is_of(job.encoded_namespace, job.key)) op.header = nullptr;
  op.segment = context_.segments.identity(entry->segment);
  const auto file = context_.segments.file(entry->segment);
  if (!file) {
    ++context_.counters.io_errors;
    context_.shared.catalog.drop(entry->digest, entry->sequence, Drop::lost);
    return ipc::fail(Errc::io_error, file.error().text);
  }
  op.file = *file;
  op.layout = layout_of(job.block_bytes, std::uint64_t{entry->part_pages} * kIoAlign);
  op.first = static_cast<std::uint32_t>(job.offset / op.layout.part_bytes);
  op.end = static_cast<std::uint32_t>((job.offset + job.to.size() - 1) / op.layout.part_bytes) + 1;
  op.own.resize(op.end - op.first);
  for (std::uint32_t part = op.first; part < op.end; ++part) {
    op.unverified.push_back(part);
    if (op.wanted_whole(part)) continue;
    op.own[part - op.first] = allocate_aligned(op.layout.bytes_of(part));
    if (!op.own[part - op.first]) return ipc::fail(Errc::io_error, "no memory to read a part");
  }
  return {};
}

void Reader::push_parts(const OpPtr& op) {
  const std::uint64_t payload = (std::uint64_t{op->entry.offset_pages} + 1) * kIoAlign;
  for (std::uint32_t part = op->first; part < op->end; ++part) {
    if (op->own[part - op->first]) {
      push(op, payload + op->begin_of(part), op->memory_of(part));
      continue;
    }
    // Parts beside each other on the disk are so in the caller's memory.
    std::uint32_t last = part;
    while (last + 1 < op->end && !op->own[last + 1 - op->first] &&
           op->end_of(last + 1) - op->begin_of(part) <= kMaxRequestBytes) {
      ++last;
    }
    push(op, payload + op->begin_of(part), op->caller_memory(op->begin_of(part), op->end_of(last)));
    part = last;
  }
}

void Reader::push(const OpPtr& op, std::uint64_t offset, std::span<std::byte> to) {
  ++op->unanswered;
  context_.io.push({IoOp::read, op->file, offset, to.data(), to.size(), 0},
                   [this, op](int error) { answered(op, error); });
}

void Reader::answered(const OpPtr& op, int error) {
  if (error != 0) op->error = error;
  if (--op->unanswered > 0) return;
  if (op->error != 0) {
    // What cannot be read now is a miss from now on: the next one would wait for the disk as well.
    context_.shared.catalog.drop(op->entry.digest, op->entry.sequence, Drop::lost);
    return end(*op, std::unexpected(context_.io_failed("a read", op->error)));
  }
  verify(op);
}

Result<HeaderPtr> Reader::verified_header(const Op& op) const {
  const Job& job = *op.job;
  const auto fields = parse_record_page(ConstPage(op.page, kPageBytes), op.segment,
                                        std::uint64_t{op.entry.offset_pages} * kIoAlign,
                                        context_.segments.segment_bytes());
  if (!fields) return std::unexpected(fields.error());
  if (fields->sequence != op.entry.sequence ||
      fields->layout.block_bytes != op.layout.block_bytes ||
      fields->layout.part_bytes != op.layout.part_bytes) {
    return ipc::fail(Errc::data_lost, "another record is in its place");
  }
  if (!job.moved && (fields->encoded_namespace != job.encoded_namespace ||
                     !std::ranges::equal(fields->key, job.key.view()))) {
    return ipc::fail(Errc::data_lost, "the record of another block is in its place");
  }
  return std::make_shared<const VerifiedHeader>(*fields);
}

void Reader::verify(const OpPtr& op) {
  Status good;
  if (!op->header) {
    auto header = verified_header(*op);
    if (header) {
      op->header = std::move(*header);
      if (!op->job->moved) headers_.keep(op->entry, op->header);
    } else {
      good = std::unexpected(header.error());
    }
  }
  if (good) {
    std::erase_if(op->unverified, [&](std::uint32_t part) {
      return checksum_of(op->memory_of(part)) == op->header->part_checksums[part];
    });
    if (!op->unverified.empty() && !op->again) {
      op->again = true;
      for (const std::uint32_t part : op->unverified) read_again(op, part);
      if (op->unanswered > 0) return;
    }
    if (!op->unverified.empty()) {
      good = ipc::fail(Errc::data_lost, "a part does not match its checksum");
    }
  }
  if (!good) {
    ++context_.counters.checksum_errors;
    context_.shared.catalog.drop(op->entry.digest, op->entry.sequence, Drop::lost);
    return end(*op, std::move(good));
  }
  for (std::uint32_t part = op->first; part < op->end; ++part) {
    if (!op->own[part - op->first]) continue;
    const std::uint64_t from = std::max(op->begin_of(part), op->job->offset);
    const std::uint64_t to = std::min(op->end_of(part), op->job->offset + op->job->to.size());
    std::memcpy(op->caller_memory(from, to).data(),
                op->own[part - op->first].get() + (from - op->begin_of(part)), to - from);
  }
  if (op->job->moved) {
    std::memcpy(op->job->moved_memory.get(), op->page, kPageBytes);
  } else {
    context_.shared.catalog.count_read(op->entry.tenant, op->job->to.size());
  }
  context_.counters.read_bytes += op->job->to.size();
  end(*op, {});
}

void Reader::read_again(const OpPtr& op, std::uint32_t part) {
  AlignedMemory& own = op->own[part - op->first];
  if (!own) own = allocate_aligned(op->layout.bytes_of(part));
  if (!own) return;
  push(op, (std::uint64_t{op->entry.offset_pages} + 1) * kIoAlign + op->begin_of(part),
       {own.get(), op->layout.bytes_of(part)});
}

void Reader::end(Op& op, Status status) {
  if (op.page != nullptr) pages_.give_back(op.page);
  if (op.pinned) context_.segments.unpin(op.entry.segment);
  if (op.job->moved) return moved_(std::move(op.job), std::move(status));
  op.job->done(std::move(status));
}

}  // namespace sluice::storage
