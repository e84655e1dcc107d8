// Attention arguments from the attributes and tensors of GroupQueryAttention, of edgekiln.ort::*RotaryAttention and of
// *DecoderLayers.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The attributes of GroupQueryAttention. Throws for those that the kernels do not implement.
struct AttentionAttributes {
  explicit AttentionAttributes(const OrtKernelInfo* info)
      : heads(integer(info, "num_heads")),
        kv_heads(integer(info, "kv_num_heads")),
        window(std::max<std::int64_t>(0, integer(info, "local_window_size"))),
        interleaved(integer(info, "rotary_interleaved") != 0),
        scale(real(info, "scale")),
        softcap(real(info, "softcap")) {
    if (heads < 1 || kv_heads < 1 || heads % kv_heads) fail("num_heads must be a multiple of kv_num_heads");
    if (integer(info, "smooth_softmax") > 0 || integer(info, "qk_output") > 0)
      fail("smooth_softmax and qk_output are not implemented");
  }

  std::int64_t heads, kv_heads, window;
  bool interleaved;
  float scale, softcap;
};

// The new tokens of a run, and the capacity of their cache. `cosine` and `sine` are those of the tokens, [batch,
// length, half of the rotary dimension], or tables [positions, half of it], whose rows are the positions in the cache
// or `position_ids`.
struct NewTokens {
  std::int64_t batch, length, head_dim = 0, capacity = 0;
  Tensor last_position{}, cosine{}, sine{}, position_ids{};
};

// Throws if a new token has no row in the rotary tables.
inline void check_rotary_tables(const AttentionArgs& args, std::int64_t rows, const Tensor& position_ids) {
  const auto check = [rows](std::int64_t position) {
    if (position < 0 || position >= rows) fail("position " + std::to_string(position) + " has no rotary angle");
  };
  if (!position_ids) {
    for (std::size_t sequence = 0; sequence < args.batch; ++sequence) check(args.last_position[sequence]);
    return;
  }
  if (element_count(position_ids.shape) != args.batch * args.length) fail("position_ids has another number of tokens");
  std::for_each_n(args.position_ids, args.batch * args.length, check);
}

// Sets the rotary embedding of `args`. Throws if a token has none.
inline void set_rotary(AttentionArgs& args, const NewTokens& tokens) {
  const std::vector<std::int64_t>& shape = tokens.cosine.shape;
  if (shape != tokens.sine.shape) fail("cosines and sines have different shapes");
  args.cosine = tokens.cosine.floats();
  args.sine = tokens.sine.floats();
  args.rotary_dim = 2 * shape.back();
  if (args.rotary_dim > args.head_dim) fail("the rotary dimension is larger than a head");
  args.rotary_table = shape.size() == 2;
  if (args.rotary_table) {
    args.position_ids = static_cast<const std::int64_t*>(tokens.position_ids.data);
    check_rotary_tables(args, shape[0], tokens.position_ids);
  } else if (shape != std::vector{tokens.batch, tokens.length, shape.back()}) {
    fail("cosines and sines are not those of the new tokens");
  }
}

// Attention arguments without query, key, value, caches and output; without rotary embedding if `tokens` has no
// cosines. Throws where a position is past the cache's capacity or the rotary tables.
inline AttentionArgs attention_args(const AttentionAttributes& attributes, const NewTokens& tokens) {
  AttentionArgs args{};
  args.batch = tokens.batch;
  args.length = tokens.length;
  args.heads = attributes.heads;
  args.kv_heads = attributes.kv_heads;
  args.head_dim = tokens.head_dim;
  args.capacity = tokens.capacity;
  args.last_position = tokens.last_position.ints();
  for (std::int64_t sequence = 0; sequence < tokens.batch; ++sequence) {
    const std::int64_t last = args.last_position[sequence];
    if (last + 1 < tokens.length || last >= tokens.capacity) {
      fail("sequence " + std::to_string(sequence) + " ends at position " + std::to_string(last) + ", with " +
           std::to_string(tokens.length) + " new tokens and room for " + std::to_string(tokens.capacity));
    }
  }
  if (!tokens.cosine.shape.empty()) set_rotary(args, tokens);
  args.interleaved = attributes.interleaved;
  args.scale = attributes.scale != 0.0f ? attributes.scale : 1.0f / std::sqrt(static_cast<float>(tokens.head_dim));
  args.softcap = attributes.softcap;
  args.window = attributes.window;
  return args;
}

// The sinks of heads, [heads]; null for none.
inline const float* sinks(const Tensor& tensor, const AttentionArgs& args) {
  if (tensor && element_count(tensor.shape) != args.heads) fail("head_sink needs one number a head");
  return tensor.floats();
}

// The input attention_bias, [batch or 1, heads or 1, length, keys up to the last position or more].
inline ScoreBias score_bias(const Tensor& tensor, const AttentionArgs& args) {
  if (!tensor) return {};
  const auto size = [&](std::size_t axis) { return static_cast<std::size_t>(tensor.shape.at(axis)); };
  if (tensor.shape.size() != 4 || (size(0) != 1 && size(0) != args.batch) || (size(1) != 1 && size(1) != args.heads) ||
      size(2) != args.length)
    fail("attention_bias has another batch, or number of heads or tokens");
  for (std::size_t sequence = 0; sequence < args.batch; ++sequence)
    if (static_cast<std::size_t>(args.last_position[sequence]) >= size(3)) fail("attention_bias lacks keys");
  const std::size_t of_head = size(2) * size(3);
  return {tensor.floats(), size(0) == 1 ? 0 : size(1) * of_head, size(1) == 1 ? 0 : of_head, size(3)};
}

// A cache output, [batch, kv_heads, capacity, head_dim]. Runtimes usually bind the buffer of the past to it; where they
// do not, the past is copied.
template <typename Element>
void* present(OrtKernelContext* context, std::size_t index, const Tensor& past, const AttentionArgs& args) {
  const std::array<std::int64_t, 4> dims{
      static_cast<std::int64_t>(args.batch), static_cast<std::int64_t>(args.kv_heads),
      static_cast<std::int64_t>(args.capacity), static_cast<std::int64_t>(args.head_dim)};
  auto* to = static_cast<Element*>(output(context, index, dims));
  if (to == past.data) return to;
  const std::int64_t from_size = past.shape.at(2) * dims[3], to_size = dims[2] * dims[3];
  for (std::int64_t head = 0; head < dims[0] * dims[1]; ++head)
    std::copy_n(static_cast<const Element*>(past.data) + head * from_size, from_size, to + head * to_size);
  return to;
}

// The scales of an int8 cache, [kv_heads, head_dim].
inline const float* cache_scales(const Tensor& tensor, const AttentionArgs& args) {
  if (!tensor || element_count(tensor.shape) != args.kv_heads * args.head_dim)
    fail("an int8 cache needs a scale for each channel of each key-value head");
  return tensor.floats();
}

template <typename Element>
inline constexpr ONNXTensorElementDataType kCacheType = std::is_same_v<Element, std::int8_t> ? kInt8 : kFloat;

// With `Bf16` the kernel that computes prompts in bfloat16, which this processor must have.
template <bool Bf16>
AttentionKernel attention_kernel() {
  const KernelTable& table = kernels();
  return Bf16 ? table.bf16_attention : table.attention;
}

}  // namespace edgekiln::ort
