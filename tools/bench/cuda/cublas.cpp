#include "tools/bench/cuda/cublas.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>
#include <vector>

namespace sluice::tools::cuda {
namespace {

using ipc::Errc;
using ipc::fail;

// Of cublas_api.h, whose ABI is that of the library's major version.
using Handle = void*;
constexpr int kSuccess = 0;
constexpr int kAsIs = 0;        // CUBLAS_OP_N
constexpr int kTransposed = 1;  // CUBLAS_OP_T
constexpr int kBf16 = 14;       // CUDA_R_16BF
constexpr int kInF32 = 68;      // CUBLAS_COMPUTE_32F
constexpr int kDefaultAlgorithm = -1;
constexpr const char* kLibrary = "libcublas.so.13";

// Where CUDA's own packages put it, if the loader does not know.
std::vector<std::string> places() {
  std::vector<std::string> paths = {kLibrary};
  for (const char* const variable : {"CUDA_HOME", "CUDA_PATH"}) {
    const char* const home = std::getenv(variable);
    if (home != nullptr) paths.push_back(std::string(home) + "/lib64/" + kLibrary);
  }
  paths.push_back(std::string("/usr/local/cuda/lib64/") + kLibrary);
  return paths;
}

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

ipc::Status done(int status, const char* what) {
  if (status == kSuccess) return {};
  return fail(Errc::io_error, std::string(what) + ": cuBLAS status " + std::to_string(status));
}

}  // namespace

// It stays loaded: it registers what it does at the end of the process.
struct Cublas::Library {
  int (*create)(Handle*) = nullptr;
  int (*destroy)(Handle) = nullptr;
  int (*get_version)(Handle, int*) = nullptr;
  int (*set_stream)(Handle, cudaStream_t) = nullptr;
  int (*set_workspace)(Handle, void*, std::size_t) = nullptr;
  int (*gemm)(Handle, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
              int, const void*, void*, int, int, int, int) = nullptr;
  Handle handle = nullptr;

  bool find_all(void* library) {
    return find(library, "cublasCreate_v2", create) && find(library, "cublasDestroy_v2", destroy) &&
           find(library, "cublasGetVersion_v2", get_version) &&
           find(library, "cublasSetStream_v2", set_stream) &&
           find(library, "cublasSetWorkspace_v2", set_workspace) &&
           find(library, "cublasGemmEx", gemm);
  }
  Library() = default;
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  ~Library() {
    if (handle != nullptr) (void)destroy(handle);
  }
};

ipc::Result<Cublas> Cublas::load() {
  void* opened = nullptr;
  std::string why;
  for (const std::string& path : places()) {
    opened = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (opened != nullptr) break;
    const char* const error = ::dlerror();
    if (why.empty() && error != nullptr) why = error;
  }
  if (opened == nullptr) return fail(Errc::not_found, why);
  auto library = std::make_shared<Library>();
  if (!library->find_all(opened)) {
    const char* const error = ::dlerror();
    return fail(Errc::not_found, error != nullptr ? error : kLibrary);
  }
  if (auto ok = done(library->create(&library->handle), "cublasCreate"); !ok) {
    return std::unexpected(std::move(ok.error()));
  }
  return Cublas(std::move(library));
}

std::string Cublas::version() const {
  constexpr int kMajor = 10000;
  constexpr int kMinor = 100;
  int version = 0;
  if (library_->get_version(library_->handle, &version) != kSuccess) return "?";
  return std::to_string(version / kMajor) + "." + std::to_string(version % kMajor / kMinor) + "." +
         std::to_string(version % kMinor);
}

ipc::Status Cublas::use(const Stream& stream, void* workspace, std::size_t bytes) {
  if (auto ok = done(library_->set_stream(library_->handle, stream.get()), "cublasSetStream");
      !ok) {
    return ok;
  }
  return done(library_->set_workspace(library_->handle, workspace, bytes), "cublasSetWorkspace");
}

ipc::Status Cublas::multiply(std::uint32_t rows, std::uint32_t columns, std::uint32_t depth,
                             const void* weights, const void* inputs, void* out) {
  const float one = 1;
  const float zero = 0;
  const auto m = static_cast<int>(rows);
  const auto n = static_cast<int>(columns);
  const auto k = static_cast<int>(depth);
  return done(library_->gemm(library_->handle, kTransposed, kAsIs, m, n, k, &one, weights, kBf16, k,
                             inputs, kBf16, k, &zero, out, kBf16, m, kInF32, kDefaultAlgorithm),
              "cublasGemmEx");
}

}  // namespace sluice::tools::cuda
