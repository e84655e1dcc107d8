#include "kernels/pack/packed_weight_id.h"

namespace edgekiln {

namespace {

constexpr std::size_t kSmall = 4096;  // engines hold initializers of up to 1 KiB in their graphs

}  // namespace

std::optional<PackedWeightId> packed_weight_id(const std::string& layout, std::span<const WeightInput> inputs,
                                               const FileMappings& weights) {
  std::string text = layout;
  for (const auto& [data, size] : inputs) {
    text += '|';
    if (!data) continue;
    text += std::to_string(size);
    if (const std::optional<std::size_t> offset = weights.offset_of(data, size)) {
      text += '@' + std::to_string(*offset);
    } else if (size <= kSmall) {
      text += '#' + std::to_string(checksum_of(data, size)) + '.' + std::to_string(checksum_of(data, size, 1));
    } else {
      return std::nullopt;
    }
  }
  return PackedWeightId{checksum_of(text.data(), text.size()), checksum_of(text.data(), text.size(), 1)};
}

}  // namespace edgekiln
