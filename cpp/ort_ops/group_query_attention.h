// com.microsoft::GroupQueryAttention on float tensors, over a cache of float or of int8 with constant scales.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>

#include "kernels/kernel_table.h"
#include "ort_ops/attention_inputs.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// `Element` is that of the cache. `Rounded` takes the kernel that multiplies prompts in bfloat16, which must be there.
template <typename Element, bool Rounded>
class GroupQueryAttention {
 public:
  static constexpr const char* kName = "GroupQueryAttention";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kInt = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  static constexpr auto kElement = kCacheType<Element>;
  // query, key, value, past key and value, last positions, total length, cosine, sine, position ids, bias, sinks,
  // scales
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kElement, kElement, kInt,   kInt,
                                                          kFloat, kFloat, kInt,   kFloat,   kFloat,   kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {1, 2, 7, 8, 9, 10, 11, 12, 13};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kElement, kElement};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit GroupQueryAttention(const OrtKernelInfo* info) : attributes_(info) {}

  void compute(OrtKernelContext* context) const {
    const Tensor query = input(context, 0), key = input(context, 1), value = input(context, 2);
    const Tensor past_key = input(context, 3), past_value = input(context, 4), total = input(context, 6);
    if (input_data(context, 10) || input_data(context, 11)) fail("attention_bias and head_sink are not here");
    const std::int64_t heads = attributes_.heads, kv_heads = attributes_.kv_heads;
    NewTokens tokens{query.shape.at(0), query.shape.at(1)};
    tokens.head_dim = query.shape.at(2) / (key ? heads : heads + 2 * kv_heads);
    tokens.capacity = std::max<std::int64_t>(past_key.shape.at(2), *total.ints());
    tokens.last_position = input(context, 5);
    tokens.cosine = input(context, 7);
    tokens.sine = input(context, 8);
    AttentionArgs call = attention_call(attributes_, tokens);
    take_packed(call, query.floats(), query.shape[2]);
    if (key) {
      call.key = key.floats();
      call.value = value.floats();
      call.key_stride = key.shape.at(2);
      call.value_stride = value.shape.at(2);
    }
    call.out =
        static_cast<float*>(output(context, 0, std::array{tokens.batch, tokens.length, heads * tokens.head_dim}));
    call.key_cache.data = present<Element>(context, 1, past_key, call);
    call.value_cache.data = present<Element>(context, 2, past_value, call);
    if constexpr (std::is_same_v<Element, std::int8_t>) {
      call.key_cache.scales = cache_scales(input(context, 12), call);
      call.value_cache.scales = cache_scales(input(context, 13), call);
    }
    // A session may run on several threads, each with its own memory.
    thread_local Scratch scratch;
    attention_kernel<Rounded>()(call, {run_parallel, context}, scratch);
  }

 private:
  AttentionAttributes attributes_;
};

}  // namespace edgekiln::ort
