// The first CUDA device: memory, copies and one stream of work, in order.
//
// The CUDA runtime is loaded where the program runs, so that programs start without it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "util/result.h"

namespace edgekiln {

// The functions of the CUDA runtime that are used here.
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

// Memory of the device, or of the host for copies to and from it.
using CudaMemory = std::unique_ptr<std::byte, cudaError_t (*)(void*)>;

// Pieces of one width in memory: the first, and bytes from one to the next.
struct Pieces {
  std::byte* first;
  std::size_t step;
};

class CudaDevice {
 public:
  // An error of Code::kUnsupported if the CUDA runtime is missing, of Code::kRuntime if there is no driver or no GPU.
  static Result<std::unique_ptr<CudaDevice>> open();
  ~CudaDevice();
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;

  const std::string& compute_capability() const { return compute_capability_; }  // as 8.9
  cudaStream_t stream() const { return stream_; }

  // `size` bytes whose values mean nothing, for `what`; an error of Code::kMemory if there are not as many.
  Result<CudaMemory> allocate(std::size_t size, std::string_view what) const;
  Result<CudaMemory> allocate_on_host(std::size_t size, std::string_view what) const;

  // Queue a copy of `count` pieces of `width` bytes, on the device or between it and the host.
  Result<void> copy(Pieces target, Pieces source, std::size_t width, std::size_t count, cudaMemcpyKind kind) const;

  // Wait until all that was queued is done.
  Result<void> synchronize() const;

 private:
  CudaDevice(const CudaFunctions& cuda, cudaStream_t stream, std::string compute_capability)
      : cuda_(cuda), stream_(stream), compute_capability_(std::move(compute_capability)) {}

  const CudaFunctions& cuda_;
  const cudaStream_t stream_;
  const std::string compute_capability_;
};

}  // namespace edgekiln
