// com.microsoft::GatherBlockQuantized for embeddings: rows of bytes to rows of floats. A token needs a few hundred
// bytes of a table of many megabytes: they are read from the weights file.
#pragma once

#include <vector>

#include "kernels/common/mapped_file.h"
#include "kernels/common/block_quantized_row.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class GatherRows {
 public:
  static constexpr const char* kName = "GatherBlockQuantized";
  static constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, kByte = ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  // codes, indices, scales, zero points
  static constexpr ONNXTensorElementDataType kInputs[] = {kByte, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, kFloat, kByte};
  static constexpr std::size_t kOptional[] = {3};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit GatherRows(const OrtKernelInfo* info) : GatherRows(info, constant_tensor(info, 0)) {}

  GatherRows(const OrtKernelInfo* info, const Tensor& codes)
      : first_(first_row(info, codes)),
        rows_(codes.shape[0]),
        codes_(first_.codes, rows_ * first_.code_bytes()),
        scales_(first_.scales, rows_ * first_.blocks() * sizeof(float)),
        zero_points_(first_.zero_points, first_.zero_points ? rows_ * first_.zero_point_bytes() : 0) {}

  void compute(OrtKernelContext* context) const {
    const Tensor indices = input(context, 1);
    std::vector<std::int64_t> shape = indices.shape;
    const std::size_t count = elements_of(shape);
    shape.push_back(static_cast<std::int64_t>(first_.width));
    auto* out = static_cast<float*>(output(context, 0, shape));
    std::vector<std::uint8_t> codes(first_.code_bytes()), zero_points(first_.zero_point_bytes());
    std::vector<float> scales(first_.blocks());
    BlockQuantizedRow row = first_;
    row.codes = codes.data();
    row.scales = scales.data();
    for (std::size_t i = 0; i < count; ++i, out += row.width) {
      const std::size_t index = row_of(static_cast<const std::int64_t*>(indices.data)[i]);
      codes_.read(first_.codes + index * codes.size(), codes.size(), codes.data());
      scales_.read(first_.scales + index * scales.size(), scales.size() * sizeof(float), scales.data());
      if (first_.zero_points) {
        zero_points_.read(first_.zero_points + index * zero_points.size(), zero_points.size(), zero_points.data());
        row.zero_points = zero_points.data();
      }
      dequantize(row, out);
    }
  }

 private:
  static BlockQuantizedRow first_row(const OrtKernelInfo* info, const Tensor& codes) {
    if (codes.shape.size() != 2) fail("the table must be constant and of two dimensions");
    const std::int64_t bits = integer(info, "bits"), block = integer(info, "block_size");
    if (bits != 4 && bits != 8) fail("bits must be 4 or 8");
    if (integer(info, "gather_axis") != 0 || integer(info, "quantize_axis") != 1) fail("rows must be gathered");
    if (block < 1) fail("block_size must be positive");
    BlockQuantizedRow row{};
    row.bits = static_cast<int>(bits);
    row.block = static_cast<std::size_t>(block);
    row.width = codes.shape[1] * (8 / bits);
    row.codes = static_cast<const std::uint8_t*>(codes.data);
    row.scales = constant_input<float>(info, 2, codes.shape[0] * row.blocks());
    if (!row.scales) fail("scales must be constant");
    if (input_count(info) > kOptional[0])
      row.zero_points = constant_input<std::uint8_t>(info, 3, codes.shape[0] * row.zero_point_bytes());
    if (input_count(info) > kOptional[0] && !row.zero_points) fail("zero points must be constant");
    return row;
  }

  std::size_t row_of(std::int64_t index) const {
    const auto rows = static_cast<std::int64_t>(rows_);
    if (index < -rows || index >= rows)
      fail("index " + std::to_string(index) + " is not one of " + std::to_string(rows) + " rows");
    return static_cast<std::size_t>(index < 0 ? index + rows : index);
  }

  BlockQuantizedRow first_;
  std::size_t rows_;
  MappedFileReader codes_, scales_, zero_points_;
};

}  // namespace edgekiln::ort
