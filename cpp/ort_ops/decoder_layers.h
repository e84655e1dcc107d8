// edgekiln.ort::*DecoderLayers: attention and what follows it, for all layers of a decoder, in one piece. A step of a
// few tokens then is one loop of threads that stay awake, where each node of a graph would hand out its work anew.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "kernels/common/gemv_threads.h"
#include "ort_ops/attention_inputs.h"
#include "ort_ops/post_attention_constants.h"

namespace edgekiln::ort {

// `Element` is that of the cache. `Rounded` takes the kernel that multiplies prompts in bfloat16, which must be there.
// The chain begins with an attention and ends with one; each but the last is followed by a layer's other parts.
template <typename Product, typename Element, bool Rounded>
class DecoderLayers {
 public:
  using Layer = BetweenLayer<Product>;
  static constexpr bool kInt8 = std::is_same_v<Element, std::int8_t>;
  static constexpr const char* kName = kInt8 ? Product::kInt8Layers : Product::kLayers;
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kInt = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
  // projected, residual, last positions, total length, cosine, sine; then of each attention past key and value, for
  // int8 their scales, and what prepares its heads; then of each other part what a layer has
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kInt, kInt, kFloat, kFloat, kAnyType};
  static constexpr std::size_t kFirstCache = 6, kCacheInputs = kInt8 ? 4 : 2;
  static constexpr std::size_t kOptional[] = {4, 5};
  // attended, sum; of each attention present key and value
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat, kCacheType<Element>};
  static constexpr std::size_t kFirstPresent = 2;
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs, {}, true};

  explicit DecoderLayers(const OrtKernelInfo* info)
      : attributes_(info),
        sizes_(info),
        windows_(integers(info, "windows")),
        biased_(integer(info, "biased") != 0),
        normed_(integer(info, "normed") != 0) {
    if (windows_.size() < 2) fail("windows must say the layers");
    if (sizes_.projected % packed_heads()) fail("heads do not fit the projections");
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      heads_.push_back(prepared_heads(info, i));
      scales_.push_back(cache_scales_of(info, i));
    }
    const std::size_t first = first_of(windows_.size());
    if (input_count(info) != first + (windows_.size() - 1) * Layer::kInputs) fail("another number of inputs");
    if (attributes_.heads * head_dim() != sizes_.attended) fail("heads do not fit the attention");
    layers_.reserve(windows_.size() - 1);
    for (std::size_t i = 0; i + 1 < windows_.size(); ++i) layers_.emplace_back(info, first + i * Layer::kInputs);
  }

  void compute(OrtKernelContext* context) const {
    const Tensor projected = input(context, 0), residual = input(context, 1);
    const std::int64_t batch = projected.shape.at(0), length = projected.shape.at(1);
    if (projected.shape != std::vector{batch, length, sizes_.projected}) fail("the input is not as wide as the heads");
    if (residual.shape != std::vector{batch, length, sizes_.hidden}) fail("the residual has another shape");
    Chain chain{*this, projected.floats(), residual.floats(), static_cast<std::size_t>(batch * length)};
    chain.attended = static_cast<float*>(output(context, 0, std::array{batch, length, sizes_.attended}));
    chain.sum = static_cast<float*>(output(context, 1, std::array{batch, length, sizes_.hidden}));
    take_attentions(context, chain, batch, length);
    if (!chain.rows) return;
    thread_local Scratch memory, parts;
    run_region(chain.rows, {run_parallel, context},
             [&, &memory = memory, &parts = parts](const Parallel& parallel) { chain.run(parallel, memory, parts); });
  }

 private:
  // A run.
  struct Chain {
    const DecoderLayers& op;
    const float *projected, *residual;
    std::size_t rows;
    float *attended{}, *sum{};
    std::vector<AttentionArgs> attentions{};

    // `memory` holds what goes from one part of a layer to the next, `parts` what one of them needs.
    void run(const Parallel& parallel, Scratch& memory, Scratch& parts) {
      float* const kept = at_least(memory, op.layers_.front().between(rows));
      for (std::size_t i = 0; i < attentions.size(); ++i) {
        const float* packed = i ? kept : projected;
        if (QkvPrologueArgs heads = op.heads_[i]; heads.bias || heads.gammas[0]) {
          heads.rows = rows;
          heads.from = packed;
          packed = heads.to = kept;
          kernels().qkv_prologue(heads, parallel);
        }
        take_packed(attentions[i], packed, op.sizes_.projected);
        attention_kernel<Rounded>()(attentions[i], parallel, parts);
        if (i + 1 == attentions.size()) return;
        op.layers_[i].compute({attended, i ? sum : residual, rows, kept, sum}, parallel, memory, parts);
      }
    }
  };

  std::int64_t packed_heads() const { return attributes_.heads + 2 * attributes_.kv_heads; }
  std::int64_t head_dim() const { return sizes_.projected / packed_heads(); }

  // The first input that is an attention's own.
  std::size_t first_of(std::size_t attention) const {
    return kFirstCache + attention * (kCacheInputs + (biased_ ? 1 : 0) + (normed_ ? 2 : 0));
  }

  QkvPrologueArgs prepared_heads(const OrtKernelInfo* info, std::size_t attention) const {
    const std::size_t first = first_of(attention) + kCacheInputs, dim = head_dim();
    QkvPrologueArgs call{};
    call.heads = attributes_.heads;
    call.kv_heads = attributes_.kv_heads;
    call.head_dim = dim;
    call.epsilon = real(info, "head_epsilon");
    if (biased_) call.bias = constant_input<float>(info, first, sizes_.projected);
    for (std::size_t i = 0; normed_ && i < 2; ++i)
      call.gammas[i] = constant_input<float>(info, first + (biased_ ? 1 : 0) + i, dim);
    if ((biased_ && !call.bias) || (normed_ && !(call.gammas[0] && call.gammas[1])))
      fail("what prepares heads must be constant");
    return call;
  }

  // Of keys and of values; null for a cache of floats.
  std::array<const float*, 2> cache_scales_of(const OrtKernelInfo* info, std::size_t attention) const {
    std::array<const float*, 2> scales{};
    for (std::size_t i = 0; kInt8 && i < scales.size(); ++i) {
      scales[i] = constant_input<float>(info, first_of(attention) + 2 + i, attributes_.kv_heads * head_dim());
      if (!scales[i]) fail("scales of the cache must be constant");
    }
    return scales;
  }

  void take_attentions(OrtKernelContext* context, Chain& chain, std::int64_t batch, std::int64_t length) const {
    NewTokens tokens{batch, length, head_dim()};
    tokens.capacity = std::max<std::int64_t>(input(context, kFirstCache).shape.at(2), *input(context, 3).ints());
    tokens.last_position = input(context, 2);
    tokens.cosine = input(context, 4);
    tokens.sine = input(context, 5);
    const AttentionArgs common = attention_call(attributes_, tokens);
    chain.attentions.assign(windows_.size(), common);
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      AttentionArgs& call = chain.attentions[i];
      const std::size_t first = first_of(i);
      call.window = static_cast<std::size_t>(windows_[i]);
      call.out = chain.attended;
      const Tensor key = input(context, first), value = input(context, first + 1);
      if (key.shape != value.shape || key.shape.at(2) > tokens.capacity) fail("caches of different shapes");
      call.key_cache.data = present<Element>(context, kFirstPresent + 2 * i, key, call);
      call.value_cache.data = present<Element>(context, kFirstPresent + 2 * i + 1, value, call);
      call.key_cache.scales = scales_[i][0];
      call.value_cache.scales = scales_[i][1];
    }
  }

  AttentionAttributes attributes_;
  typename Layer::Sizes sizes_;
  std::vector<std::int64_t> windows_;
  bool biased_, normed_;
  std::vector<QkvPrologueArgs> heads_{};  // without rows
  std::vector<std::array<const float*, 2>> scales_{};
  std::vector<Layer> layers_;
};

}  // namespace edgekiln::ort
