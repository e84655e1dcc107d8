// com.microsoft::GroupQueryAttention and edgekiln.ort::{Packed,}RotaryAttention on float tensors, over a float cache or
// an int8 cache with constant scales.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "kernels/kernel_table.h"
#include "ort_ops/attention_inputs.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The ops of the kernel. Rotary attentions have the cosines and sines of the new tokens in place of tables.
struct PlainAttention {
  static constexpr const char* kName = "GroupQueryAttention";
  static constexpr bool kRotary = false;
};
struct RotaryAttention {
  static constexpr const char* kName = "RotaryAttention";
  static constexpr bool kRotary = true;
};
struct PackedRotaryAttention {
  static constexpr const char* kName = "PackedRotaryAttention";
  static constexpr bool kRotary = true;
};

// `Element` is the type of the cache; for `Bf16` see attention_kernel().
template <typename Attention, typename Element, bool Bf16>
class GroupQueryAttention {
 public:
  // The names of GroupQueryAttention's specification; query holds query, key and value where key and value are missing.
  enum Input : std::size_t {
    kQuery,
    kKey,
    kValue,
    kPastKey,
    kPastValue,
    kSeqlensK,
    kTotalSequenceLength,
    kCosCache,
    kSinCache,
    kPositionIds,
    kAttentionBias,
    kHeadSink,
    kKScale,
    kVScale
  };
  enum Output : std::size_t { kAttended, kPresentKey, kPresentValue };
  static constexpr const char* kName = Attention::kName;
  static constexpr auto kElement = kCacheType<Element>;
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kElement, kElement, kInt32, kInt32,
                                                          kFloat, kFloat, kInt64, kFloat,   kFloat,   kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {kKey,           kValue,    kCosCache, kSinCache, kPositionIds,
                                              kAttentionBias, kHeadSink, kKScale,   kVScale};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kElement, kElement};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit GroupQueryAttention(const OrtKernelInfo* info)
      : attributes_(info), rotary_(Attention::kRotary || integer(info, "do_rotary") != 0) {}

  void compute(OrtKernelContext* context) const {
    const Tensor query = input(context, kQuery), key = input(context, kKey), value = input(context, kValue);
    const Tensor past_key = input(context, kPastKey), past_value = input(context, kPastValue);
    const std::int64_t heads = attributes_.heads, kv_heads = attributes_.kv_heads;
    NewTokens tokens{query.shape.at(0), query.shape.at(1)};
    tokens.head_dim = query.shape.at(2) / (key ? heads : heads + 2 * kv_heads);
    tokens.capacity = std::max<std::int64_t>(past_key.shape.at(2), *input(context, kTotalSequenceLength).ints());
    tokens.last_position = input(context, kSeqlensK);
    if (rotary_) {
      tokens.cosine = input(context, kCosCache);
      tokens.sine = input(context, kSinCache);
      tokens.position_ids = input(context, kPositionIds);
      if (tokens.cosine.shape.empty()) fail("the cosines of the rotary embedding are missing");
    }
    AttentionArgs args = attention_args(attributes_, tokens);
    args.set_packed_qkv(query.floats(), query.shape[2]);
    args.sinks = sinks(input(context, kHeadSink), args);
    args.bias = score_bias(input(context, kAttentionBias), args);
    if (key) {
      args.key = key.floats();
      args.value = value.floats();
      args.key_stride = key.shape.at(2);
      args.value_stride = value.shape.at(2);
    }
    const std::array attended_shape{tokens.batch, tokens.length, heads * tokens.head_dim};
    args.out = static_cast<float*>(output(context, kAttended, attended_shape));
    args.key_cache.data = present<Element>(context, kPresentKey, past_key, args);
    args.value_cache.data = present<Element>(context, kPresentValue, past_value, args);
    if constexpr (std::is_same_v<Element, std::int8_t>) {
      args.key_cache.scales = cache_scales(input(context, kKScale), args);
      args.value_cache.scales = cache_scales(input(context, kVScale), args);
    }
    // A session may run on several threads at once.
    thread_local Scratch scratch;
    attention_kernel<Bf16>()(args, {run_parallel, context}, scratch);
  }

 private:
  AttentionAttributes attributes_;
  bool rotary_;
};

}  // namespace edgekiln::ort
