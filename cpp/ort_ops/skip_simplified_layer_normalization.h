// com.microsoft::SkipSimplifiedLayerNormalization (residual add + RMS norm) on float tensors of one shape.
#pragma once

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class SkipSimplifiedLayerNormalization {
 public:
  enum Input : std::size_t { kInput, kSkip, kGamma, kBias };
  // ONNX Runtime's CPU kernel does not write the mean and the inverse standard deviation either.
  enum Output : std::size_t { kOutput, kMean, kInverseDeviation, kSum };
  static constexpr const char* kName = "SkipSimplifiedLayerNormalization";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {kBias};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr std::size_t kOptionalOutputs[] = {kMean, kInverseDeviation, kSum};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs, kOptionalOutputs};

  explicit SkipSimplifiedLayerNormalization(const OrtKernelInfo* info) : epsilon_(real(info, "epsilon")) {}

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, kInput), b = input(context, kSkip);
    const Tensor gamma = input(context, kGamma), bias = input(context, kBias);
    const std::int64_t width = a.shape.empty() ? 0 : a.shape.back();
    if (a.shape != b.shape) fail("input and skip have different shapes");
    if (width < 1 || gamma.shape != std::vector{width} || (bias && bias.shape != gamma.shape))
      fail("gamma and bias are not as wide as the input");
    SkipRmsNormArgs args{};
    args.tokens = leading_size(a.shape);
    args.width = width;
    args.a = a.floats();
    args.b = b.floats();
    args.gamma = gamma.floats();
    args.bias = bias ? bias.floats() : nullptr;
    args.epsilon = epsilon_;
    args.out = static_cast<float*>(output(context, kOutput, a.shape));
    args.sum = static_cast<float*>(optional_output(context, kSum, a.shape));
    if (args.tokens) kernels().skip_rms_norm(args, {run_parallel, context});
  }

 private:
  float epsilon_;
};

}  // namespace edgekiln::ort
