#include "storage/device.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "storage/cleaner.h"
#include "storage/reader.h"
#include "storage/writer.h"

namespace sluice::storage {
namespace {

// How long the thread sleeps at most: it looks for stalls and for news that the index should have.
constexpr std::chrono::milliseconds kLongestSleep{100};
// The error budget is of so long.
constexpr std::chrono::minutes kBudgetPeriod{10};
// Of the bytes that are served while others wait, cleaning gets this part.
constexpr std::uint64_t kCleaningShare = 8;

// One read of so many is a forecast's before those that are urgent: a step may be waiting for it by
// now.
constexpr std::uint32_t kForecastTurn = 4;

// Urgent reads first, and whatever writes behind all reads.
struct Order {
  bool forecast_first = false;
  bool cleaning_first = false;          // before the reads, too
  bool cleaning_before_writes = false;  // of others

  std::array<IoClass, kIoClasses> classes() const {
    const IoClass first = forecast_first ? IoClass::forecast : IoClass::must_have;
    const IoClass second = forecast_first ? IoClass::must_have : IoClass::forecast;
    if (cleaning_before_writes) return {first, second, IoClass::cleaning, IoClass::write_back};
    if (cleaning_first) return {IoClass::cleaning, first, second, IoClass::write_back};
    return {first, second, IoClass::write_back, IoClass::cleaning};
  }
};

}  // namespace

std::uint32_t wall_clock_s() {
  return static_cast<std::uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                        std::chrono::system_clock::now().time_since_epoch())
                                        .count());
}

Error DeviceContext::io_failed(const char* what, int error) const {
  const std::string text =
      std::string(what) + " on " + name + " failed: " + std::generic_category().message(error);
  // A full disk is not a broken one.
  if (error == ENOSPC || error == EDQUOT) return {Errc::no_memory, text};
  ++counters.io_errors;
  return {Errc::io_error, text};
}

struct Device::Thread {
  DeviceSetup setup;
  DeviceCounters& counters;
  IoQueue io;
  Segments segments;
  DeviceContext context;
  JobQueue reads;
  JobQueue writes;
  Cleaner cleaner;
  Reader reader;
  Writer writer;
  std::unique_ptr<Job> blocked;  // a write that waits for space
  bool blocked_now = false;      // since the cleaner had its turn
  std::uint64_t served_bytes = 0;
  std::uint64_t served_cleaning_bytes = 0;
  std::uint32_t reads_begun = 0;
  std::chrono::steady_clock::time_point looked_at;
  std::chrono::steady_clock::time_point budget_since = std::chrono::steady_clock::now();
  std::uint64_t errors_before = 0;

  mutable std::mutex mutex;
  std::vector<std::unique_ptr<Job>> inbox;
  bool stopping = false;
  std::string taken_out_why;
  std::thread::id id;  // of the thread, once it runs

  std::thread thread;

  Thread(DeviceSetup what, StoreShared shared, DeviceCounters& count)
      : setup(std::move(what)),
        counters(count),
        io(*setup.engine),
        segments(std::move(setup.segments), io),
        context{segments.device(),
                segments.directory().string(),
                setup.part_bytes,
                shared,
                io,
                segments,
                count},
        cleaner(context, reads, writes),
        reader(context, setup.depth,
               [this](std::unique_ptr<Job> job, Status status) {
                 cleaner.read_ended(std::move(job), std::move(status));
               }),
        writer(context, setup.depth, [this](const std::unique_ptr<Job>& /*moved*/, Status status) {
          cleaner.write_ended(std::move(status));
        }) {}

  void run();
  bool take_inbox();
  bool posted_to_itself() const;
  void start_jobs();
  bool start_next();
  void start_write(std::unique_ptr<Job> job);
  void retry_blocked();
  void refuse(std::unique_ptr<Job> job, const Status& status);
  void refuse_all(const Status& status);
  void look_after_device();
  void take_out(std::string why);
  void count();
};

