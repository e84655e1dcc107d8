// An LM head of 8 bits, packed for two passes: as high and low nibbles.
//
// Pass 1 multiplies the high nibbles for the whole vocabulary. Pass 2 adds the low nibbles for the candidates, whose
// logits are within `margin` of the largest; the others keep the expected value of a low nibble, 7.5. With a margin
// well above the error of that, the largest logits are those of the 8-bit weight, from about half of its bytes.
#pragma once

#include <cstddef>
#include <optional>

#include "kernels/common/float16.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln {

struct PackedLmHead {
  PackedNBits high;
  // [n, k / 32, 16 bytes], column after column: byte i of a block of 32 values of k has the low nibble of value i in
  // its low half and of value 16 + i in its high half. Kernels may read kLmHeadPadding bytes past the end.
  ArenaBytes low;
  ArenaBytes low_scales;  // float16 [n, k / 32], padded too
  float margin;           // in units of logits

  std::size_t blocks() const { return high.k / 32; }
  const std::uint8_t* low_codes_of(std::size_t column) const { return low.get() + column * blocks() * 16; }
  const Float16* low_scales_of(std::size_t column) const {
    return reinterpret_cast<const Float16*>(low_scales.get()) + column * blocks();
  }
};

inline constexpr std::size_t kLmHeadPadding = 64;
inline constexpr std::size_t kLmHeadRows = 32;  // of a call, at most
inline constexpr float kMeanLowNibble = 7.5f;

// Packs the weight of `args`, whose m, a and out are ignored. Returns nullopt where the weight has no 8-bit codes, has
// groups of 16 or a group bias, or has scales that float16 does not hold exactly. Throws std::bad_alloc.
std::optional<PackedLmHead> pack_lm_head(const MatMulNBitsArgs& args, float margin);
std::optional<PackedLmHead> pack_lm_head(const MatMulNBitsArgs& args, float margin, const PackPlace& place);

// The LM head that the cache of `place` has, see find_packed_nbits().
std::optional<PackedLmHead> find_packed_lm_head(const MatMulNBitsArgs& args, float margin, const PackPlace& place);

}  // namespace edgekiln
