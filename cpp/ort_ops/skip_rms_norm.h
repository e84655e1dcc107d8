// com.microsoft::SkipSimplifiedLayerNormalization on float tensors of one shape.
#pragma once

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class SkipNorm {
 public:
  static constexpr const char* kName = "SkipSimplifiedLayerNormalization";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  // input, skip, gamma, bias
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr std::size_t kOptional[] = {3};
  // output, mean and inverse deviation (which ONNX Runtime's CPU kernel leaves out too), sum
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat, kFloat, kFloat, kFloat};
  static constexpr std::size_t kOptionalOutputs[] = {1, 2, 3};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs, kOptionalOutputs};

  explicit SkipNorm(const OrtKernelInfo* info) : epsilon_(real(info, "epsilon")) {}

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, 0), b = input(context, 1), gamma = input(context, 2), bias = input(context, 3);
    const std::int64_t width = a.shape.empty() ? 0 : a.shape.back();
    if (a.shape != b.shape) fail("input and skip have different shapes");
    if (width < 1 || gamma.shape != std::vector{width} || (bias && bias.shape != gamma.shape))
      fail("gamma and bias are not as wide as the input");
    SkipRmsNormArgs call{};
    call.rows = rows_of(a.shape);
    call.width = width;
    call.a = a.floats();
    call.b = b.floats();
    call.gamma = gamma.floats();
    call.bias = bias ? bias.floats() : nullptr;
    call.epsilon = epsilon_;
    call.out = static_cast<float*>(output(context, 0, a.shape));
    call.sum = static_cast<float*>(optional_output(context, 3, a.shape));
    if (call.rows) kernels().skip_rms_norm(call, {run_parallel, context});
  }

 private:
  float epsilon_;
};

}  // namespace edgekiln::ort
