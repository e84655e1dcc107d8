// Arguments of causal grouped-query attention over a key-value cache that is updated in place.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/common/parallel.h"

namespace edgekiln {

// The keys or the values of a cache, [batch, kv_heads, capacity, head_dim].
struct CacheTensor {
  void* data;           // float, or int8 with `scales`
  const float* scales;  // [kv_heads, head_dim], one a channel; null for a float cache
};

// Biases [batch or 1, heads or 1, length, keys], added to the scores after the softcap; strides are 0 for a size of 1.
struct ScoreBias {
  const float* data;  // null for none
  std::size_t sequence_stride, head_stride, token_stride;
};

// Attention of `length` new tokens in each of `batch` sequences. Tensors are float32 and row-major; the caller owns all
// memory. Appends the new keys and values to the caches and attends to all positions up to each token's own.
struct AttentionArgs {
  std::size_t batch, length, heads, kv_heads, head_dim;
  std::size_t capacity;  // positions that the caches hold for each sequence
  // [batch, length, heads * head_dim] and [batch, length, kv_heads * head_dim]; `*_stride` floats from token to token.
  const float* query;
  const float* key;
  const float* value;
  std::size_t query_stride, key_stride, value_stride;
  CacheTensor key_cache, value_cache;
  const std::int32_t* last_position;  // [batch], of the last new token in the caches
  // Rotary embedding: of the new tokens, [batch, length, rotary_dim / 2], or in a table of all positions,
  // [positions, rotary_dim / 2]; null for none.
  const float* cosine;
  const float* sine;
  std::size_t rotary_dim;
  bool rotary_table;  // cosine and sine are tables
  // [batch, length], rows of the tables; null where these are the positions in the caches.
  const std::int64_t* position_ids;
  bool interleaved;    // pairs are (0, 1), (2, 3), ... instead of (0, rotary_dim / 2), ...
  float scale;         // of the scores
  float softcap;       // 0 is none
  std::size_t window;  // sliding window in tokens, including the query's own; 0 is none
  const float* sinks;  // [heads], scores in each head's softmax that have no value; null for none
  ScoreBias bias;
  float* out;  // [batch, length, heads * head_dim]

  // Tokens of a sequence that are in the cache already.
  std::size_t past(std::size_t sequence) const {
    return static_cast<std::size_t>(last_position[sequence]) + 1 - length;
  }

  // Takes query, key and value from packed projections, [batch, length, stride].
  void set_packed_qkv(const float* qkv, std::size_t stride) {
    query = qkv;
    key = query + heads * head_dim;
    value = key + kv_heads * head_dim;
    query_stride = key_stride = value_stride = stride;
  }
};

using AttentionKernel = void (*)(const AttentionArgs&, const Parallel&, Scratch&);

}  // namespace edgekiln
