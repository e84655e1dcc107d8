// The KV cache of ort-cuda: one device buffer a layer, bound as past and as present, two buffers a state, and CUDA
// graph capture of steps.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/ort/cuda_graphs.h"
#include "runtime/ort/cuda_states.h"
#include "runtime/ort/device.h"
#include "runtime/ort/library.h"

namespace edgekiln {

// Keys, values and states of one sequence. A layer's buffer is float16 [1, KV, capacity, D]. Runs of a single token
// (decode) are captured as a CUDA graph once, or with states once for each of the two directions between their buffers,
// and replayed until the buffers of keys and values are reallocated.
class OrtCudaKVCache final : public ChunkedKVCache {
 public:
  OrtCudaKVCache(const Properties& properties, OrtCudaGraphs& graphs);

  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  Logits logits() const override { return {logits_->data(), static_cast<std::size_t>(properties().vocab_size)}; }

 private:
  struct Layer {
    Ort::Value keys{nullptr};
    Ort::Value values{nullptr};
  };
  struct Step {
    Ort::IoBinding binding;
    std::string graph_id;
  };

  Result<void> grow(std::int64_t capacity) override;
  void enlarge(Ort::Value& buffer, std::size_t layer, std::int64_t capacity);
  OrtCudaStates* states() const { return static_cast<OrtCudaStates*>(KVCache::states()); }
  Ort::IoBinding bind_buffers(std::size_t front);
  void prefill(std::size_t front, Ids tokens, const std::stop_token& cancel);
  void decode(std::size_t front, std::int64_t token);

  OrtCudaGraphs& graphs_;
  std::vector<Layer> layers_;
  std::int32_t total_length_ = 0;  // in host memory, where GroupQueryAttention reads it
  std::optional<SharedTensor<std::int64_t>> input_id_;
  std::optional<SharedTensor<std::int64_t>> position_id_;
  std::optional<SharedTensor<float>> logits_;
  std::array<std::optional<Ort::IoBinding>, 2> prefill_;  // by front
  std::array<std::optional<Step>, 2> decode_;
};

}  // namespace edgekiln
