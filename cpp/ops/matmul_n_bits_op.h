// com.microsoft::MatMulNBits on float tensors, with 4 or 8 bits in blocks of 32, 64 or 128.
#pragma once

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
    const std::size_t count = columns_ * (depth_ / group_);
    const float* scales = constant_floats(info, 2, count);
    const float* offsets = with_offsets ? constant_floats(info, 3, count) : nullptr;
    if (scales && (offsets || !with_offsets)) half_ = {scales, offsets, count, 1 << (bits_ - 1)};
  }

  void multiply(OrtKernelContext* context, bool with_offsets) const {
    const Tensor a = input(context, 0);
    std::vector<std::int64_t> shape = a.shape;
    if (shape.empty() || shape.back() != depth_) fail("the input is not K wide");
    shape.back() = columns_;
    MatMulNBitsCall call{};
    call.rows = 1;
    for (std::size_t i = 0; i + 1 < shape.size(); ++i) call.rows *= shape[i];
    call.depth = depth_;
    call.columns = columns_;
    call.group = group_;
    call.bits = bits_;
    call.a = a.floats();
    call.codes = static_cast<const std::uint8_t*>(input_data(context, 1));
    call.scales = static_cast<const float*>(input_data(context, 2));
    if (with_offsets) {
      call.offsets = static_cast<const float*>(input_data(context, 3));
    } else {
      call.zero_points = static_cast<const std::uint8_t*>(input_data(context, 3));
    }
    call.half_scales = half_.scales();
    call.half_minima = half_.minima();
    call.out = static_cast<float*>(output(context, 0, shape));
    thread_local Scratch scratch;
    if (call.rows) kernels().front().matmul_n_bits(call, {run_parallel, context}, scratch);
  }

 private:
  std::int64_t depth_, columns_, group_;
  int bits_;
  HalfScales half_;
};

// The same with symmetric codes and a float offset a block. An op of our own: graphs bring a function of ONNX Runtime's
// ops under this name, which is what runs where this kernel is not registered.
class OffsetMatMulNBits : public MatMulNBits {
 public:
  static constexpr const char* kDomain = "edgekiln.ort";
  static constexpr const char* kName = "OffsetMatMulNBits";
  static constexpr ONNXTensorElementDataType kInputs[] = {kFloat, kByte, kFloat, kFloat};
  static constexpr Signature kSignature{kInputs, {}, MatMulNBits::kSignature.outputs};

  explicit OffsetMatMulNBits(const OrtKernelInfo* info) : MatMulNBits(info, true) {}

  void compute(OrtKernelContext* context) const { multiply(context, true); }
};

}  // namespace edgekiln::ort
