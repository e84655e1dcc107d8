// The merge table of a BPE model: pairs of tokens, the token that they merge into, and their rank.
#pragma once

#include <cstdint>
#include <vector>

namespace edgekiln::text {

struct Merge {
  std::uint32_t rank;  // the lowest is merged first
  std::uint32_t id;    // of the merged token
};

// An open-addressing hash table: encoding spends most of its time in its lookups.
class Merges {
 public:
  explicit Merges(std::size_t count = 0);

  // At most `count` pairs. An existing pair is replaced.
  void add(std::uint32_t left, std::uint32_t right, Merge merge);

  // Null if the pair does not merge.
  const Merge* find(std::uint32_t left, std::uint32_t right) const {
    const Slot& slot = slots_[place(left, right)];
    return slot.used ? &slot.merge : nullptr;
  }

 private:
  struct Slot {
    std::uint32_t left = 0;
    std::uint32_t right = 0;
    Merge merge = {};
    bool used = false;
  };

  std::size_t place(std::uint32_t left, std::uint32_t right) const {
    std::uint64_t hash = (std::uint64_t{left} << 32 | right) * 0x9E3779B97F4A7C15;
    hash = (hash ^ hash >> 32) * 0xD6E8FEB86659FD93;
    std::size_t at = static_cast<std::size_t>(hash >> 32) & (slots_.size() - 1);
    while (slots_[at].used && (slots_[at].left != left || slots_[at].right != right))
      at = (at + 1) & (slots_.size() - 1);
    return at;
  }

  std::vector<Slot> slots_;  // its size is a power of two and it is never full
};

}  // namespace edgekiln::text
