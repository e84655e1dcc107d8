// com.microsoft::MatMulNBits on float tensors, with 4 or 8 bits in blocks of 32, 64 or 128.
#pragma once

#include <optional>

#include "file_pages.h"
#include "half_scales.h"
#include "kernels.h"
#include "ort.h"

namespace edgekiln::ort {

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
    if (bits_ != 4 && bits_ != 8) fail("bits must be 4 or 8");
    if (group_ != 32 && group_ != 64 && group_ != 128) fail("block_size must be 32, 64 or 128");
    if (depth_ < 1 || columns_ < 1 || depth_ % group_) fail("K must be a multiple of block_size");
    MatMulNBitsCall weight = shape();
    const std::size_t count = columns_ * (depth_ / group_);
    const bool with_zero_points = !with_offsets && input_count(info) > kOptional[0];
    weight.codes = constant_input<std::uint8_t>(info, 1, columns_ * weight.row_bytes());
    weight.scales = constant_input<float>(info, 2, count);
    if (with_offsets) weight.offsets = constant_input<float>(info, 3, count);
    if (with_zero_points)
      weight.zero_points = constant_input<std::uint8_t>(info, 3, columns_ * weight.zero_point_bytes());
    const bool constant =
        weight.codes && weight.scales && (weight.offsets || !with_offsets) && (weight.zero_points || !with_zero_points);
    if (!constant) return;
    half_ = {weight.scales, weight.offsets, count, weight.middle()};
    if (!kernels().front().code_panels) return;
    weight.half_scales = half_.scales();
    weight.half_minima = half_.minima();
    panels_.emplace(panels_of(weight));
    half_ = {};
    release_file_pages(weight.codes, columns_ * weight.row_bytes());
    release_file_pages(weight.scales, count * sizeof(float));
    if (with_offsets) release_file_pages(weight.offsets, count * sizeof(float));
  }

  void multiply(OrtKernelContext* context, bool with_offsets) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> dims = a.shape;
    if (dims.empty() || dims.back() != depth_) fail("the input is not K wide");
    dims.back() = columns_;
    MatMulNBitsCall call = shape();
    call.rows = 1;
    for (std::size_t i = 0; i + 1 < dims.size(); ++i) call.rows *= dims[i];
    call.a = a.floats();
    call.out = static_cast<float*>(output(context, 0, dims));
    thread_local Scratch scratch;
    const Parallel parallel{run_parallel, context};
    if (!call.rows) return;
    if (panels_) return kernels().front().code_panels(*panels_, call.a, call.rows, call.out, parallel, scratch);
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
class OffsetMatMulNBits : public MatMulNBits {
 public:
  static constexpr const char* kName = "OffsetMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kByte, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, MatMulNBits::kSignature.outputs};

  explicit OffsetMatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, true) {}

  void compute(OrtKernelContext* context) const { multiply(context, true); }
};

}  // namespace edgekiln::ort
