// edgekiln.ort::{Mamba2Mixer,Mamba2MixerNorm}: a Mamba-2 layer between its two projections.
#pragma once

#include <array>
#include <cstddef>
#include <vector>

#include "kernels/common/thread_team.h"
#include "kernels/kernel_table.h"
#include "ort_ops/causal_conv.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define functions under these names, which run where the kernels are not registered. A token of `projected`
// [batch, length, ...] has the gate [heads, value dim], then the channels of the convolution, x [heads, value dim], b
// and c [key heads, key dim], and then dt [heads]. The convolution has a constant weight [channels, 1, width] and its
// state [batch, channels, width - 1], the scan a, d and dt_bias [heads] and its state [batch, heads, key dim, value
// dim].
template <bool Norm>
class Mamba2Mixer {
 public:
  enum Input : std::size_t { kProjected, kWeight, kBias, kA, kD, kDtBias, kPastConv, kPast, kGamma };
  enum Output : std::size_t { kOut, kPresentConv, kPresent };
  static constexpr const char* kName = Norm ? "Mamba2MixerNorm" : "Mamba2Mixer";
  static constexpr auto kInputs = [] {
    std::array<ONNXTensorElementDataType, kGamma + (Norm ? 1 : 0)> types{};
    types.fill(kFloat);
    return types;
  }();
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit Mamba2Mixer(const OrtKernelInfo* info)
      : weight_(info, kWeight),
        least_step_(real(info, "least_step")),
        most_step_(real(info, "most_step")),
        epsilon_(Norm ? real(info, "epsilon") : 0.0f) {}

  void compute(OrtKernelContext* context) const {
    const Tensor projected = input(context, kProjected), past_conv = input(context, kPastConv),
                 past = input(context, kPast);
    if (projected.shape.size() != 3 || past.shape.size() != 4) fail("the projection or the past has another rank");
    const auto size = [](std::int64_t dim) { return static_cast<std::size_t>(dim); };
    const std::size_t batch = size(projected.shape[0]), length = size(projected.shape[1]), tokens = batch * length;
    const std::size_t heads = size(past.shape[1]), key_dim = size(past.shape[2]), value_dim = size(past.shape[3]);
    const std::size_t inner = heads * value_dim, channels = weight_.channels, stride = inner + channels + heads;
    if (!tokens || !inner || !key_dim) fail("a scan needs a token and a head");
    if (key_dim > kMaxLinearAttentionKeyDim) fail("keys are wider than the kernel takes");
    if (size(projected.shape[2]) != stride) fail("the projection has another width");
    const std::size_t keys = channels > inner ? channels - inner : 0, key_heads = keys / (2 * key_dim);
    if (!key_heads || keys % (2 * key_dim) || heads % key_heads) fail("the heads of keys must divide those of values");
    if (past_conv.shape != weight_.state_shape(projected.shape[0]) || past.shape[0] != projected.shape[0])
      fail("the past has another shape");

    CausalConvArgs conv{};
    conv.batch = batch;
    conv.length = length;
    conv.channels = channels;
    conv.width = weight_.width;
    conv.x = projected.floats() + inner;
    conv.x_stride = stride;
    conv.weight = weight_.values.data();
    conv.bias = floats_of(input(context, kBias), channels);
    conv.past = past_conv.floats();
    conv.silu = true;
    thread_local Scratch memory;
    conv.out = at_least(memory, tokens * channels);
    conv.present = static_cast<float*>(output(context, kPresentConv, past_conv.shape));

    LinearAttentionArgs scan{};
    scan.batch = batch;
    scan.length = length;
    scan.heads = heads;
    scan.key_dim = key_dim;
    scan.value_dim = value_dim;
    scan.key_heads = key_heads;
    scan.value = conv.out;
    scan.key = conv.out + inner;
    scan.query = scan.key + key_heads * key_dim;
    scan.key_stride = scan.value_stride = channels;
    scan.past = past.floats();
    scan.decay = projected.floats() + inner + channels;
    scan.decay_stride = stride;
    scan.a = floats_of(input(context, kA), heads);
    scan.dt_bias = floats_of(input(context, kDtBias), heads);
    scan.skip = floats_of(input(context, kD), heads);
    scan.least_step = least_step_;
    scan.most_step = most_step_;
    scan.factor = UpdateFactor::kStep;
    scan.out = static_cast<float*>(
        output(context, kOut, std::vector{projected.shape[0], projected.shape[1], static_cast<std::int64_t>(inner)}));
    scan.present = static_cast<float*>(output(context, kPresent, past.shape));

    GatedRmsNormArgs norm{};
    norm.rows = tokens;
    norm.width = inner;
    norm.x = norm.out = scan.out;
    norm.gate = projected.floats();
    norm.gate_stride = stride;
    norm.gamma = Norm ? floats_of(input(context, kGamma), inner) : nullptr;
    norm.epsilon = epsilon_;

    run_team({run_parallel, context}, [&](const Parallel& parallel) {
      kernels().causal_conv(conv, parallel);
      kernels().linear_attention(scan, parallel);
      kernels().gated_rms_norm(norm, parallel);
    });
  }

 private:
  DepthwiseWeight weight_;
  float least_step_, most_step_, epsilon_;
};

}  // namespace edgekiln::ort