void Device::Thread::run() {
  {
    const std::lock_guard lock(mutex);
    id = std::this_thread::get_id();
  }
  bool stop = false;
  while (!stop || !io.idle() || !writer.idle() || !reads.empty() || !writes.empty()) {
    stop = take_inbox();
    if (stop) {
      const Status closing = ipc::fail(Errc::shutting_down, "the store is closing");
      cleaner.stop(closing);
      refuse_all(closing);
    } else if (counters.taken_out) {
      const Status gone = ipc::fail(Errc::io_error, "the device was taken out: " + taken_out_why);
      cleaner.stop(gone);
      refuse_all(gone);
    } else {
      retry_blocked();
      start_jobs();
    }
    writer.turn(!writes.empty());
    if (!stop) look_after_device();
    count();
    // Nothing would end the last wait of a device that stops, or a wait beside jobs of its own, or
    // before space is made for a write that came just now.
    const bool at_once =
        (stop && io.idle()) || posted_to_itself() || std::exchange(blocked_now, false);
    io.turn(at_once ? std::chrono::milliseconds(0) : kLongestSleep);
    writer.turn(!writes.empty());
  }
  if (counters.taken_out) return;
  std::vector<DurableRecord> none;
  Checkpoint last = writer.checkpoint();
  if (last.segment_sequence == 0) last = setup.checkpoint;
  last.clean = true;
  // Without it the next run reads more of the segments.
  static_cast<void>(context.shared.commit.commit(context.device, none, last));
}

bool Device::Thread::take_inbox() {
  std::vector<std::unique_ptr<Job>> taken;
  bool stop = false;
  {
    const std::lock_guard lock(mutex);
    taken.swap(inbox);
    stop = stopping;
  }
  for (std::unique_ptr<Job>& job : taken) {
    if (job->kind == Job::Kind::answer) {
      job->done(std::move(job->status));
    } else if (job->kind == Job::Kind::compact) {
      cleaner.compact(job->least_live, std::move(job->done));
    } else if (job->kind == Job::Kind::read) {
      reads.push(std::move(job));
    } else if (job->kind == Job::Kind::hurry) {
      reads.hurry(job->tenant, job->digest);
    } else {
      writes.push(std::move(job));
    }
  }
  return stop;
}

// Completions of jobs may post the next one, for which nobody wakes the thread.
bool Device::Thread::posted_to_itself() const {
  const std::lock_guard lock(mutex);
  return !inbox.empty();
}

void Device::Thread::start_jobs() {
  while (io.has_room() && start_next()) writer.turn(true);
}

bool Device::Thread::start_next() {
  const Order order{reads_begun % kForecastTurn == kForecastTurn - 1,
                    served_cleaning_bytes * kCleaningShare < served_bytes, blocked != nullptr};
  for (const IoClass io_class : order.classes()) {
    std::unique_ptr<Job> job;
    if (reader.has_room()) job = reads.pop(io_class);
    // A write that waits for space lets only moves pass, which make it.
    if (!job && writer.has_room() && (!blocked || io_class == IoClass::cleaning)) {
      job = writes.pop(io_class);
    }
    if (!job) continue;
    served_bytes += job->bytes();
    if (io_class == IoClass::cleaning) served_cleaning_bytes += job->bytes();
    if (job->kind == Job::Kind::read) {
      ++reads_begun;
      reader.begin(std::move(job));
    } else {
      start_write(std::move(job));
    }
    return true;
  }
  return false;
}

void Device::Thread::start_write(std::unique_ptr<Job> job) {
  const Status begun = writer.begin(job);
  if (begun || !job) return;
  if (job->moved) return writer.answer(std::move(job), begun);
  blocked = std::move(job);
  blocked_now = true;
}

void Device::Thread::retry_blocked() {
  const bool makes_progress = cleaner.turn(blocked != nullptr);
  if (!blocked || !writer.has_room()) return;
  const Status begun = writer.begin(blocked);
  if (begun || !blocked || makes_progress || !writer.idle() || segments.discarding()) return;
  context.shared.catalog.count_refused(blocked->tenant);
  refuse(std::move(blocked), begun);
}

