// Causal grouped-query attention over a key-value cache in place: what the kernels of each instruction set share.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/parallel.h"

namespace edgekiln {

// Keys or values of all rows, [batch, kv_heads, capacity, head_dim].
struct Cache {
  void* data;           // float, or int8 where there are scales
  const float* scales;  // [kv_heads, head_dim], of each channel; null for float
};

// One call. Tensors are float32, row-major; the caller owns all memory.
struct AttentionArgs {
  std::size_t batch, length, heads, kv_heads, head_dim;
  std::size_t capacity;  // slots of the cache's rows
  // [batch, length, ...]: rows of heads * head_dim (query) and kv_heads * head_dim (key, value), `*_stride` floats
  // apart.
  const float* query;
  const float* key;
  const float* value;
  std::size_t query_stride, key_stride, value_stride;
  Cache key_cache, value_cache;       // read up to each row's past and appended to
  const std::int32_t* last_position;  // [batch], of the last new token; its past is last_position + 1 - length
  // [positions, rotary_dim / 2], null without rotary.
  const float* cosine;
  const float* sine;
  std::size_t rotary_dim;
  bool interleaved;  // rotated pairs are neighbours, not halves
  float scale;
  float softcap;       // 0 is none
  std::size_t window;  // keys a query sees, itself included; 0 is all
  float* out;          // [batch, length, heads * head_dim]

  std::size_t past(std::size_t row) const { return static_cast<std::size_t>(last_position[row]) + 1 - length; }
};

using AttentionKernel = void (*)(const AttentionArgs&, const Parallel&, Scratch&);

}  // namespace edgekiln
