// The KV cache of ort-cpu: one buffer a layer, bound to the graph as past and as present, and two buffers a state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "runtime/chunked.h"
#include "runtime/ort/library.h"
#include "runtime/ort/states.h"
#include "runtime/window_buffer.h"
#include "util/zeroed_memory.h"

namespace edgekiln {

// Keys, values and states of one sequence. A layer's buffer is [1, KV, capacity, D]. The graph writes new keys and
// values in place and reads no position after the last one held, so rewinding only changes the length. Sliding-window
// layers have window buffers.
class OrtKVCache final : public ChunkedKVCache {
 public:
  // `session` and `names` must outlive the cache. `chunk`: maximum number of tokens of one run.
  OrtKVCache(const Properties& properties, Ort::Session& session, const GraphIO& names, ONNXTensorElementDataType type,
             std::size_t chunk);

  Result<void> run(Ids tokens, const std::stop_token& cancel) override;

  // float32[K, V], K as last set by set_logits_to_keep.
  Logits logits() const override { return {logits_.data(), static_cast<std::size_t>(logits_to_keep_) * vocab_size()}; }

  // Set the number of last positions that later runs compute logits for. It must be 1 if the graph has no input
  // `logits_to_keep`.
  void set_logits_to_keep(std::size_t positions) { logits_to_keep_ = static_cast<std::int64_t>(positions); }

 private:
  // The buffers of one window.
  struct Window {
    WindowBuffer buffer;
    std::int64_t start;  // position of the first slot; also the graph's input, which is bound to this member
  };

  Result<void> grow(std::int64_t capacity) override;
  bool holds(std::int64_t length) const override;
  void emptied() override;
  // The window buffers of a layer; null if it holds all tokens.
  const Window* window_of(std::size_t layer) const;
  // Slots of a layer in a cache for `capacity` tokens.
  std::int64_t slots(std::size_t layer, std::int64_t capacity) const;
  // Bytes of a layer's keys, or values, in a cache for `capacity` tokens.
  std::size_t layer_bytes(std::size_t layer, std::int64_t capacity) const;
  std::size_t token_bytes(std::size_t layer) const;
  // Move window buffers without room for `added` more tokens.
  void make_room(std::int64_t added);
  void bind_windows();
  void copy_held(const std::byte* old, std::byte* to, std::size_t layer, std::int64_t capacity) const;
  void bind_layers(std::int64_t capacity);
  void bind_input(const std::string& name, const Ort::Value& value);
  OrtStates* states() const { return static_cast<OrtStates*>(KVCache::states()); }
  void bind_inputs(std::int64_t size);
  void bind_logits();
  std::size_t vocab_size() const { return static_cast<std::size_t>(properties().vocab_size); }

  Ort::Session& session_;
  const GraphIO& names_;
  const ONNXTensorElementDataType type_;
  const std::size_t element_size_;
  const Ort::MemoryInfo memory_;
  std::vector<Ort::IoBinding> bindings_;  // with states, one for each front
  ZeroedMemory buffer_;                   // of all layers
  std::vector<std::byte*> keys_;
  std::vector<std::byte*> values_;
  std::map<std::int64_t, Window> windows_;  // by number of tokens
  std::vector<std::int64_t> input_ids_;
  std::vector<std::int64_t> position_ids_;
  std::vector<float> logits_;
  std::int64_t logits_to_keep_ = 1;  // also the graph's input, which is bound to this member
  std::int64_t bound_tokens_ = 0;    // size of the bound input_ids
  std::int64_t bound_logits_ = 0;    // positions of the bound logits
};

}  // namespace edgekiln
