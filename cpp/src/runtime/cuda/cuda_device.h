// The first CUDA device: allocation, and copies on one stream.
//
// The CUDA runtime is loaded with dlopen when a device is opened, so that programs start without it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "util/result.h"

namespace edgekiln {

// Functions of the CUDA runtime library.
struct CudaFunctions {
  decltype(&::cudaGetErrorString) get_error_string;
  decltype(&::cudaGetDeviceCount) get_device_count;
  decltype(&::cudaDeviceGetAttribute) device_get_attribute;
  decltype(&::cudaStreamCreateWithFlags) stream_create_with_flags;
  decltype(&::cudaStreamDestroy) stream_destroy;
  decltype(&::cudaStreamSynchronize) stream_synchronize;
  decltype(&::cudaMemGetInfo) mem_get_info;
  cudaError_t (*malloc)(void**, std::size_t);
  cudaError_t (*free)(void*);
  cudaError_t (*malloc_host)(void**, std::size_t);
  cudaError_t (*free_host)(void*);
  decltype(&::cudaMemcpy2DAsync) memcpy_2d_async;
};

// Device memory, or page-locked host memory.
using CudaMemory = std::unique_ptr<std::byte, cudaError_t (*)(void*)>;

// Equidistant blocks of memory: the address of the first, and the distance in bytes.
struct Blocks {
  std::byte* first;
  std::size_t pitch;
};

class CudaDevice {
 public:
  // Errors: Code::kUnsupported if the CUDA runtime is missing, Code::kRuntime without a driver or GPU.
  static Result<std::unique_ptr<CudaDevice>> open();
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const std::string& compute_capability() const { return compute_capability_; }  // as "8.9"
  cudaStream_t stream() const { return stream_; }

  // `size` uninitialized bytes of device memory, or of page-locked host memory. An error of Code::kMemory names
  // `purpose`.
  Result<CudaMemory> allocate(std::size_t size, std::string_view purpose) const;
  Result<CudaMemory> allocate_on_host(std::size_t size, std::string_view purpose) const;

  // Queue a copy of `count` blocks of `width` bytes, on the device or between device and host.
  [[nodiscard]] Result<void> copy(Blocks target, Blocks source, std::size_t width, std::size_t count,
                                  cudaMemcpyKind kind) const;

  // Wait for all queued work.
  [[nodiscard]] Result<void> synchronize() const;

 private:
  CudaDevice(const CudaFunctions& cuda, cudaStream_t stream, std::string compute_capability)
      : cuda_(cuda), stream_(stream), compute_capability_(std::move(compute_capability)) {}

  const CudaFunctions& cuda_;
  const cudaStream_t stream_;
  const std::string compute_capability_;
};

}  // namespace edgekiln
