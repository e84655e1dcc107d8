// edgekiln.ort::SwiGLU on float tensors.
#pragma once

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// An op of our own, as PerTokenInt8MatMul is.
class SwiGLU {
 public:
  static constexpr const char* kName = "SwiGLU";
  static constexpr ONNXTensorElementDataType kFloats[] = {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  static constexpr Signature kSignature{kFloats, {}, kFloats};

  explicit SwiGLU(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() < 2 || shape.back() % 2) fail("the input is not gates and as many others");
    shape.back() /= 2;
    SwigluArgs call{rows_of(shape), static_cast<std::size_t>(shape.back()), a.floats(), nullptr};
    call.out = static_cast<float*>(output(context, 0, shape));
    if (call.rows) kernels().swiglu(call, {run_parallel, context});
  }
};

}  // namespace edgekiln::ort
