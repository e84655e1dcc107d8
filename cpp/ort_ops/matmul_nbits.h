// com.microsoft::MatMulNBits on float tensors, with 4 or 8 bits in blocks of 32, 64 or 128.
#pragma once

#include <optional>

#include "kernels/pack/float16_group_params.h"
#include "kernels/common/gemv_threads.h"
#include "kernels/kernel_table.h"
#include "kernels/common/mapped_file.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

// The constant weight of a product in groups, from input `first` on; without codes where it is not constant.
inline MatMulNBitsArgs constant_weight(const OrtKernelInfo* info, std::size_t first, MatMulNBitsArgs shape, WeightScheme scheme) {
  const std::size_t count = shape.n * shape.groups();
  if (shape.bits != 4 && shape.bits != 8) fail("bits must be 4 or 8");
  if (shape.group_size != 32 && shape.group_size != 64 && shape.group_size != 128) fail("block_size must be 32, 64 or 128");
  if (!shape.k || !shape.n || shape.k % shape.group_size) fail("K must be a multiple of block_size");
  MatMulNBitsArgs weight = shape;
  weight.codes = constant_input<std::uint8_t>(info, first, shape.n * shape.column_bytes());
  weight.scales = constant_input<float>(info, first + 1, count);
  if (scheme == WeightScheme::kGroupBias) weight.group_bias = constant_input<float>(info, first + 2, count);
  if (scheme == WeightScheme::kZeroPoints)
    weight.zero_points = constant_input<std::uint8_t>(info, first + 2, shape.n * shape.zero_point_bytes());
  const bool constant = weight.codes && weight.scales && (weight.group_bias || scheme != WeightScheme::kGroupBias) &&
                        (weight.zero_points || scheme != WeightScheme::kZeroPoints);
  return constant ? weight : shape;
}

// The weight of an op that has no other way than with a constant one; attributes bits and block_size.
inline MatMulNBitsArgs constant_code_weight(const OrtKernelInfo* info, std::size_t first, std::size_t depth,
                                            std::size_t columns, WeightScheme scheme) {
  MatMulNBitsArgs shape{};
  shape.k = depth;
  shape.n = columns;
  shape.group_size = integer(info, "block_size");
  shape.bits = static_cast<int>(integer(info, "bits"));
  const MatMulNBitsArgs weight = constant_weight(info, first, shape, scheme);
  if (!weight.codes) fail("weights must be constant");
  return weight;
}

// The file of a packed weight is not read again.
inline void release(const MatMulNBitsArgs& weight) {
  const std::size_t bytes = weight.n * weight.groups() * sizeof(float);
  drop_mapped_pages(weight.codes, weight.n * weight.column_bytes());
  drop_mapped_pages(weight.scales, bytes);
  if (weight.group_bias) drop_mapped_pages(weight.group_bias, bytes);
}

inline PackedNBits packed(MatMulNBitsArgs weight, const Float16GroupParams& half) {
  weight.float16_scales = half.scales();
  weight.float16_min = half.mins();
  PackedNBits panels = pack_nbits(weight);
  release(weight);
  return panels;
}

inline Float16GroupParams float16_params_of(const MatMulNBitsArgs& weight) {
  return {weight.scales, weight.group_bias, weight.n * weight.groups(), weight.midpoint()};
}

// A product with a constant weight, for processors that have kernels for panels.
class CodeProduct {
 public:
  CodeProduct(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns, WeightScheme scheme)
      : panels_(pack(info, first, depth, columns, scheme)) {}

  void multiply(const float* a, std::size_t rows, float* out, const Parallel& parallel, Scratch& scratch) const {
    kernels().nbits_gemm(panels_, a, rows, out, parallel, scratch);
  }

 private:
  static PackedNBits pack(const OrtKernelInfo* info, std::size_t first, std::size_t depth, std::size_t columns,
                         WeightScheme scheme) {
    const MatMulNBitsArgs weight = constant_code_weight(info, first, depth, columns, scheme);
    return packed(weight, float16_params_of(weight));
  }

  PackedNBits panels_;
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
    const WeightScheme scheme = with_offsets ? WeightScheme::kGroupBias : with_zero_points ? WeightScheme::kZeroPoints : WeightScheme::kSymmetric;
    const MatMulNBitsArgs weight = constant_weight(info, 1, shape(), scheme);
    if (!weight.codes) return;
    half_ = float16_params_of(weight);
    if (!kernels().nbits_gemm) return;
    panels_.emplace(packed(weight, half_));
    half_ = {};
  }

  void multiply(OrtKernelContext* context, bool with_offsets) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> dims = a.shape;
    if (dims.empty() || dims.back() != depth_) fail("the input is not K wide");
    dims.back() = columns_;
    MatMulNBitsArgs call = shape();
    call.m = rows_of(dims);
    call.a = a.floats();
    call.out = static_cast<float*>(output(context, 0, dims));
    thread_local Scratch own;
    Scratch& scratch = own;
    const Parallel parallel{run_parallel, context};
    if (!call.m) return;
    if (panels_) {
      return run_region(call.m, parallel, [&](const Parallel& threads) {
        kernels().nbits_gemm(*panels_, call.a, call.m, call.out, threads, scratch);
      });
    }
    call.codes = static_cast<const std::uint8_t*>(input_data(context, 1));
    call.scales = static_cast<const float*>(input_data(context, 2));
    if (with_offsets) {
      call.group_bias = static_cast<const float*>(input_data(context, 3));
    } else {
      call.zero_points = static_cast<const std::uint8_t*>(input_data(context, 3));
    }
    call.float16_scales = half_.scales();
    call.float16_min = half_.mins();
    kernels().matmul_nbits(call, parallel, scratch);
  }

 private:
  MatMulNBitsArgs shape() const {
    MatMulNBitsArgs call{};
    call.k = depth_;
    call.n = columns_;
    call.group_size = group_;
    call.bits = bits_;
    return call;
  }

  std::int64_t depth_, columns_, group_;
  int bits_;
  Float16GroupParams half_;
  std::optional<PackedNBits> panels_;
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