void Device::Thread::refuse(std::unique_ptr<Job> job, const Status& status) {
  if (job->kind == Job::Kind::write) return writer.answer(std::move(job), status);
  if (job->moved) return cleaner.read_ended(std::move(job), status);
  job->done(status);
}

void Device::Thread::refuse_all(const Status& status) {
  if (blocked) refuse(std::move(blocked), status);
  for (const IoClass io_class : Order{}.classes()) {
    while (auto job = reads.pop(io_class)) refuse(std::move(job), status);
    while (auto job = writes.pop(io_class)) refuse(std::move(job), status);
  }
}

void Device::Thread::look_after_device() {
  const auto now = std::chrono::steady_clock::now();
  if (now - budget_since >= kBudgetPeriod) {
    budget_since = now;
    errors_before = counters.io_errors;
  }
  const std::uint64_t errors = counters.io_errors - errors_before;
  if (!counters.taken_out && errors >= setup.error_budget) {
    take_out(std::to_string(errors) + " io errors within minutes");
  }
  if (now - looked_at < kLongestSleep) return;
  looked_at = now;
  if (!counters.taken_out && io.in_flight() > 0 && io.oldest() >= setup.stall_timeout) {
    take_out("a request has not been answered for " + std::to_string(io.oldest().count()) + " ms");
  }
  // Refused: the index is told later, or with the next batch.
  if (io.idle()) static_cast<void>(context.shared.commit.tell_news());
}

void Device::Thread::take_out(std::string why) {
  {
    const std::lock_guard lock(mutex);
    taken_out_why = std::move(why);
  }
  counters.taken_out.store(true, std::memory_order_release);
  context.shared.catalog.drop_device(context.device);
}

void Device::Thread::count() {
  counters.queued = reads.count() + writes.count() + (blocked ? 1 : 0);
  counters.in_flight = io.in_flight();
  counters.segments = segments.existing();
  counters.direct = segments.direct();
}

Device::Device(DeviceSetup setup, StoreShared shared)
    : thread_(std::make_unique<Thread>(std::move(setup), shared, counters_)) {
  thread_->thread = std::thread([this] { thread_->run(); });
}

Device::~Device() { SLUICE_ASSERT(!thread_->thread.joinable()); }

std::unique_ptr<Job> Device::post(std::unique_ptr<Job> job) {
  bool to_itself = false;
  {
    const std::lock_guard lock(thread_->mutex);
    if (thread_->stopping) return job;
    thread_->inbox.push_back(std::move(job));
    to_itself = std::this_thread::get_id() == thread_->id;
  }
  if (!to_itself) thread_->io.wake();
  return nullptr;
}

void Device::stop() {
  {
    const std::lock_guard lock(thread_->mutex);
    thread_->stopping = true;
  }
  thread_->io.wake();
  thread_->thread.join();
}

std::uint64_t Device::capacity_bytes() const { return thread_->setup.capacity_bytes; }

std::uint32_t Device::number() const { return thread_->context.device; }

DeviceStats Device::stats() const {
  const Thread& own = *thread_;
  DeviceStats stats;
  stats.directory = own.segments.directory();
  stats.engine = own.setup.engine->name();
  stats.engine_why = own.setup.engine_why;
  stats.taken_out = counters_.taken_out;
  {
    const std::lock_guard lock(own.mutex);
    stats.taken_out_why = own.taken_out_why;
  }
  stats.direct = counters_.direct;
  stats.capacity_bytes = own.setup.capacity_bytes;
  stats.segment_bytes = own.segments.segment_bytes();
  stats.segment_count = counters_.segments;
  stats.live_bytes = own.context.shared.catalog.live_bytes(own.context.device);
  stats.read_bytes = counters_.read_bytes;
  stats.written_bytes = counters_.written_bytes;
  stats.cleaned_bytes = counters_.cleaned_bytes;
  stats.freed_segments = counters_.freed_segments;
  stats.io_errors = counters_.io_errors;
  stats.checksum_errors = counters_.checksum_errors;
  stats.syncs = counters_.syncs;
  stats.queued = counters_.queued;
  stats.in_flight = counters_.in_flight;
  return stats;
}

}  // namespace sluice::storage
