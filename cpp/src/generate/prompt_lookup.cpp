#include "generate/prompt_lookup.h"

#include <algorithm>

namespace edgekiln {

namespace {

constexpr std::size_t kLongest = 3;
constexpr std::size_t kShortest = 2;

}  // namespace

Ids PromptLookup::draft(std::size_t most) const {
  const Ids all(tokens_);
  for (std::size_t size = kLongest; size >= kShortest; --size) {
    if (all.size() <= size) continue;
    // An earlier occurrence may overlap with the end, but ends before it.
    const Ids earlier = all.first(all.size() - 1);
    const Ids end = all.last(size);
    const auto found = std::find_end(earlier.begin(), earlier.end(), end.begin(), end.end());
    if (found == earlier.end()) continue;
    const Ids following = all.subspan(static_cast<std::size_t>(found - earlier.begin()) + size);
    return following.first(std::min(most, following.size()));
  }
  return {};
}

}  // namespace edgekiln
