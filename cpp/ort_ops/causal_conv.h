// edgekiln.ort::CausalConv: a causal depthwise convolution of tokens, with a state.
#pragma once

#include <array>
#include <cstddef>
#include <string>
#include <vector>

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The constant weight [channels, 1, width] of a convolution, as the kernel reads it.
struct DepthwiseWeight {
  DepthwiseWeight(const OrtKernelInfo* info, std::size_t input) {
    const Tensor weight = constant_tensor(info, input);
    if (!weight || weight.shape.size() != 3) fail("the weight must be constant, [channels, 1, width]");
    channels = static_cast<std::size_t>(weight.shape[0]);
    width = static_cast<std::size_t>(weight.shape[2]);
    if (!width || width > kMaxCausalConvWidth) fail("a convolution is at most 16 wide");
    values.resize(width * channels);
    for (std::size_t channel = 0; channel < channels; ++channel)
      for (std::size_t i = 0; i < width; ++i) values[i * channels + channel] = weight.floats()[channel * width + i];
  }

  std::vector<std::int64_t> state_shape(std::int64_t batch) const {
    return {batch, static_cast<std::int64_t>(channels), static_cast<std::int64_t>(width) - 1};
  }

  std::size_t channels, width;
  std::vector<float> values;  // [width, channels]
};

// Engines define a function over CausalConvWithState under this name, which runs where the kernel is not registered.
// Inputs: x [batch, length, channels], which may have other channels after them, weight [channels, 1, width] and bias
// [channels], both constant, past [batch, channels, width - 1].
class CausalConv {
 public:
  enum Input : std::size_t { kX, kWeight, kBias, kPast };
  enum Output : std::size_t { kOut, kPresent };
  static constexpr const char* kName = "CausalConv";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit CausalConv(const OrtKernelInfo* info) : silu_(text(info, "activation") == "silu"), weight_(info, kWeight) {}

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, kX), bias = input(context, kBias), past = input(context, kPast);
    const auto channels = static_cast<std::int64_t>(weight_.channels);
    if (x.shape.size() != 3 || x.shape[2] < channels || element_count(bias.shape) != weight_.channels)
      fail("x and bias need a value for each channel");
    if (past.shape != weight_.state_shape(x.shape[0])) fail("the past has another shape");
    CausalConvArgs args{};
    args.batch = static_cast<std::size_t>(x.shape[0]);
    args.length = static_cast<std::size_t>(x.shape[1]);
    args.channels = weight_.channels;
    args.width = weight_.width;
    args.x = x.floats();
    args.x_stride = static_cast<std::size_t>(x.shape[2]);
    args.weight = weight_.values.data();
    args.bias = bias.floats();
    args.past = past.floats();
    args.silu = silu_;
    args.out = static_cast<float*>(output(context, kOut, std::vector{x.shape[0], x.shape[1], channels}));
    args.present = static_cast<float*>(output(context, kPresent, past.shape));
    if (!args.batch || !args.length) fail("a convolution needs a token");
    kernels().causal_conv(args, {run_parallel, context});
  }

 private:
  bool silu_;
  DepthwiseWeight weight_;
};

}  // namespace edgekiln::ort
