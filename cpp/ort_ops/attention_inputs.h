// Attention as the ops take it: attributes, and tensors of a run.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// What GroupQueryAttention's attributes say, and those of ops that hold such attentions.
struct AttentionAttributes {
  explicit AttentionAttributes(const OrtKernelInfo* info)
      : heads(integer(info, "num_heads")),
        kv_heads(integer(info, "kv_num_heads")),
        window(std::max<std::int64_t>(0, integer(info, "local_window_size"))),
        rotary(integer(info, "do_rotary") != 0),
        interleaved(integer(info, "rotary_interleaved") != 0),
        scale(real(info, "scale")),
        softcap(real(info, "softcap")) {
    if (heads < 1 || kv_heads < 1 || heads % kv_heads) fail("num_heads must be a multiple of kv_num_heads");
    if (integer(info, "smooth_softmax") > 0 || integer(info, "qk_output") > 0)
      fail("smooth_softmax and qk_output are not here");
  }

  std::int64_t heads, kv_heads, window;
  bool rotary, interleaved;
  float scale, softcap;
};

// The new tokens of a run: where they stand, and the room that their cache has.
struct NewTokens {
  std::int64_t batch, length, head_dim = 0, capacity = 0;
  Tensor last_position{}, cosine{}, sine{};
};

// All of a call but queries, keys, values, caches and output. Throws where positions have no room or no angle.
inline AttentionArgs attention_call(const AttentionAttributes& attributes, const NewTokens& tokens) {
  if (attributes.rotary && (!tokens.cosine || !tokens.sine)) fail("do_rotary needs cos_cache and sin_cache");
  AttentionArgs call{};
  call.batch = tokens.batch;
  call.length = tokens.length;
  call.heads = attributes.heads;
  call.kv_heads = attributes.kv_heads;
  call.head_dim = tokens.head_dim;
  call.capacity = tokens.capacity;
  call.last_position = tokens.last_position.ints();
  for (std::int64_t row = 0; row < tokens.batch; ++row) {
    const std::int64_t last = call.last_position[row];
    if (last + 1 < tokens.length || last >= tokens.capacity) {
      fail("row " + std::to_string(row) + " ends at position " + std::to_string(last) + ", with " +
           std::to_string(tokens.length) + " new tokens and room for " + std::to_string(tokens.capacity));
    }
    if (attributes.rotary && last >= tokens.cosine.shape.at(0))
      fail("position " + std::to_string(last) + " has no rotary angle");
  }
  call.cosine = attributes.rotary ? tokens.cosine.floats() : nullptr;
  call.sine = attributes.rotary ? tokens.sine.floats() : nullptr;
  call.rotary_dim = attributes.rotary ? 2 * tokens.cosine.shape.at(1) : 0;
  call.interleaved = attributes.interleaved;
  call.scale = attributes.scale != 0.0f ? attributes.scale : 1.0f / std::sqrt(static_cast<float>(tokens.head_dim));
  call.softcap = attributes.softcap;
  call.window = attributes.window;
  return call;
}

// Queries, keys and values side by side in rows of `stride` floats.
inline void take_packed(AttentionArgs& call, const float* rows, std::size_t stride) {
  call.query = rows;
  call.key = call.query + call.heads * call.head_dim;
  call.value = call.key + call.kv_heads * call.head_dim;
  call.query_stride = call.key_stride = call.value_stride = stride;
}

// A cache output, [batch, kv_heads, capacity, head_dim], which usually is the buffer of the past itself; else the past
// is copied to it.
template <typename Element>
void* present(OrtKernelContext* context, std::size_t index, const Tensor& past, const AttentionArgs& call) {
  const std::array<std::int64_t, 4> dims{
      static_cast<std::int64_t>(call.batch), static_cast<std::int64_t>(call.kv_heads),
      static_cast<std::int64_t>(call.capacity), static_cast<std::int64_t>(call.head_dim)};
  auto* to = static_cast<Element*>(output(context, index, dims));
  if (to == past.data) return to;
  const std::int64_t from_size = past.shape.at(2) * dims[3], to_size = dims[2] * dims[3];
  for (std::int64_t head = 0; head < dims[0] * dims[1]; ++head)
    std::copy_n(static_cast<const Element*>(past.data) + head * from_size, from_size, to + head * to_size);
  return to;
}

// The scales of a cache's channels, for each key-value head.
inline const float* cache_scales(const Tensor& tensor, const AttentionArgs& call) {
  std::size_t count = tensor ? 1 : 0;
  for (const std::int64_t size : tensor.shape) count *= static_cast<std::size_t>(size);
  if (count != call.kv_heads * call.head_dim)
    fail("an int8 cache needs a scale for each channel of each key-value head");
  return tensor.floats();
}

template <typename Element>
inline constexpr ONNXTensorElementDataType kCacheType =
    std::is_same_v<Element, std::int8_t> ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;

template <bool Rounded>
AttentionKernel attention_kernel() {
  const KernelTable& kernel = kernels();
  return Rounded ? kernel.bf16_attention : kernel.attention;
}

}  // namespace edgekiln::ort
