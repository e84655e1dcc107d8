// Keys and values in device memory, bound to the graph as past and as present.
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

// What the caches of one engine run with; it outlives them.
class OrtCudaGraphs {
 public:
  // Throws Ort::Exception.
  OrtCudaGraphs(GraphIO io, const std::string& device_name, Ort::Session generate_session, Ort::Session grow_session)
      : names(std::move(io)),
        generate(std::move(generate_session)),
        grow(std::move(grow_session)),
        device(device_name, generate) {}

  // For a recording of `generate`, of which each set of buffers needs its own. Under `one_at_a_time`.
  std::string next_recording() { return sentence(++recordings_); }

  const GraphIO names;
  Ort::Session generate;
  Ort::Session grow;  // moves a buffer to a larger one
  OrtDevice device;
  std::mutex one_at_a_time;  // held by who uses the device: what others do there while one records would break it

 private:
  std::int64_t recordings_ = 0;
};

// Keys and values of one sequence. A layer's buffer is [1, KV, capacity, D] in binary16. A single token is a step,
// which is recorded once and replayed as one piece until the buffers move.
class OrtCudaCache final : public ChunkedCache {
 public:
  OrtCudaCache(const Properties& properties, OrtCudaGraphs& graphs) : ChunkedCache(properties), graphs_(graphs) {}

  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  Logits logits() const override { return {logits_->data(), static_cast<std::size_t>(properties().vocab_size)}; }

 private:
  struct Layer {
    Ort::Value keys{nullptr};
    Ort::Value values{nullptr};
  };
  struct Step {
    Ort::IoBinding binding;
    std::string recording;
  };

  Result<void> grow(std::int64_t capacity) override;
  void enlarge(Ort::Value& buffer, std::size_t layer, std::int64_t capacity);
  Ort::IoBinding bind_buffers();
  void prefill(Ids tokens, const std::stop_token& cancel);
  void decode(std::int64_t token);

  OrtCudaGraphs& graphs_;
  std::vector<Layer> layers_;
  std::int32_t total_length_ = 0;  // on the host, where the graph's attention reads it
  std::optional<SharedTensor<std::int64_t>> input_id_;
  std::optional<SharedTensor<std::int64_t>> position_id_;
  std::optional<SharedTensor<float>> logits_;
  std::optional<Ort::IoBinding> prefill_;
  std::optional<Step> decode_;
};

}  // namespace edgekiln
