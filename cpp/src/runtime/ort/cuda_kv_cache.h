// The KV cache of ort-cuda: one device buffer a layer, bound as past and as present, with CUDA graph capture of steps.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/ort/device.h"
#include "runtime/ort/library.h"

namespace edgekiln {

// The sessions and the device that all caches of an engine share. It must outlive them.
class OrtCudaGraphs {
 public:
  // Throws Ort::Exception.
  OrtCudaGraphs(GraphIO io, const std::string& device_name, Ort::Session generate_session, Ort::Session grow_session)
      : names(std::move(io)),
        generate(std::move(generate_session)),
        grow(std::move(grow_session)),
        device(device_name, generate) {}

  // An unused id for a captured CUDA graph of `generate`. The caller holds `run_mutex`.
  std::string next_graph_id() { return str_cat(++graph_ids_); }

  const GraphIO names;
  Ort::Session generate;
  Ort::Session grow;  // copies a buffer into a larger one
  OrtDevice device;
  // Held during every use of the device: other work on it would break a CUDA graph capture in progress.
  std::mutex run_mutex;

 private:
  std::int64_t graph_ids_ = 0;
};

// Keys and values of one sequence. A layer's buffer is float16 [1, KV, capacity, D]. Runs of a single token (decode)
// are captured as a CUDA graph once and replayed until the buffers are reallocated.
class OrtCudaKVCache final : public ChunkedKVCache {
 public:
  OrtCudaKVCache(const Properties& properties, OrtCudaGraphs& graphs) : ChunkedKVCache(properties), graphs_(graphs) {}

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
  Ort::IoBinding bind_buffers();
  void prefill(Ids tokens, const std::stop_token& cancel);
  void decode(std::int64_t token);

  OrtCudaGraphs& graphs_;
  std::vector<Layer> layers_;
  std::int32_t total_length_ = 0;  // in host memory, where GroupQueryAttention reads it
  std::optional<SharedTensor<std::int64_t>> input_id_;
  std::optional<SharedTensor<std::int64_t>> position_id_;
  std::optional<SharedTensor<float>> logits_;
  std::optional<Ort::IoBinding> prefill_;
  std::optional<Step> decode_;
};

}  // namespace edgekiln
