// edgekiln.ort::SwiGLU on float tensors.
#pragma once

#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// Engines define a function of standard ops under this name, which runs where the kernel is not registered.
class SwiGLU {
 public:
  enum Input : std::size_t { kGateUp };
  static constexpr const char* kName = "SwiGLU";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kInputs};

  explicit SwiGLU(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) const {
    const Tensor gate_up = input(context, kGateUp);
    std::vector<std::int64_t> shape = gate_up.shape;
    if (shape.empty() || shape.back() < 2 || shape.back() % 2)
      fail("the last dimension must be gate and up of the same width");
    shape.back() /= 2;
    SwigluArgs args{leading_size(shape), static_cast<std::size_t>(shape.back()), gate_up.floats(), nullptr};
    args.out = static_cast<float*>(output(context, 0, shape));
    if (args.tokens) kernels().swiglu(args, {run_parallel, context});
  }
};

}  // namespace edgekiln::ort
