// The key-value cache of the ONNX Runtime adapter: one buffer a layer, bound to the graph as past and as present.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stop_token>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/ort/library.h"
#include "util/zeroed_memory.h"

namespace edgekiln {

// Keys and values of one sequence. A layer's buffer is [1, KV, capacity, D], the graph writes new keys and values in
// place and reads no position that is not held, so growing and rewinding are bookkeeping.
class OrtCache final : public ChunkedCache {
 public:
  OrtCache(const Properties& properties, Ort::Session& session, const GraphIO& names, ONNXTensorElementDataType type);

  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  // Of as many positions as the last run was to give.
  Logits logits() const override { return {logits_.data(), static_cast<std::size_t>(positions_) * vocab_size()}; }

  // Have the runs to come give logits of their last `positions` tokens; 1 until told, and always where the graph does
  // not ask.
  void give_logits_of(std::size_t positions) { positions_ = static_cast<std::int64_t>(positions); }

 private:
  Result<void> grow(std::int64_t capacity) override;
  // Bytes of a layer's keys, or values, of `capacity` tokens.
  std::size_t layer_bytes(std::size_t layer, std::int64_t capacity) const;
  void keep_held(const std::byte* old, std::byte* to, std::size_t layer, std::int64_t capacity) const;
  void bind_layers(std::int64_t capacity);
  void bind_inputs(std::int64_t size);
  void bind_logits();
  std::size_t vocab_size() const { return static_cast<std::size_t>(properties().vocab_size); }

  Ort::Session& session_;
  const GraphIO& names_;
  const ONNXTensorElementDataType type_;
  const std::size_t element_size_;
  const Ort::MemoryInfo memory_;
  Ort::IoBinding binding_;
  ZeroedMemory buffer_;  // of all layers
  std::vector<std::byte*> keys_;
  std::vector<std::byte*> values_;
  std::vector<std::int64_t> input_ids_;
  std::vector<std::int64_t> position_ids_;
  std::vector<float> logits_;
  std::int64_t bound_ = 0;  // tokens that the bound inputs have room for
  std::int64_t positions_ = 1;
  std::int64_t bound_positions_ = 0;  // that the bound logits have room for
  std::int64_t logits_start_ = -1;
};

}  // namespace edgekiln
