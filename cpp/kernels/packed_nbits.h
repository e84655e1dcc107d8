// Weights in groups of 4 or 8 bits as panels of 16 columns, laid out so that one instruction multiplies four rows of
// depth for all columns of a panel, and so that a product reads memory from front to back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matmul_nbits.h"
#include "kernels/weight_arena.h"

namespace edgekiln {

inline constexpr std::size_t kPanelWidth = 16;

// What a group's codes are relative to, besides its scale.
enum class Zero { kMiddle, kZeroPoints, kOffsets };

// A panel is one record a group: the codes, four rows of depth (two times four for 4 bits: a byte keeps its two codes)
// by 16 columns at a time; 16 scales; then 16 zero points as bytes, or 16 offsets. Scales are binary16 where that holds
// all of them exactly, and with them, for offsets, what code 0 stands for; else they are float.
struct CodePanels {
  std::size_t depth, columns, group;
  int bits;
  Zero zero;
  bool half;
  LastingBytes memory{};
  // Codes stand for themselves plus `shift`, zero points for themselves times `point`: those of the upper halves of
  // codes lie between them.
  float shift = 0.0f, point = 1.0f;

  std::size_t number_bytes() const { return half ? sizeof(Half) : sizeof(float); }
  std::size_t codes_bytes() const { return group * kPanelWidth * bits / 8; }
  std::size_t zero_bytes() const {
    return zero == Zero::kMiddle ? 0 : kPanelWidth * (zero == Zero::kOffsets ? number_bytes() : 1);
  }
  std::size_t record_bytes() const { return codes_bytes() + kPanelWidth * number_bytes() + zero_bytes(); }
  std::size_t groups() const { return depth / group; }
  std::size_t panels() const { return (columns + kPanelWidth - 1) / kPanelWidth; }
  std::size_t panel_bytes() const { return groups() * record_bytes(); }
  const std::uint8_t* panel(std::size_t index) const { return memory.get() + index * panel_bytes(); }
};

// The panels of a call's weight; its activations and output have no meaning here. Throws std::bad_alloc.
CodePanels panels_of(const MatMulNBitsCall& call);

// The same in steps, of a weight whose codes are not all there at once: memory for them, with scales in binary16 if
// `half`, then the columns of `call` from `first` on, a multiple of kPanelWidth.
CodePanels unpacked_panels(const MatMulNBitsCall& call, bool half);
void pack_columns(const MatMulNBitsCall& call, CodePanels& panels, std::size_t first);

// Calls of at least so many rows bring 4-bit weights to 8 bits: 127 steps of the largest that a column can hold in
// kSegment of depth. Fewer rows do not earn back what that takes.
inline constexpr std::size_t kPromptRows = 96, kSegment = 128;

// out[rows, columns] = a[rows, depth] * the weight's transpose. Activations are rounded to int8 in blocks of 32, but
// for more than kQuantizedRows rows times 8-bit weights.
using CodePanelsKernel = void (*)(const CodePanels&, const float* a, std::size_t rows, float* out, const Parallel&,
                                  Scratch&);

}  // namespace edgekiln
