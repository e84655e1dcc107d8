// The growing KV cache of TensorRT: each run writes past and new keys and values to a second buffer.
#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/tensorrt/session.h"

namespace edgekiln {

// Keys and values of one sequence. Every part has two dense buffers: a run reads the front, [1, KV, slots, D], and
// writes the back, after which they are swapped.
class GrowingKVCache final : public ChunkedKVCache {
 public:
  GrowingKVCache(const Properties& properties, TensorRTSession& session)
      : ChunkedKVCache(properties), session_(session), logits_(static_cast<std::size_t>(properties.vocab_size)) {}

  // A queued run cannot be interrupted: `cancel` takes effect between chunks.
  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  Logits logits() const override { return logits_; }

 private:
  struct Part {
    CudaMemory front{nullptr, nullptr};
    CudaMemory back{nullptr, nullptr};
  };

  Result<void> grow(std::int64_t capacity) override;
  [[nodiscard]] Result<void> truncate();
  void swap(std::int64_t slots);
  std::size_t token_size(std::size_t part) const;

  TensorRTSession& session_;
  std::vector<Part> parts_;
  std::vector<float> logits_;
  std::int64_t slots_ = 0;  // tokens in the front buffers; more than length() after a rewind
};

}  // namespace edgekiln
