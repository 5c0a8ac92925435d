#include "tools/bench/cuda/decode_matrix.h"

#include <optional>
#include <span>
#include <utility>

#include "tools/bench/cuda/cublas.h"
#include "tools/bench/cuda/decode_kernels.h"
#include "tools/bench/cuda/kernels.h"
#include "tools/bench/decode_words.h"

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;  // what cuBLAS wants on Hopper
constexpr std::uint64_t kFirstWeightPage = kFirstQueryPage * 2;

struct Product {
  std::uint32_t rows = 0;
  std::uint32_t depth = 0;
  std::uint64_t weights() const { return std::uint64_t{rows} * depth; }
};
constexpr Product kBefore[] = {{kMatrixQkv, kMatrixHidden}};
constexpr Product kAfter[] = {
    {kMatrixHidden, kMatrixHidden}, {2 * kMatrixFeed, kMatrixHidden}, {kMatrixHidden, kMatrixFeed}};

std::uint64_t pages_for(std::uint64_t numbers) {
  return (numbers * 2 + kDecodePageBytes - 1) / kDecodePageBytes;
}

ipc::Result<DeviceArray<std::byte>> filled(std::uint64_t numbers, std::uint64_t first_page,
                                           const char* what) {
  const std::uint64_t pages = pages_for(numbers);
  auto array = DeviceArray<std::byte>::make(pages * kDecodePageBytes, what);
  if (!array) return array;
  for (const int status :
       {fill_pages(array->data(), pages, first_page, nullptr), int{cudaDeviceSynchronize()}}) {
    if (auto ok = check(status, std::string("filling ") + what); !ok) {
      return std::unexpected(std::move(ok.error()));
    }
  }
  return array;
}

}  // namespace

struct Matrix::State {
  std::string how;
  std::optional<Cublas> cublas;
  unsigned sms = 0;
  DeviceArray<std::byte> weights;
  DeviceArray<std::byte> inputs;
  DeviceArray<std::byte> out;
  DeviceArray<std::byte> workspace;
  DeviceArray<unsigned> sink;

  ipc::Status enqueue(std::span<const Product> products, std::uint64_t first_weight,
                      std::uint32_t sequences, const Stream& stream);
};

ipc::Status Matrix::State::enqueue(std::span<const Product> products, std::uint64_t first_weight,
                                   std::uint32_t sequences, const Stream& stream) {
  std::uint64_t at = first_weight;
  if (cublas) {
    if (auto ok = cublas->use(stream, workspace.data(), workspace.size()); !ok) return ok;
  }
  for (const Product& one : products) {
    const std::byte* const from = weights.data() + at * 2;
    auto ok =
        cublas ? cublas->multiply(one.rows, sequences, one.depth, from, inputs.data(), out.data())
               : check(read_hbm(from, one.weights() * 2, sms, sink.data(), stream.get()),
                       "launching the stand-in of the matrix work");
    if (!ok) return ok;
    at += one.weights();
  }
  return {};
}

Matrix::Matrix(std::unique_ptr<State> state) : state_(std::move(state)) {}
Matrix::Matrix(Matrix&&) noexcept = default;
Matrix& Matrix::operator=(Matrix&&) noexcept = default;
Matrix::~Matrix() = default;

ipc::Result<Matrix> Matrix::make(MatrixChoice choice, std::uint32_t most_sequences) {
  auto state = std::make_unique<State>();
  std::string missing = "as was asked for";
  if (choice != MatrixChoice::stand_in) {
    auto loaded = Cublas::load();
    if (loaded) {
      state->how = "cuBLAS " + loaded->version();
      state->cublas.emplace(std::move(*loaded));
    } else if (choice == MatrixChoice::cublas) {
      return fail(Errc::not_found,
                  "cuBLAS cannot be used: " + loaded.error().text + "; use --matrix stand-in");
    } else {
      missing = loaded.error().text;
    }
  }
  if (!state->cublas) state->how = "stand-in: a read of the same weights' bytes (" + missing + ")";
  int sms = 0;
  if (auto ok = check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, 0),
                      "cudaDeviceGetAttribute of the SMs");
      !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  state->sms = static_cast<unsigned>(sms);
  const std::uint64_t widest = 2 * kMatrixFeed;
  struct {
    std::uint64_t numbers;
    const char* what;
    DeviceArray<std::byte>& array;
  } const arrays[] = {{kMatrixWeights, "weights of a layer", state->weights},
                      {most_sequences * widest, "inputs of the matrix work", state->inputs},
                      {most_sequences * widest, "results of the matrix work", state->out}};
  std::uint64_t page = kFirstWeightPage;
  for (const auto& one : arrays) {
    auto array = filled(one.numbers, page, one.what);
    if (!array) return std::unexpected(std::move(array.error()));
    one.array = std::move(*array);
    page += pages_for(one.numbers);
  }
  auto workspace = DeviceArray<std::byte>::make(kWorkspaceBytes, "the workspace of cuBLAS");
  if (!workspace) return std::unexpected(std::move(workspace.error()));
  state->workspace = std::move(*workspace);
  auto sink = DeviceArray<unsigned>::make(1, "a word");
  if (!sink) return std::unexpected(std::move(sink.error()));
  state->sink = std::move(*sink);
  return Matrix(std::move(state));
}

const std::string& Matrix::how() const { return state_->how; }
bool Matrix::is_cublas() const { return state_->cublas.has_value(); }

ipc::Status Matrix::enqueue_before(std::uint32_t sequences, const Stream& stream) {
  return state_->enqueue(kBefore, 0, sequences, stream);
}

ipc::Status Matrix::enqueue_after(std::uint32_t sequences, const Stream& stream) {
  std::uint64_t first = 0;
  for (const Product& one : kBefore) first += one.weights();
  return state_->enqueue(kAfter, first, sequences, stream);
}

}  // namespace sluice::tools::cuda
