// Cos and Sin of float tensors, ONNX's ops, for the angles of rotary embeddings. ONNX Runtime's have other last bits on
// other processors, and at the end of a tensor than before it, so that a token's would depend on the tokens beside it.
#pragma once

#include <algorithm>
#include <cmath>

#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The functions of the C library; glibc's have errors of up to 0.56 units in the last place at any angle.
struct CosFunction {
  static constexpr const char* kName = "Cos";
  static float of(float angle) { return std::cos(angle); }
};
struct SinFunction {
  static constexpr const char* kName = "Sin";
  static float of(float angle) { return std::sin(angle); }
};

template <typename Function>
class OfAngles {
 public:
  static constexpr const char* kName = Function::kName;
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit OfAngles(const OrtKernelInfo*) {}

  void compute(OrtKernelContext* context) const {
    const Tensor angles = input(context, 0);
    auto* const to = static_cast<float*>(output(context, 0, angles.shape));
    std::transform(angles.floats(), angles.floats() + element_count(angles.shape), to, Function::of);
  }
};

using Cos = OfAngles<CosFunction>;
using Sin = OfAngles<SinFunction>;

}  // namespace edgekiln::ort
