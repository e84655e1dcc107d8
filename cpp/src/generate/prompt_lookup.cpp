#include "generate/prompt_lookup.h"

#include <algorithm>

namespace edgekiln {

namespace {

constexpr std::size_t kLongest = 3;
constexpr std::size_t kShortest = 2;

}  // namespace

Ids PromptLookup::draft(std::size_t max_draft) const {
  const Ids all(tokens_);
  for (std::size_t size = kLongest; size >= kShortest; --size) {
    if (all.size() <= size) continue;
    // An earlier occurrence may overlap the suffix but must end before it.
    const Ids earlier = all.first(all.size() - 1);
    const Ids suffix = all.last(size);
    const auto found = std::find_end(earlier.begin(), earlier.end(), suffix.begin(), suffix.end());
    if (found == earlier.end()) continue;
    const Ids following = all.subspan(static_cast<std::size_t>(found - earlier.begin()) + size);
    return following.first(std::min(max_draft, following.size()));
  }
  return {};
}

}  // namespace edgekiln
