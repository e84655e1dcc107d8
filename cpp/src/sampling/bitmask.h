// Which tokens may follow: masks as llguidance and xgrammar make them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace edgekiln {

// One bit a token: bit t % 32 of word t / 32 says whether token t may follow. Tokens beyond the last word may not.
using Bitmask = std::span<const std::uint32_t>;

// Whether `token` may follow.
inline bool allows(Bitmask mask, std::size_t token) {
  const std::size_t word = token / 32;
  return word < mask.size() && (mask[word] >> (token % 32) & 1U);
}

// Ascending ids, below `vocab_size`, of the tokens that may follow.
inline std::vector<std::int32_t> allowed_ids(Bitmask mask, std::size_t vocab_size) {
  std::vector<std::int32_t> ids;
  for (std::size_t word = 0; word < mask.size(); ++word) {
    for (std::uint32_t bits = mask[word]; bits; bits &= bits - 1) {
      const std::size_t token = word * 32 + static_cast<std::size_t>(std::countr_zero(bits));
      if (token >= vocab_size) return ids;
      ids.push_back(static_cast<std::int32_t>(token));
    }
  }
  return ids;
}

}  // namespace edgekiln
