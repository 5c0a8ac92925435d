#include "tools/bench/cuda/readers.h"

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "tools/bench/cuda/decode_kernels.h"
#include "tools/bench/cuda/kernels.h"

namespace sluice::tools::cuda {
namespace {

constexpr std::size_t kReadBytes = std::size_t{4} << 30;
constexpr std::uint32_t kSequences = 64;
constexpr auto kPages = static_cast<std::uint32_t>(kReadBytes / kDecodePageBytes);
constexpr std::uint32_t kSeed = 20;

class PagedAttention final : public Reader {
 public:
  ipc::Status open();
  const char* name() const override { return "paged attention"; }
  std::size_t bytes() const override { return kReadBytes; }
  int launch(cudaStream_t stream) override { return attend(attention_, stream); }

 private:
  ipc::Status fill();

  Attention attention_;
  DeviceArray<std::byte> pages_;
  DeviceArray<std::int32_t> slots_;
  DeviceArray<std::uint32_t> counts_;
  DeviceArray<std::uint16_t> queries_;
  DeviceArray<std::uint16_t> out_;
  DeviceArray<float> partials_;
};

template <class T>
ipc::Status take(DeviceArray<T>& to, ipc::Result<DeviceArray<T>> made) {
  if (!made) return std::unexpected(std::move(made.error()));
  to = std::move(*made);
  return {};
}

ipc::Status PagedAttention::fill() {
  if (auto ok = check(load_decode_kernels(), "loading kernels"); !ok) return ok;
  if (auto ok = check(fill_pages(pages_.data(), kPages, 0, nullptr), "filling pages"); !ok) {
    return ok;
  }
  return check(cudaDeviceSynchronize(), "filling pages");
}

ipc::Status PagedAttention::open() {
  int sms = 0;
  if (auto ok = check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0),
                      "cudaDeviceGetAttribute of the SMs");
      !ok) {
    return ok;
  }
  std::vector<std::int32_t> slots(kPages);
  std::iota(slots.begin(), slots.end(), 0);
  std::ranges::shuffle(slots, std::mt19937(kSeed));
  const std::size_t numbers = std::size_t{kSequences} * kDecodeQueryHeads * kDecodeHeadDim;
  attention_.sequences = kSequences;
  attention_.capacity = kPages / kSequences;
  attention_.splits = attention_splits(kSequences, static_cast<unsigned>(sms));
  const std::size_t partials = attention_partials(kSequences, attention_.splits);
  using Bytes = DeviceArray<std::byte>;
  using Numbers = DeviceArray<std::uint16_t>;
  const std::vector<std::uint32_t> counts(kSequences, attention_.capacity);
  for (ipc::Status ok : {take(pages_, Bytes::make(kReadBytes, "pages that attention reads")),
                         take(slots_, DeviceArray<std::int32_t>::of(slots, "slots of pages")),
                         take(counts_, DeviceArray<std::uint32_t>::of(counts, "pages of lists")),
                         take(queries_, Numbers::make(numbers, "queries")),
                         take(out_, Numbers::make(numbers, "outputs")),
                         take(partials_, DeviceArray<float>::make(partials, "partial sums"))}) {
    if (!ok) return ok;
  }
  attention_.pages = pages_.data();
  attention_.slots = slots_.data();
  attention_.counts = counts_.data();
  attention_.queries = queries_.data();
  attention_.out = out_.data();
  attention_.partials = partials_.data();
  return fill();
}

class TileReader final : public Reader {
 public:
  ipc::Status open() {
    if (auto ok = take(buffer_, DeviceArray<std::byte>::make(kReadBytes, "what is read")); !ok) {
      return ok;
    }
    return take(sink_, DeviceArray<unsigned>::make(1, "a word"));
  }
  const char* name() const override { return "tiles"; }
  std::size_t bytes() const override { return kReadBytes; }
  int launch(cudaStream_t stream) override {
    return attend(buffer_.data(), kReadBytes, sink_.data(), stream);
  }

 private:
  DeviceArray<std::byte> buffer_;
  DeviceArray<unsigned> sink_;
};

template <class Kind>
ipc::Result<std::unique_ptr<Reader>> make_reader() {
  auto reader = std::make_unique<Kind>();
  if (auto ok = reader->open(); !ok) return std::unexpected(std::move(ok.error()));
  return reader;
}

}  // namespace

ipc::Result<std::unique_ptr<Reader>> make_paged_attention() {
  return make_reader<PagedAttention>();
}

ipc::Result<std::unique_ptr<Reader>> make_tile_reader() { return make_reader<TileReader>(); }

}  // namespace sluice::tools::cuda
