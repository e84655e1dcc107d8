// com.microsoft::GroupQueryAttention on float tensors, over a cache of float or of int8 with constant scales.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <type_traits>

#include "kernels.h"
#include "ort.h"

namespace edgekiln::ort {

// `Element` is that of the cache. `Rounded` takes the kernel that multiplies prompts in bfloat16, which must be there.
template <typename Element, bool Rounded>
class GroupQueryAttention {
 public:
  static constexpr const char* kName = "GroupQueryAttention";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kInt = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  static constexpr bool kInt8 = std::is_same_v<Element, std::int8_t>;
  static constexpr auto kElement = kInt8 ? ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8 : kFloat;
  // query, key, value, past key and value, last positions, total length, cosine, sine, position ids, bias, sinks,
  // scales
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kElement, kElement, kInt,   kInt,
                                                          kFloat, kFloat, kInt,   kFloat,   kFloat,   kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {1, 2, 7, 8, 9, 10, 11, 12, 13};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kElement, kElement};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit GroupQueryAttention(const OrtKernelInfo* info) {
    heads_ = integer(info, "num_heads");
    kv_heads_ = integer(info, "kv_num_heads");
    if (heads_ < 1 || kv_heads_ < 1 || heads_ % kv_heads_) fail("num_heads must be a multiple of kv_num_heads");
    if (integer(info, "smooth_softmax") > 0 || integer(info, "qk_output") > 0)
      fail("smooth_softmax and qk_output are not here");
    rotary_ = integer(info, "do_rotary") != 0;
    interleaved_ = integer(info, "rotary_interleaved") != 0;
    window_ = std::max<std::int64_t>(0, integer(info, "local_window_size"));
    scale_ = real(info, "scale");
    softcap_ = real(info, "softcap");
  }

  void compute(OrtKernelContext* context) const {
    const Tensor query = input(context, 0), key = input(context, 1), value = input(context, 2);
    const Tensor past_key = input(context, 3), past_value = input(context, 4);
    const Tensor last_position = input(context, 5), total = input(context, 6);
    const Tensor cosine = input(context, 7), sine = input(context, 8);
    if (input_data(context, 10) || input_data(context, 11)) fail("attention_bias and head_sink are not here");
    const std::int64_t batch = query.shape.at(0), length = query.shape.at(1);
    const bool packed = !key;
    const std::int64_t head_dim = query.shape.at(2) / (packed ? heads_ + 2 * kv_heads_ : heads_);
    const std::int64_t past_capacity = past_key.shape.at(2);
    const std::int64_t capacity = std::max<std::int64_t>(past_capacity, *total.ints());
    if (rotary_ && (!cosine || !sine)) fail("do_rotary needs cos_cache and sin_cache");

    AttentionCall call{};
    call.batch = batch;
    call.length = length;
    call.heads = heads_;
    call.kv_heads = kv_heads_;
    call.head_dim = head_dim;
    call.capacity = capacity;
    call.query = query.floats();
    call.key = packed ? call.query + heads_ * head_dim : key.floats();
    call.value = packed ? call.key + kv_heads_ * head_dim : value.floats();
    call.query_stride = query.shape[2];
    call.key_stride = packed ? call.query_stride : key.shape.at(2);
    call.value_stride = packed ? call.query_stride : value.shape.at(2);
    call.last_position = last_position.ints();
    for (std::int64_t row = 0; row < batch; ++row) {
      const std::int64_t last = call.last_position[row];
      if (last + 1 < length || last >= capacity) {
        fail("row " + std::to_string(row) + " ends at position " + std::to_string(last) + ", with " +
             std::to_string(length) + " new tokens and room for " + std::to_string(capacity));
      }
      if (rotary_ && last >= cosine.shape.at(0)) fail("position " + std::to_string(last) + " has no rotary angle");
    }
    call.cosine = rotary_ ? cosine.floats() : nullptr;
    call.sine = rotary_ ? sine.floats() : nullptr;
    call.rotary_dim = rotary_ ? 2 * cosine.shape.at(1) : 0;
    call.interleaved = interleaved_;
    call.scale = scale_ != 0.0f ? scale_ : 1.0f / std::sqrt(static_cast<float>(head_dim));
    call.softcap = softcap_;
    call.window = window_;
    call.out = static_cast<float*>(output(context, 0, std::array{batch, length, heads_ * head_dim}));
    call.key_cache.data = present(context, 1, past_key, std::array{batch, kv_heads_, capacity, head_dim});
    call.value_cache.data = present(context, 2, past_value, std::array{batch, kv_heads_, capacity, head_dim});
    if constexpr (kInt8) {
      call.key_cache.scales = scales(input(context, 12), head_dim);
      call.value_cache.scales = scales(input(context, 13), head_dim);
    }
    // A session may run on several threads, each with its own memory.
    thread_local Scratch scratch;
    const Kernels& kernel = kernels().front();
    (Rounded ? kernel.rounded_attention : kernel.attention)(call, {run_parallel, context}, scratch);
  }

 private:
  // The output, which usually is the buffer of the past itself; else the past is copied to it.
  static void* present(OrtKernelContext* context, std::size_t index, const Tensor& past,
                       const std::array<std::int64_t, 4>& dims) {
    auto* to = static_cast<Element*>(output(context, index, dims));
    if (to == past.data) return to;
    const std::int64_t from_size = past.shape.at(2) * dims[3], to_size = dims[2] * dims[3];
    for (std::int64_t head = 0; head < dims[0] * dims[1]; ++head)
      std::copy_n(static_cast<const Element*>(past.data) + head * from_size, from_size, to + head * to_size);
    return to;
  }

  const float* scales(const Tensor& tensor, std::int64_t head_dim) const {
    std::int64_t count = tensor ? 1 : 0;
    for (const std::int64_t size : tensor.shape) count *= size;
    if (count != kv_heads_ * head_dim) fail("an int8 cache needs a scale for each channel of each key-value head");
    return tensor.floats();
  }

  std::int64_t heads_, kv_heads_, window_;
  bool rotary_, interleaved_;
  float scale_, softcap_;
};

}  // namespace edgekiln::ort
