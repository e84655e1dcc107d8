// com.microsoft::GatherBlockQuantized for embeddings: rows of bytes to rows of floats. A token needs a few hundred
// bytes of a table of many megabytes, but the system maps up to 2 MB around them; ours hands those back.
#pragma once

#include <algorithm>
#include <vector>

#include "file_pages.h"
#include "ort.h"
#include "quantized_rows.h"

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

  explicit GatherRows(const OrtKernelInfo* info)
      : table_(constant_table(info)),
        codes_(table_.codes, table_.rows * table_.row_bytes()),
        scales_(table_.scales, table_.rows * table_.blocks() * sizeof(float)) {}

  void compute(OrtKernelContext* context) const {
    const Tensor indices = input(context, 1);
    std::vector<std::int64_t> shape = indices.shape;
    std::size_t count = 1;
    for (const std::int64_t dim : shape) count *= dim;
    shape.push_back(static_cast<std::int64_t>(table_.width));
    auto* out = static_cast<float*>(output(context, 0, shape));
    std::vector<Row> rows(count);
    for (std::size_t i = 0; i < count; ++i)
      rows[i] = {row_of(static_cast<const std::int64_t*>(indices.data)[i]), out + i * table_.width};
    // In the table's order, what is near each other is read together.
    std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.index < b.index; });
    for (std::size_t i = 0; i < count; ++i) {
      if (i && region(rows[i]) != region(rows[i - 1])) release();
      table_.read(rows[i].index, rows[i].out);
    }
    release();
  }

 private:
  static constexpr std::size_t kMapped = 2 << 20;

  struct Row {
    std::size_t index;
    float* out;
  };

  std::size_t row_of(std::int64_t index) const {
    const auto rows = static_cast<std::int64_t>(table_.rows);
    if (index < -rows || index >= rows)
      fail("index " + std::to_string(index) + " is not one of " + std::to_string(rows) + " rows");
    return static_cast<std::size_t>(index < 0 ? index + rows : index);
  }

  std::size_t region(const Row& row) const { return row.index * table_.row_bytes() / kMapped; }

  static QuantizedRows constant_table(const OrtKernelInfo* info) {
    const Tensor codes = constant_tensor(info, 0);
    if (!codes || codes.shape.size() != 2) fail("the table must be constant and of two dimensions");
    const std::int64_t bits = integer(info, "bits"), block = integer(info, "block_size");
    if (bits != 4 && bits != 8) fail("bits must be 4 or 8");
    if (integer(info, "gather_axis") != 0 || integer(info, "quantize_axis") != 1) fail("rows must be gathered");
    if (block < 1) fail("block_size must be positive");
    QuantizedRows table{};
    table.bits = static_cast<int>(bits);
    table.block = static_cast<std::size_t>(block);
    table.rows = codes.shape[0];
    table.width = codes.shape[1] * (8 / bits);
    table.codes = static_cast<const std::uint8_t*>(codes.data);
    table.scales = constant_input<float>(info, 2, table.rows * table.blocks());
    if (!table.scales) fail("scales must be constant");
    if (input_count(info) > kOptional[0])
      table.zero_points = constant_input<std::uint8_t>(info, 3, table.rows * table.zero_point_bytes());
    if (input_count(info) > kOptional[0] && !table.zero_points) fail("zero points must be constant");
    return table;
  }

  void release() const {
    codes_.release();
    scales_.release();
  }

  QuantizedRows table_;
  FilePages codes_, scales_;
};

}  // namespace edgekiln::ort
