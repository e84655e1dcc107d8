// edgekiln.ort::PerTokenInt8MatMul: floats in, each row rounded to int8 inside, times constant int8 weights.
#pragma once

#include "kernels/common/gemv_threads.h"
#include "kernels/kernel_table.h"
#include "kernels/common/mapped_file.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The constant weight [depth, columns] at input `first`, its scales after it. Its file is not read again.
inline PackedInt8 constant_panels(const OrtKernelInfo* info, std::size_t first, std::size_t depth,
                                  std::size_t columns) {
  const auto* codes = constant_input<std::int8_t>(info, first, depth * columns);
  const auto* scales = constant_input<float>(info, first + 1, columns);
  if (!codes || !scales || !depth || !columns) fail("codes and scales must be constants");
  PackedInt8 panels(codes, scales, depth, columns);
  drop_mapped_pages(codes, depth * columns);
  return panels;
}

// An op of our own: graphs bring a function of ONNX Runtime's ops under this name, which is what runs where this kernel
// is not registered.
class PerTokenInt8MatMul {
 public:
  static constexpr const char* kName = "PerTokenInt8MatMul";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kInt8 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  // rows, codes [depth, columns], scales [columns]
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kInt8, kFloat};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, {}, kOutputs};

  explicit PerTokenInt8MatMul(const OrtKernelInfo* info)
      : panels_(constant_panels(info, 1, integer(info, "K"), integer(info, "N"))) {}

  void compute(OrtKernelContext* context) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() != static_cast<std::int64_t>(panels_.k)) fail("the input is not K wide");
    shape.back() = static_cast<std::int64_t>(panels_.n);
    const std::size_t rows = rows_of(shape);
    auto* out = static_cast<float*>(output(context, 0, shape));
    thread_local Scratch own;
    Scratch& scratch = own;
    if (!rows) return;
    run_region(rows, {run_parallel, context}, [&](const Parallel& threads) {
      kernels().per_token_int8_gemm(panels_, a.floats(), rows, out, threads, scratch);
    });
  }

 private:
  PackedInt8 panels_;
};

}  // namespace edgekiln::ort
