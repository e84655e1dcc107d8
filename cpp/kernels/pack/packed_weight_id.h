// Identifies a packed weight by what it is made from: initializers at offsets of the weights file, and a layout.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "kernels/common/mapped_file.h"
#include "kernels/pack/pack_cache_file.h"

namespace edgekiln {

// An initializer; null for an input that the weight does not have.
struct WeightInput {
  const void* data;
  std::size_t size;  // bytes
};

// `layout` names the packed layout and every parameter that it depends on. Small inputs count by content, because
// graphs hold them; others by their place in the file of `weights`. Nullopt where an input is in neither: then the
// weight cannot be cached.
std::optional<PackedWeightId> packed_weight_id(const std::string& layout, std::span<const WeightInput> inputs,
                                               const FileMappings& weights);

}  // namespace edgekiln
