// SimplifiedLayerNormalization (RMS norm) on float tensors: ONNX Runtime's op in the domain of ONNX, which engines use
// for the norm of the embedding, and for those that no other op contains.
#pragma once

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class SimplifiedLayerNormalization {
 public:
  enum Input : std::size_t { kInput, kGamma };
  // Engines do not use the inverse standard deviation, which is not written.
  enum Output : std::size_t { kOutput, kInverseDeviation };
  static constexpr const char* kName = "SimplifiedLayerNormalization";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat};
  static constexpr std::size_t kOptionalOutputs[] = {kInverseDeviation};
  static constexpr Signature kSignature{kInputs, {}, kOutputs, kOptionalOutputs};

  explicit SimplifiedLayerNormalization(const OrtKernelInfo* info) : epsilon_(real(info, "epsilon")) {}

  void compute(OrtKernelContext* context) const {
    const Tensor x = input(context, kInput), gamma = input(context, kGamma);
    const std::int64_t width = x.shape.empty() ? 0 : x.shape.back();
    if (width < 1 || gamma.shape != std::vector{width}) fail("gamma is not as wide as the input");
    // The norm of one head for each token.
    QkvPrologueArgs args{};
    args.tokens = leading_size(x.shape);
    args.heads = 1;
    args.head_dim = width;
    args.from = x.floats();
    args.to = static_cast<float*>(output(context, kOutput, x.shape));
    args.gammas[0] = gamma.floats();
    args.epsilon = epsilon_;
    if (args.tokens) kernels().qkv_prologue(args, {run_parallel, context});
  }

 private:
  float epsilon_;
};

}  // namespace edgekiln::ort
