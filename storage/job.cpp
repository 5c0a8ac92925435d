#include "storage/job.h"

#include <algorithm>
#include <utility>

namespace sluice::storage {

Key::Key(std::span<const std::byte> key) : size(key.size()) {
  SLUICE_ASSERT(key.size() <= kMaxKeyBytes);
  std::ranges::copy(key, bytes.begin());
}

void JobQueue::push(std::unique_ptr<Job> job) {
  Class& own = classes_[index(job->io_class)];
  Tenant& tenant = own.tenants[job->tenant];
  if (tenant.jobs.empty()) tenant.served = std::max(tenant.served, own.now);
  tenant.jobs.push_back(std::move(job));
  ++own.count;
}

void JobQueue::hurry(std::uint32_t tenant, const Digest& digest) {
  Class& forecasts = classes_[index(IoClass::forecast)];
  const auto own = forecasts.tenants.find(tenant);
  if (own == forecasts.tenants.end()) return;
  auto& jobs = own->second.jobs;
  const std::size_t before = forecasts.count;
  for (std::unique_ptr<Job>& job : jobs) {
    if (job->digest != digest) continue;
    job->io_class = IoClass::must_have;
    push(std::move(job));
    --forecasts.count;
  }
  if (forecasts.count != before) std::erase(jobs, nullptr);
}

std::size_t JobQueue::count() const {
  std::size_t all = 0;
  for (const Class& one : classes_) all += one.count;
  return all;
}

std::unique_ptr<Job> JobQueue::pop(IoClass io_class) {
  Class& own = classes_[index(io_class)];
  if (own.count == 0) return nullptr;
  const auto next = std::ranges::min_element(own.tenants, {}, [](const auto& tenant) {
    return std::pair(tenant.second.jobs.empty(), tenant.second.served);
  });
  Tenant& tenant = next->second;
  std::unique_ptr<Job> job = std::move(tenant.jobs.front());
  tenant.jobs.pop_front();
  --own.count;
  own.now = tenant.served;
  tenant.served += static_cast<double>(job->bytes()) / job->weight;
  return job;
}

}  // namespace sluice::storage
