#include "text/merges.h"

#include <bit>

namespace edgekiln::text {

Merges::Merges(std::size_t count) : slots_(std::bit_ceil(count + count / 3 + 1)) {}

void Merges::add(std::uint32_t left, std::uint32_t right, Merge merge) {
  slots_[place(left, right)] = {left, right, merge, true};
}

}  // namespace edgekiln::text
