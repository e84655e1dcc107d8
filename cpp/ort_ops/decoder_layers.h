// edgekiln.ort::{GroupBias,ZeroPoint,Symmetric,PerTokenInt8}{,Mixture}DecoderLayers[Int8Cache]: the attentions and
// post-attention blocks of all layers of a decoder. See DecoderStack.
#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

#include "kernels/common/thread_team.h"
#include "ort_ops/attention_inputs.h"
#include "ort_ops/ort_api.h"
#include "ort_ops/post_attention_weights.h"

namespace edgekiln::ort {

// `Constants` are those of a block, see PostAttention. `Element` is the type of the cache; for `Bf16` see
// attention_kernel(). Weights must be constant.
//
// Cosines and sines are those of the new tokens, or tables of all positions. After the inputs of `Input`, each
// attention has inputs past key and past value, the scales of an int8 cache, with attribute `own_lengths` its last
// position and total length in place of those all share, and with attributes `biased` and `normed` the QKV prologue's
// bias and gammas of queries and keys, which with `joint` are as wide as all heads; then each block has its constants.
// After the outputs of `Output`, each attention has outputs present key and present value.
template <typename Constants, typename Element, bool Bf16>
class DecoderLayers {
 public:
  static constexpr bool kHasInt8Cache = std::is_same_v<Element, std::int8_t>;
  enum Input : std::size_t { kProjected, kResidual, kLastPosition, kTotalLength, kCosine, kSine, kFirstAttention };
  enum AttentionInput : std::size_t { kPastKey, kPastValue, kKeyScale, kValueScale };
  static constexpr std::size_t kCacheInputs = kHasInt8Cache ? 4 : 2;
  enum LengthInput : std::size_t { kOwnLastPosition, kOwnTotalLength };
  static constexpr std::size_t kLengthInputs = 2;
  enum Output : std::size_t { kAttended, kSum, kFirstPresent };
  static constexpr const char* kName = kHasInt8Cache ? Constants::kInt8CacheName : Constants::kDecoderLayersName;
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kInt32, kInt32, kFloat, kFloat, kAnyType};
  static constexpr std::size_t kOptional[] = {kCosine, kSine};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat, kCacheType<Element>};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs, {}, true};

  explicit DecoderLayers(const OrtKernelInfo* info)
      : attributes_(info),
        windows_(integers(info, "windows")),
        own_lengths_(integer(info, "own_lengths") != 0),
        biased_(integer(info, "biased") != 0),
        normed_(integer(info, "normed") != 0),
        joint_(integer(info, "joint") != 0) {
    stack_.widths = decoder_widths(info);
    if (windows_.size() < 2) fail("windows must have an entry for each of two or more attentions");
    if (stack_.widths.projected % (attributes_.heads + 2 * attributes_.kv_heads))
      fail("the heads do not fit the projections");
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      stack_.prologues.push_back(load_prologue(info, i));
      scales_.push_back(load_cache_scales(info, i));
    }
    const std::size_t blocks = windows_.size() - 1, first = attention_input(windows_.size());
    const std::size_t constants = Constants::count(info), expected = first + blocks * constants;
    if (input_count(info) != expected)
      fail("the node has " + std::to_string(input_count(info)) + " inputs, not " + std::to_string(expected));
    if (attributes_.heads * head_dim() != stack_.widths.attended) fail("the heads do not fit the attention's output");
    stack_.blocks.reserve(blocks);
    const WeightPacker packer(info);
    for (std::size_t i = 0; i < blocks; ++i) stack_.blocks.push_back(Constants::load(packer, first + i * constants));
  }

  void compute(OrtKernelContext* context) const {
    const Tensor projected = input(context, kProjected), residual = input(context, kResidual);
    const auto width = [](std::size_t size) { return static_cast<std::int64_t>(size); };
    const DecoderWidths& widths = stack_.widths;
    const std::int64_t batch = projected.shape.at(0), length = projected.shape.at(1);
    if (projected.shape != std::vector{batch, length, width(widths.projected)})
      fail("the input is not as wide as the heads");
    if (residual.shape != std::vector{batch, length, width(widths.hidden)}) fail("the residual has another shape");
    DecoderStackArgs args{projected.floats(), residual.floats(), static_cast<std::size_t>(batch * length),
                          static_cast<std::size_t>(length)};
    args.attended = static_cast<float*>(output(context, kAttended, std::array{batch, length, width(widths.attended)}));
    args.sum = static_cast<float*>(output(context, kSum, std::array{batch, length, width(widths.hidden)}));
    args.attention = attention_kernel<Bf16>();
    args.attentions = attentions(context, batch, length, args.attended);
    if (!args.m) return;
    // Captured by reference to this thread's: the region may run on another thread.
    thread_local DecoderScratch own_scratch;
    run_team({run_parallel, context},
             [&, &scratch = own_scratch](const Parallel& parallel) { stack_.compute(args, parallel, scratch); });
  }

 private:
  std::size_t head_dim() const {
    return stack_.widths.projected / static_cast<std::size_t>(attributes_.heads + 2 * attributes_.kv_heads);
  }

  // The index of an attention's first input; for one past the last attention, of the first block's.
  std::size_t attention_input(std::size_t attention) const {
    return kFirstAttention + attention * (prologue_input() + (biased_ ? 1 : 0) + (normed_ ? 2 : 0));
  }

  // The index of the first constant of the QKV prologue, from an attention's first input.
  std::size_t prologue_input() const { return kCacheInputs + (own_lengths_ ? kLengthInputs : 0); }

  // Without the number of tokens and their projections.
  QkvPrologueArgs load_prologue(const OrtKernelInfo* info, std::size_t attention) const {
    const std::size_t bias = attention_input(attention) + prologue_input(), gammas = bias + (biased_ ? 1 : 0);
    QkvPrologueArgs args{};
    args.heads = attributes_.heads;
    args.kv_heads = attributes_.kv_heads;
    args.head_dim = head_dim();
    args.epsilon = real(info, "head_epsilon");
    args.joint = joint_;
    if (biased_) args.bias = constant_input<float>(info, bias, stack_.widths.projected);
    for (std::size_t i = 0; normed_ && i < 2; ++i)
      args.gammas[i] = constant_input<float>(info, gammas + i, args.norm_width(i == 1));
    if ((biased_ && !args.bias) || (normed_ && !(args.gammas[0] && args.gammas[1])))
      fail("the bias and the norms of heads must be constant");
    return args;
  }

  // Of keys and of values; null for a float cache.
  std::array<const float*, 2> load_cache_scales(const OrtKernelInfo* info, std::size_t attention) const {
    std::array<const float*, 2> scales{};
    for (std::size_t i = 0; kHasInt8Cache && i < scales.size(); ++i) {
      scales[i] =
          constant_input<float>(info, attention_input(attention) + kKeyScale + i, attributes_.kv_heads * head_dim());
      if (!scales[i]) fail("the scales of the cache must be constant");
    }
    return scales;
  }

  // `tokens` with the lengths of an attention.
  NewTokens with_lengths(OrtKernelContext* context, std::size_t attention, NewTokens tokens) const {
    const std::size_t own = attention_input(attention) + kCacheInputs;
    tokens.last_position = input(context, own_lengths_ ? own + kOwnLastPosition : std::size_t{kLastPosition});
    const Tensor total = input(context, own_lengths_ ? own + kOwnTotalLength : std::size_t{kTotalLength});
    tokens.capacity =
        std::max<std::int64_t>(input(context, attention_input(attention) + kPastKey).shape.at(2), *total.ints());
    return tokens;
  }

  std::vector<AttentionArgs> attentions(OrtKernelContext* context, std::int64_t batch, std::int64_t length,
                                        float* attended) const {
    NewTokens tokens{batch, length, static_cast<std::int64_t>(head_dim())};
    tokens.cosine = input(context, kCosine);
    tokens.sine = input(context, kSine);
    std::vector<AttentionArgs> all;
    all.reserve(windows_.size());
    for (std::size_t i = 0; i < windows_.size(); ++i) {
      const std::size_t first = attention_input(i);
      const Tensor key = input(context, first + kPastKey), value = input(context, first + kPastValue);
      if (own_lengths_ || !i)
        all.push_back(attention_args(attributes_, with_lengths(context, i, tokens)));
      else
        all.push_back(all.front());
      AttentionArgs& args = all[i];
      args.window = static_cast<std::size_t>(windows_[i]);
      args.out = attended;
      if (key.shape != value.shape || key.shape.at(2) > static_cast<std::int64_t>(args.capacity))
        fail("the caches have different shapes");
      args.key_cache.data = present<Element>(context, kFirstPresent + 2 * i, key, args);
      args.value_cache.data = present<Element>(context, kFirstPresent + 2 * i + 1, value, args);
      args.key_cache.scales = scales_[i][0];
      args.value_cache.scales = scales_[i][1];
    }
    return all;
  }

  AttentionAttributes attributes_;
  std::vector<std::int64_t> windows_;  // attention windows in tokens, one an attention; 0 is none
  bool own_lengths_, biased_, normed_, joint_;
  std::vector<std::array<const float*, 2>> scales_{};
  DecoderStack<typename Constants::Block> stack_{};
};

}  // namespace edgekiln::ort
