// SimplifiedLayerNormalization (RMS norm) on float tensors: ONNX Runtime's op in the domain of ONNX, which engines use
// for the norm of the embedding, and for those that no other op contains.
#pragma once

#include <vector>

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
    const std::size_t factors = element_count(gamma.shape), elements = element_count(x.shape);
    // torch.onnx gives norms without weights factors of the size of their input, all 1.
    const bool own = width > 0 && factors == static_cast<std::size_t>(width);
    if (width < 1 || (!own && factors != 1 && factors != elements)) fail("gamma is not as wide as the input");
    const std::vector<float> ones(own ? 0 : width, 1.0f);
    // The norm of one head for each token.
    QkvPrologueArgs args{};
    args.tokens = leading_size(x.shape);
    args.heads = 1;
    args.head_dim = width;
    args.from = x.floats();
    args.to = static_cast<float*>(output(context, kOutput, x.shape));
    args.gammas[0] = own ? gamma.floats() : ones.data();
    args.epsilon = epsilon_;
    if (args.tokens) kernels().qkv_prologue(args, {run_parallel, context});
    if (own) return;
    for (std::size_t i = 0; i < elements; ++i) args.to[i] *= gamma.floats()[factors == 1 ? 0 : i];
  }

 private:
  float epsilon_;
};

}  // namespace edgekiln::ort
