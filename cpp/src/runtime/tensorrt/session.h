// A deserialized plan with its execution contexts and the memory of its inputs and outputs.
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

// Device addresses of one cache part: the past keys or values, and the output for past and new ones.
struct PartBuffers {
  std::byte* past;
  std::byte* present;
};

class TensorRTSession {
 public:
  static Result<std::unique_ptr<TensorRTSession>> open(std::unique_ptr<CudaDevice> device, TensorRTLibrary& library,
                                                       std::unique_ptr<nvinfer1::ICudaEngine> engine,
                                                       const Manifest& manifest);

  // Maximum number of tokens of one run.
  std::int64_t largest_chunk() const { return largest_chunk_; }

  const std::vector<CachePart>& parts() const { return parts_; }
  std::size_t element_size() const { return element_size_; }
  const CudaDevice& device() const { return *device_; }

  // Held during run() and every use of the device: all work goes to one stream and shares the input and output buffers.
  std::mutex& run_mutex() { return run_mutex_; }

  // Run the plan on `tokens`, which follow the `held` tokens in `buffers` (one entry a part). `logits` receives those
  // of the last position, float32[V].
  [[nodiscard]] Result<void> run(Ids tokens, std::int64_t held, std::span<const PartBuffers> buffers,
                                 std::span<float> logits);

 private:
  // Device memory of an input or output and page-locked host memory for its transfers.
  struct Staged {
    CudaMemory on_device{nullptr, nullptr};
    CudaMemory on_host{nullptr, nullptr};
  };

  TensorRTSession(std::unique_ptr<CudaDevice> device, TensorRTLibrary& library,
                  std::unique_ptr<nvinfer1::ICudaEngine> engine, const Manifest& manifest);
  Result<Staged> staged(std::size_t size) const;
  Result<nvinfer1::IExecutionContext*> context(std::int64_t tokens);
  [[nodiscard]] Result<void> bind(nvinfer1::IExecutionContext& context, std::int64_t tokens, std::int64_t held,
                                  std::span<const PartBuffers> buffers) const;
  [[nodiscard]] Result<void> send(const Staged& staged, std::size_t size) const;

  const std::unique_ptr<CudaDevice> device_;
  TensorRTLibrary& library_;
  const GraphIO io_;
  const std::vector<CachePart> parts_;
  const std::size_t element_size_;
  const std::size_t vocab_size_;
  std::mutex run_mutex_;
  const std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  const std::vector<Profile> profiles_;
  std::int64_t largest_chunk_ = 0;
  std::map<int, std::unique_ptr<nvinfer1::IExecutionContext>> contexts_;  // by optimization profile
  Staged input_ids_;
  Staged position_ids_;
  Staged logits_;
};

}  // namespace edgekiln
