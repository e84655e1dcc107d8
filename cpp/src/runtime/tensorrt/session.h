// A plan ready to run: its execution contexts, and memory for what goes in and comes out.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/cuda/cuda_device.h"
#include "runtime/tensorrt/library.h"
#include "runtime/tensorrt/profiles.h"
#include "util/result.h"

namespace edgekiln {

// Of one part of a cache: the keys or values held, and where the run leaves them with the new ones behind.
struct PartBuffers {
  std::byte* past;
  std::byte* present;
};

class TensorRTSession {
 public:
  static Result<std::unique_ptr<TensorRTSession>> open(std::unique_ptr<CudaDevice> device, TensorRTLibrary& library,
                                                       std::unique_ptr<nvinfer1::ICudaEngine> engine,
                                                       const Manifest& manifest);

  // Tokens of a run at most.
  std::int64_t largest_chunk() const { return largest_chunk_; }

  const std::vector<CachePart>& parts() const { return parts_; }
  std::size_t element_size() const { return element_size_; }
  const CudaDevice& device() const { return *device_; }

  // Held by who uses the device or calls run(): what is queued there is in one order, in shared memory.
  std::mutex& one_at_a_time() { return one_at_a_time_; }

  // Run on `tokens` behind the `held` ones of `buffers`, one of each part; `logits`, float32[V], of the last position.
  Result<void> run(Ids tokens, std::int64_t held, std::span<const PartBuffers> buffers, std::span<float> logits);

 private:
  // Memory on the device and on the host for the same values.
  struct Staged {
    CudaMemory on_device{nullptr, nullptr};
    CudaMemory on_host{nullptr, nullptr};
  };

  TensorRTSession(std::unique_ptr<CudaDevice> device, TensorRTLibrary& library,
                  std::unique_ptr<nvinfer1::ICudaEngine> engine, const Manifest& manifest);
  Result<Staged> staged(std::size_t size) const;
  Result<nvinfer1::IExecutionContext*> context(std::int64_t tokens);
  Result<void> bind(nvinfer1::IExecutionContext& context, std::int64_t tokens, std::int64_t held,
                    std::span<const PartBuffers> buffers) const;
  Result<void> send(const Staged& staged, std::size_t size) const;

  const std::unique_ptr<CudaDevice> device_;
  TensorRTLibrary& library_;
  const GraphIO io_;
  const std::vector<CachePart> parts_;
  const std::size_t element_size_;
  const std::size_t vocab_size_;
  std::mutex one_at_a_time_;
  const std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  const std::vector<Profile> profiles_;
  std::int64_t largest_chunk_ = 0;
  std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // by profile
  Staged input_ids_;
  Staged position_ids_;
  Staged logits_;
};

}  // namespace edgekiln
