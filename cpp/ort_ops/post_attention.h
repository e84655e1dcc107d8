// edgekiln.ort::*PostAttention: what lies between a decoder layer's attention and the next one's, in one piece.
#pragma once

#include <array>

#include "kernels/common/gemv_threads.h"
#include "ort_ops/post_attention_constants.h"

namespace edgekiln::ort {

// An op of our own, as PerTokenInt8MatMul is; with constant weights only.
template <typename Product>
class PostAttention {
 public:
  static constexpr const char* kName = Product::kBetween;
  using Layer = BetweenLayer<Product>;
  static constexpr std::size_t kFirstConstant = 2;
  // attended, residual, and what a layer has
  static constexpr auto kInputs = [] {
    std::array<ONNXTensorElementDataType, kFirstConstant + Layer::kInputs> types{};
    types.fill(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    std::copy(Layer::kTypes.begin(), Layer::kTypes.end(), types.begin() + kFirstConstant);
    return types;
  }();
  // projected, sum
  static constexpr std::array kOutputs{ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit PostAttention(const OrtKernelInfo* info) : sizes_(info), layer_(info, kFirstConstant) {}

  void compute(OrtKernelContext* context) const {
    const Tensor attended = input(context, 0), residual = input(context, 1);
    std::vector<std::int64_t> shape = attended.shape;
    if (shape.empty() || shape.back() != sizes_.attended) fail("the input is not as wide as the attention");
    shape.back() = sizes_.hidden;
    if (residual.shape != shape) fail("the residual has another shape than the output");
    const std::size_t count = rows_of(shape);
    auto* sum = static_cast<float*>(output(context, 1, shape));
    shape.back() = sizes_.projected;
    auto* projected = static_cast<float*>(output(context, 0, shape));
    if (!count) return;
    const typename Layer::Rows rows{attended.floats(), residual.floats(), count, projected, sum};
    thread_local Scratch memory, products;
    run_region(count, {run_parallel, context}, [&, &memory = memory, &products = products](const Parallel& parallel) {
      layer_.compute(rows, parallel, memory, products);
    });
  }

 private:
  typename Layer::Sizes sizes_;
  Layer layer_;
};

}  // namespace edgekiln::ort
