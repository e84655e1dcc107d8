// com.microsoft::GatherBlockQuantized for embedding tables: 4-bit or 8-bit rows in, float rows out. A token needs a few
// hundred bytes of a table of many megabytes, so rows are read from the weights file and the table stays out of memory.
#pragma once

#include <string>
#include <vector>

#include "kernels/common/mapped_file.h"
#include "kernels/kernel_table.h"
#include "ort_ops/ort_api.h"

namespace edgekiln::ort {

class GatherBlockQuantized {
 public:
  enum Input : std::size_t { kCodes, kIndices, kScales, kZeroPoints };
  static constexpr const char* kName = "GatherBlockQuantized";
  static constexpr ONNXTensorElementDataType kInputs[] = {kUint8, kInt64, kFloat, kUint8};
  static constexpr std::size_t kOptional[] = {kZeroPoints};
  static constexpr ONNXTensorElementDataType kOutputs[] = {kFloat};
  static constexpr Signature kSignature{kInputs, kOptional, kOutputs};

  explicit GatherBlockQuantized(const OrtKernelInfo* info)
      : GatherBlockQuantized(info, constant_tensor(info, kCodes)) {}

  void compute(OrtKernelContext* context) const {
    const Tensor indices = input(context, kIndices);
    std::vector<std::int64_t> shape = indices.shape;
    const std::size_t count = element_count(shape);
    shape.push_back(static_cast<std::int64_t>(first_.width));
    auto* out = static_cast<float*>(output(context, 0, shape));
    std::vector<std::uint8_t> codes(first_.code_bytes()), zero_points(first_.zero_point_bytes());
    std::vector<float> scales(first_.blocks());
    BlockQuantizedRow row = first_;
    row.codes = codes.data();
    row.scales = scales.data();
    for (std::size_t i = 0; i < count; ++i, out += row.width) {
      const std::size_t index = row_index(static_cast<const std::int64_t*>(indices.data)[i]);
      codes_.read(first_.codes + index * codes.size(), codes.size(), codes.data());
      scales_.read(first_.scales + index * scales.size(), scales.size() * sizeof(float), scales.data());
      if (first_.zero_points) {
        zero_points_.read(first_.zero_points + index * zero_points.size(), zero_points.size(), zero_points.data());
        row.zero_points = zero_points.data();
      }
      kernels().dequantize_row(row, out);
    }
  }

 private:
  GatherBlockQuantized(const OrtKernelInfo* info, const Tensor& codes)
      : first_(first_row(info, codes)),
        rows_(codes.shape[0]),
        codes_(first_.codes, rows_ * first_.code_bytes()),
        scales_(first_.scales, rows_ * first_.blocks() * sizeof(float)),
        zero_points_(first_.zero_points, first_.zero_points ? rows_ * first_.zero_point_bytes() : 0) {}

  static BlockQuantizedRow first_row(const OrtKernelInfo* info, const Tensor& codes) {
    if (codes.shape.size() != 2) fail("the table must be constant and have two dimensions");
    const std::int64_t bits = integer(info, "bits"), block = integer(info, "block_size");
    if (bits != 4 && bits != 8) fail("bits must be 4 or 8");
    if (integer(info, "gather_axis") != 0 || integer(info, "quantize_axis") != 1)
      fail("gather_axis must be 0 and quantize_axis 1");
    if (block < 1) fail("block_size must be positive");
    BlockQuantizedRow row{};
    row.bits = static_cast<int>(bits);
    row.block = static_cast<std::size_t>(block);
    row.width = codes.shape[1] * (8 / bits);
    row.codes = static_cast<const std::uint8_t*>(codes.data);
    row.scales = constant_input<float>(info, kScales, codes.shape[0] * row.blocks());
    if (!row.scales) fail("scales must be constant");
    if (input_count(info) > kZeroPoints) {
      row.zero_points = constant_input<std::uint8_t>(info, kZeroPoints, codes.shape[0] * row.zero_point_bytes());
      if (!row.zero_points) fail("zero points must be constant");
    }
    return row;
  }

  // Negative indices count from the end.
  std::size_t row_index(std::int64_t index) const {
    const auto rows = static_cast<std::int64_t>(rows_);
    if (index < -rows || index >= rows)
      fail("index " + std::to_string(index) + " is not one of " + std::to_string(rows) + " rows");
    return static_cast<std::size_t>(index < 0 ? index + rows : index);
  }

  BlockQuantizedRow first_;  // of the table in the graph, for the addresses and sizes
  std::size_t rows_;
  MappedFileReader codes_, scales_, zero_points_;
};

}  // namespace edgekiln::ort
