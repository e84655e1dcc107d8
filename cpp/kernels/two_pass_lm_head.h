// Products with a vocabulary, whose largest results matter: weights of 8 bits as their upper and lower 4.
//
// The upper halves are multiplied with all columns. Columns whose result then is within a margin of the row's largest
// also get the lower halves, which for the others are not read: they keep what the middle of the lower half gives. With
// a margin well above the error of that, the largest result and those near it are those of 8 bits.
#pragma once

#include <cstddef>
#include <optional>

#include "kernels/float16.h"
#include "kernels/packed_nbits.h"

namespace edgekiln {

struct Shortlist {
  CodePanels upper;
  // The lower halves as rows of depth, block after block of 32: the low nibbles are the first 16 of a block. Then the
  // same for scales, one a block. Both may be read kShortlistPadding bytes past their end.
  LastingBytes lower;
  LastingBytes scales;
  float margin;

  std::size_t blocks() const { return upper.depth / 32; }
  const std::uint8_t* lower_of(std::size_t column) const { return lower.get() + column * blocks() * 16; }
  const Half* scales_of(std::size_t column) const {
    return reinterpret_cast<const Half*>(scales.get()) + column * blocks();
  }
};

inline constexpr std::size_t kShortlistPadding = 64;
// What stands for a lower half that is not read.
inline constexpr float kMiddleOfLower = 7.5f;

// A call's weight in two halves; its activations and output have no meaning here. Empty where its codes are not of 8
// bits, have float offsets, or scales that binary16 does not hold. Throws std::bad_alloc.
std::optional<Shortlist> shortlist_of(const MatMulNBitsCall& call, float margin);

// out[rows, columns] = a[rows, depth] * the weight's transpose, for up to kQuantizedRows rows; activations are rounded
// to int8 in blocks of 32.
using ShortlistKernel = void (*)(const Shortlist&, const float* a, std::size_t rows, float* out, const Parallel&,
                                 Scratch&);

}  // namespace edgekiln
