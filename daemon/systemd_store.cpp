// systemd's fd store (sd_notify(3), FDSTORE=1), without libsystemd.
#include <fcntl.h>
#include <unistd.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

#include "daemon/descriptor_store.h"
#include "daemon/systemd.h"

namespace sluice::daemon {

using ipc::Errc;
using ipc::fail;

namespace {

// SD_LISTEN_FDS_START.
constexpr int kFirstListenFd = 3;
constexpr std::size_t kMaxListenFds = std::size_t{1} << 20;
// Names come back in one environment variable, and no process can be started with a string beyond
// the kernel's MAX_ARG_STRLEN: a unit whose names did not fit would never start again. Some room is
// for names that others gave.
constexpr std::size_t kMaxNamesBytes = (std::size_t{128} << 10) - 4096;
// systemd reads nothing while it reloads its units, and its queue is short.
constexpr std::chrono::seconds kStorePatience{5};

std::string_view text_from_environment(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? std::string_view() : text;
}

// nullopt: no number, or none that makes sense.
std::optional<std::size_t> count_in(std::string_view text, std::size_t most) {
  std::size_t count = 0;
  const auto [stop, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc() || stop != text.data() + text.size() || count > most) {
    return std::nullopt;
  }
  return count;
}

std::vector<std::string> split_names(std::string_view text) {
  std::vector<std::string> names;
  while (true) {
    const auto colon = text.find(':');
    names.emplace_back(text.substr(0, colon));
    if (colon == std::string_view::npos) return names;
    text.remove_prefix(colon + 1);
  }
}

// The descriptors that systemd left open in this process. Those under names that are none of ours
// (a socket unit's, say) are closed.
ipc::Result<std::vector<KeptDescriptor>> inherited_descriptors() {
  std::vector<KeptDescriptor> all;
  const auto listen_pid =
      count_in(text_from_environment("LISTEN_PID"), std::size_t{std::numeric_limits<pid_t>::max()});
  if (listen_pid != static_cast<std::size_t>(getpid())) return all;
  const auto text = text_from_environment("LISTEN_FDS");
  const auto count = count_in(text, kMaxListenFds);
  if (!count) {
    return fail(Errc::invalid_argument,
                "LISTEN_FDS is \"" + std::string(text) + "\", which is no number of descriptors");
  }
  if (*count == 0) return all;
  auto names = split_names(text_from_environment("LISTEN_FDNAMES"));
  if (names.size() != *count) {
    return fail(Errc::invalid_argument, "LISTEN_FDNAMES has " + std::to_string(names.size()) +
                                            " names for " + std::to_string(*count) +
                                            " descriptors");
  }
  for (std::size_t i = 0; i < *count; ++i) {
    ipc::Fd fd(kFirstListenFd + static_cast<int>(i));
    if (fcntl(fd.get(), F_SETFD, FD_CLOEXEC) != 0) {
      const int number = fd.release();
      return fail(Errc::invalid_argument, "LISTEN_FDS is " + std::to_string(*count) +
                                              ", but descriptor " + std::to_string(number) +
                                              " is not open");
    }
    if (keeper::is_valid_name(names[i])) all.push_back({std::move(names[i]), std::move(fd)});
  }
  return all;
}

class SystemdStore final : public DescriptorStore {
 public:
  SystemdStore(SystemdNotifier systemd, std::vector<KeptDescriptor> inherited, std::size_t most)
      : systemd_(std::move(systemd)), inherited_(std::move(inherited)), most_(most) {
    for (const KeptDescriptor& kept : inherited_) add(kept.name);
  }

  ipc::Result<std::vector<KeptDescriptor>> take() override {
    const std::lock_guard lock(mutex_);
    if (std::exchange(is_in_use_, true)) {
      return fail(Errc::wrong_state, "what is kept is taken once, before anything is put");
    }
    return std::exchange(inherited_, {});
  }

  ipc::Status put(std::string_view name, int fd) override {
    if (auto ok = check_put(name, fd); !ok) return ok;
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    if (names_.contains(name)) {
      return fail(Errc::wrong_state, "a descriptor is kept as " + std::string(name) + " already");
    }
    if (names_.size() >= most_) {
      return fail(Errc::limit_reached, "systemd's fd store of this unit holds " +
                                           std::to_string(most_) +
                                           " descriptors; raise FileDescriptorStoreMax");
    }
    if (names_bytes_ + name.size() + 1 > kMaxNamesBytes) {
      return fail(Errc::limit_reached,
                  "the names of " + std::to_string(names_.size()) +
                      " descriptors are all that systemd can hand over to the next daemon");
    }
    if (auto sent = systemd_.store_descriptor(name, fd); !sent) return sent;
    add(name);
    return {};
  }

  ipc::Status remove(std::string_view name) override {
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    const auto found = names_.find(name);
    if (found == names_.end()) return {};
    return drop(found);
  }

  ipc::Status clear() override {
    const std::lock_guard lock(mutex_);
    is_in_use_ = true;
    inherited_.clear();
    while (!names_.empty()) {
      if (auto dropped = drop(names_.begin()); !dropped) return dropped;
    }
    return {};
  }

  ipc::Status look() override { return {}; }

  std::string describe() const override { return "systemd"; }

 private:
  using Names = std::set<std::string, std::less<>>;

  void add(std::string_view name) {
    if (names_.emplace(name).second) names_bytes_ += name.size() + 1;
  }

  ipc::Status drop(Names::const_iterator name) {
    if (auto sent = systemd_.remove_descriptor(*name); !sent) return sent;
    names_bytes_ -= name->size() + 1;
    names_.erase(name);
    return {};
  }

  std::mutex mutex_;
  const SystemdNotifier systemd_;
  std::vector<KeptDescriptor> inherited_;
  Names names_;
  std::size_t names_bytes_ = 0;  // with a separator each
  const std::size_t most_;
  bool is_in_use_ = false;
};

}  // namespace

ipc::Result<DescriptorStorePtr> open_systemd_store() {
  // Before anything is opened here, which would look like one of them.
  auto inherited = inherited_descriptors();
  if (!inherited) return std::unexpected(std::move(inherited.error()));
  auto systemd = SystemdNotifier::from_environment(kStorePatience);
  if (!systemd) return std::unexpected(std::move(systemd.error()));
  const auto granted = text_from_environment("FDSTORE");
  // Before version 254 systemd does not tell; what it hands over shows that it keeps some.
  std::size_t most = inherited->empty() ? 0 : kMaxListenFds;
  if (!granted.empty()) {
    const auto limit = count_in(granted, std::numeric_limits<std::size_t>::max());
    if (!limit) {
      return fail(Errc::invalid_argument,
                  "FDSTORE is \"" + std::string(granted) + "\", which is no number of descriptors");
    }
    most = *limit;
  }
  if (!systemd->active() || most == 0) {
    return fail(Errc::not_supported, "systemd keeps no descriptors for this process");
  }
  return std::make_unique<SystemdStore>(std::move(*systemd), std::move(*inherited), most);
}

}  // namespace sluice::daemon
