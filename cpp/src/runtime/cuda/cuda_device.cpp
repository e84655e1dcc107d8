#include "runtime/cuda/cuda_device.h"

#include <dlfcn.h>

#include <optional>
#include <utility>

#include "util/str_cat.h"

namespace edgekiln {

namespace {

constexpr std::size_t kMegabyte = 1'000'000;

std::string library_name() { return str_cat("libcudart.so.", CUDART_VERSION / 1000); }

template <typename Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

// The library is never closed, since memory may be freed as late as in static destructors.
std::optional<CudaFunctions> load() {
  void* const library = dlopen(library_name().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) return std::nullopt;
  CudaFunctions cuda{};
  const bool found = find(library, "cudaGetErrorString", cuda.get_error_string) &&
                     find(library, "cudaGetDeviceCount", cuda.get_device_count) &&
                     find(library, "cudaDeviceGetAttribute", cuda.device_get_attribute) &&
                     find(library, "cudaStreamCreateWithFlags", cuda.stream_create_with_flags) &&
                     find(library, "cudaStreamDestroy", cuda.stream_destroy) &&
                     find(library, "cudaStreamSynchronize", cuda.stream_synchronize) &&
                     find(library, "cudaMemGetInfo", cuda.mem_get_info) && find(library, "cudaMalloc", cuda.malloc) &&
                     find(library, "cudaFree", cuda.free) && find(library, "cudaMallocHost", cuda.malloc_host) &&
                     find(library, "cudaFreeHost", cuda.free_host) &&
                     find(library, "cudaMemcpy2DAsync", cuda.memcpy_2d_async);
  if (!found) return std::nullopt;
  return cuda;
}

Result<void> checked(const CudaFunctions& cuda, cudaError_t error) {
  if (error == cudaSuccess) return {};
  return fail(Code::kRuntime, "CUDA says ", cuda.get_error_string(error), " (error ", static_cast<int>(error),
              "): check the driver with nvidia-smi");
}

}  // namespace

Result<std::unique_ptr<CudaDevice>> CudaDevice::open() {
  static const std::optional<CudaFunctions> cuda = load();
  if (!cuda)
    return fail(Code::kUnsupported, "running this engine needs the CUDA runtime, and ", library_name(),
                " is not found: install it where the system looks for libraries");
  int count = 0;
  if (Result<void> counted = checked(*cuda, cuda->get_device_count(&count)); !counted)
    return fail(Code::kRuntime, "running this engine needs an NVIDIA GPU and its driver: ", counted.error().message);
  if (!count)
    return fail(Code::kRuntime, "running this engine needs an NVIDIA GPU: the driver shows none, check nvidia-smi");
  int major = 0;
  int minor = 0;
  cudaStream_t stream = nullptr;
  for (const cudaError_t error : {cuda->device_get_attribute(&major, cudaDevAttrComputeCapabilityMajor, 0),
                                  cuda->device_get_attribute(&minor, cudaDevAttrComputeCapabilityMinor, 0),
                                  cuda->stream_create_with_flags(&stream, cudaStreamNonBlocking)})
    if (Result<void> done = checked(*cuda, error); !done) return std::unexpected(done.error());
  return std::unique_ptr<CudaDevice>(new CudaDevice(*cuda, stream, str_cat(major, '.', minor)));
}

CudaDevice::~CudaDevice() { cuda_.stream_destroy(stream_); }

Result<CudaMemory> CudaDevice::allocate(std::size_t size, std::string_view purpose) const {
  void* memory = nullptr;
  const cudaError_t error = cuda_.malloc(&memory, size);
  if (error == cudaErrorMemoryAllocation) {
    std::size_t free = 0;
    std::size_t total = 0;
    if (Result<void> done = checked(cuda_, cuda_.mem_get_info(&free, &total)); !done)
      return std::unexpected(done.error());
    return fail(Code::kMemory, "the GPU has ", free / kMegabyte, " of ", total / kMegabyte, " MB free, ", purpose,
                " needs ", (size + kMegabyte - 1) / kMegabyte,
                " MB more: close other sessions, or build with a lower --max-length");
  }
  if (Result<void> done = checked(cuda_, error); !done) return std::unexpected(done.error());
  return CudaMemory(static_cast<std::byte*>(memory), cuda_.free);
}

Result<CudaMemory> CudaDevice::allocate_on_host(std::size_t size, std::string_view purpose) const {
  void* memory = nullptr;
  if (Result<void> done = checked(cuda_, cuda_.malloc_host(&memory, size)); !done)
    return fail(Code::kMemory, "no memory for ", purpose, ": ", done.error().message);
  return CudaMemory(static_cast<std::byte*>(memory), cuda_.free_host);
}

Result<void> CudaDevice::copy(Blocks target, Blocks source, std::size_t width, std::size_t count,
                              cudaMemcpyKind kind) const {
  return checked(cuda_, cuda_.memcpy_2d_async(target.first, target.pitch, source.first, source.pitch, width, count,
                                              kind, stream_));
}

Result<void> CudaDevice::synchronize() const { return checked(cuda_, cuda_.stream_synchronize(stream_)); }

}  // namespace edgekiln
