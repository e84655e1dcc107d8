// Keys and values in device memory that grow from one buffer to another.
#pragma once

#include <cstdint>
#include <stop_token>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/tensorrt/session.h"

namespace edgekiln {

// Keys and values of one sequence, in two dense buffers a part, of which a run reads one and fills the other: the front
// holds the first `slots` tokens as [1, KV, slots, D].
class TensorRTKVCache final : public ChunkedKVCache {
 public:
  TensorRTKVCache(const Properties& properties, TensorRTSession& session)
      : ChunkedKVCache(properties), session_(session), logits_(static_cast<std::size_t>(properties.vocab_size)) {}

  // A run that is queued is not cut short: `cancel` takes effect between chunks.
  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  Logits logits() const override { return logits_; }

 private:
  struct Part {
    CudaMemory front{nullptr, nullptr};
    CudaMemory back{nullptr, nullptr};
  };

  Result<void> grow(std::int64_t capacity) override;
  Result<void> settle();
  void turn(std::int64_t slots);
  std::size_t token_size(std::size_t part) const;

  TensorRTSession& session_;
  std::vector<Part> parts_;
  std::vector<float> logits_;
  std::int64_t slots_ = 0;
};

}  // namespace edgekiln
