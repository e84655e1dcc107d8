// com.microsoft::MatMulNBits on float tensors, with 4 or 8 bits in blocks of 32, 64 or 128.
#pragma once

#include <optional>

#include "kernels/float16_scales.h"
#include "kernels/gemv_threads.h"
#include "kernels/kernel_table.h"
#include "kernels/mapped_file.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The constant weight of a product in groups, from input `first` on; without codes where it is not constant.
inline MatMulNBitsCall constant_weight(const OrtKernelInfo* info, std::size_t first, MatMulNBitsCall shape, Zero zero) {
  const std::size_t count = shape.columns * shape.groups();
  if (shape.bits != 4 && shape.bits != 8) fail("bits must be 4 or 8");
  if (shape.group != 32 && shape.group != 64 && shape.group != 128) fail("block_size must be 32, 64 or 128");
  if (!shape.depth || !shape.columns || shape.depth % shape.group) fail("K must be a multiple of block_size");
  MatMulNBitsCall weight = shape;
  weight.codes = constant_input<std::uint8_t>(info, first, shape.columns * shape.row_bytes());
  weight.scales = constant_input<float>(info, first + 1, count);
  if (zero == Zero::kOffsets) weight.offsets = constant_input<float>(info, first + 2, count);
  if (zero == Zero::kZeroPoints)
    weight.zero_points = constant_input<std::uint8_t>(info, first + 2, shape.columns * shape.zero_point_bytes());
  const bool constant = weight.codes && weight.scales && (weight.offsets || zero != Zero::kOffsets) &&
                        (weight.zero_points || zero != Zero::kZeroPoints);
  return constant ? weight : shape;
}

// The weight of an op that has no other way than with a constant one; attributes bits and block_size.
inline MatMulNBitsCall constant_code_weight(const OrtKernelInfo* info, std::size_t first, std::size_t depth,
                                            std::size_t columns, Zero zero) {
  MatMulNBitsCall shape{};
  shape.depth = depth;
  shape.columns = columns;
  shape.group = integer(info, "block_size");
  shape.bits = static_cast<int>(integer(info, "bits"));
  const MatMulNBitsCall weight = constant_weight(info, first, shape, zero);
  if (!weight.codes) fail("weights must be constant");
  return weight;
}

// The file of a packed weight is not read again.
inline void release(const MatMulNBitsCall& weight) {
  const std::size_t bytes = weight.columns * weight.groups() * sizeof(float);
  release_file_pages(weight.codes, weight.columns * weight.row_bytes());
  release_file_pages(weight.scales, bytes);
  if (weight.offsets) release_file_pages(weight.offsets, bytes);
}

inline CodePanels packed(MatMulNBitsCall weight, const HalfScales& half) {
  weight.half_scales = half.scales();
  weight.half_minima = half.minima();
  CodePanels panels = panels_of(weight);
  release(weight);
  return panels;
}

inline HalfScales half_scales_of(const MatMulNBitsCall& weight) {
  return {weight.scales, weight.offsets, weight.columns * weight.groups(), weight.middle()};
}

// A product with a constant weight, for processors that have kernels for panels.
class CodeProduct {
 public:
  CodeProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns, Zero zero)
      : panels_(pack(info, first, depth, columns, zero)) {}

  void multiply(const float* a, std::size_t rows, float* out, const Parallel& parallel, Scratch& scratch) const {
    kernels().front().code_panels(panels_, a, rows, out, parallel, scratch);
  }

 private:
  static CodePanels pack(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns,
                         Zero zero) {
    const MatMulNBitsCall weight = constant_code_weight(info, first, depth, columns, zero);
    return packed(weight, half_scales_of(weight));
  }

  CodePanels panels_;
};

class MatMulNBits {
 public:
  static constexpr const char* kName = "MatMulNBits";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kByte = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kByte, kFloat, kByte};
  static constexpr std::size_t kOptional[] = {3};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit MatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, false) {}

  void compute(OrtKernelContext* context) const { multiply(context, false); }

 protected:
  // The last input is the zero points or, `with_offsets`, the offsets.
  MatMulNBits(const OrtKernelInfo* info, bool with_offsets)
      : depth_(integer(info, "K")),
        columns_(integer(info, "N")),
        group_(integer(info, "block_size")),
        bits_(static_cast<int>(integer(info, "bits"))) {
    const bool with_zero_points = !with_offsets && input_count(info) > kOptional[0];
    const Zero zero = with_offsets ? Zero::kOffsets : with_zero_points ? Zero::kZeroPoints : Zero::kMiddle;
    const MatMulNBitsCall weight = constant_weight(info, 1, shape(), zero);
    if (!weight.codes) return;
    half_ = half_scales_of(weight);
    if (!kernels().front().code_panels) return;
    panels_.emplace(packed(weight, half_));
    half_ = {};
  }

  void multiply(OrtKernelContext* context, bool with_offsets) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> dims = a.shape;
    if (dims.empty() || dims.back() != depth_) fail("the input is not K wide");
    dims.back() = columns_;
    MatMulNBitsCall call = shape();
    call.rows = rows_of(dims);
    call.a = a.floats();
    call.out = static_cast<float*>(output(context, 0, dims));
    thread_local Scratch own;
    Scratch& scratch = own;
    const Parallel parallel{run_parallel, context};
    if (!call.rows) return;
    if (panels_) {
      return run_rows(call.rows, parallel, [&](const Parallel& threads) {
        kernels().front().code_panels(*panels_, call.a, call.rows, call.out, threads, scratch);
      });
    }
    call.codes = static_cast<const std::uint8_t*>(input_data(context, 1));
    call.scales = static_cast<const float*>(input_data(context, 2));
    if (with_offsets) {
      call.offsets = static_cast<const float*>(input_data(context, 3));
    } else {
      call.zero_points = static_cast<const std::uint8_t*>(input_data(context, 3));
    }
    call.half_scales = half_.scales();
    call.half_minima = half_.minima();
    kernels().front().matmul_n_bits(call, parallel, scratch);
  }

 private:
  MatMulNBitsCall shape() const {
    MatMulNBitsCall call{};
    call.depth = depth_;
    call.columns = columns_;
    call.group = group_;
    call.bits = bits_;
    return call;
  }

  std::int64_t depth_, columns_, group_;
  int bits_;
  HalfScales half_;
  std::optional<CodePanels> panels_;
};

// The same with symmetric codes and a float offset a block. An op of our own: graphs bring a function of ONNX Runtime's
// ops under this name, which is what runs where this kernel is not registered.
class GroupBiasMatMulNBits : public MatMulNBits {
 public:
  static constexpr const char* kName = "GroupBiasMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kByte, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, MatMulNBits::kSignature.outputs};

  explicit GroupBiasMatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, true) {}

  void compute(OrtKernelContext* context) const { multiply(context, true); }
};

}  // namespace edgekiln::ort
