// Parts a weight of 8 bits into upper and lower halves, once, when a session is made.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/mapped_file.h"
#include "kernels/two_pass_lm_head.h"

namespace edgekiln {

namespace {

constexpr std::size_t kBlock = 32;
constexpr std::size_t kColumns = 256 * kPanelWidth;  // at a time: the memory that this takes on the way
constexpr float kStep = 16.0f;                       // of an upper half, in those of the code

// The scales that memory holds: of whole codes and of upper halves.
bool fit(const MatMulNBitsCall& call) {
  return std::all_of(call.scales, call.scales + call.columns * call.groups(),
                     [](float scale) { return exactly_half(scale) && exactly_half(scale * kStep); });
}

// Columns [first, first + count) of a call.
MatMulNBitsCall part_of(MatMulNBitsCall call, std::size_t first, std::size_t count) {
  call.codes += first * call.row_bytes();
  call.scales += first * call.groups();
  if (call.zero_points) call.zero_points += first * call.zero_point_bytes();
  call.columns = count;
  return call;
}

void pack_upper(const MatMulNBitsCall& part, CodePanels& panels, std::size_t first) {
  std::vector<std::uint8_t> codes(part.columns * part.depth / 2);
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(part.codes[2 * i] >> 4 | (part.codes[2 * i + 1] & 0xf0));
  std::vector<Half> scales(part.columns * part.groups());
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = *exactly_half(part.scales[i] * kStep);
  MatMulNBitsCall upper = part;
  upper.bits = panels.bits;
  upper.zero_point_bits = part.bits;
  upper.codes = codes.data();
  upper.half_scales = scales.data();
  pack_columns(upper, panels, first);
}

void pack_lower(const MatMulNBitsCall& part, std::uint8_t* codes, Half* scales) {
  const std::size_t blocks = part.columns * part.depth / kBlock, blocks_a_group = part.group / kBlock;
  for (std::size_t block = 0; block < blocks; ++block, codes += kBlock / 2) {
    const std::uint8_t* from = part.codes + block * kBlock;
    for (std::size_t i = 0; i < kBlock / 2; ++i)
      codes[i] = static_cast<std::uint8_t>((from[i] & 15) | from[kBlock / 2 + i] << 4);
    scales[block] = *exactly_half(part.scales[block / blocks_a_group]);
  }
}

// Bytes of so many, and zeros that may be read after them.
LastingBytes padded(std::size_t size) {
  LastingBytes memory = lasting_bytes(size + kShortlistPadding);
  std::memset(memory.get() + size, 0, kShortlistPadding);
  return memory;
}

}  // namespace

std::optional<Shortlist> shortlist_of(const MatMulNBitsCall& call, float margin) {
  if (call.bits != 8 || call.offsets || !fit(call)) return std::nullopt;
  MatMulNBitsCall upper = call;
  upper.bits = 4;
  const std::size_t blocks = call.columns * call.depth / kBlock;
  Shortlist shortlist{unpacked_panels(upper, true), padded(blocks * kBlock / 2), padded(blocks * sizeof(Half)), margin};
  shortlist.upper.shift = kMiddleOfLower / kStep;
  shortlist.upper.point = 1.0f / kStep;
  for (std::size_t first = 0; first < call.columns; first += kColumns) {
    const MatMulNBitsCall part = part_of(call, first, std::min(kColumns, call.columns - first));
    pack_upper(part, shortlist.upper, first);
    const std::size_t before = first * call.depth / kBlock;
    pack_lower(part, shortlist.lower.get() + before * kBlock / 2,
               reinterpret_cast<Half*>(shortlist.scales.get()) + before);
    release_file_pages(part.codes, part.columns * part.row_bytes());
  }
  return shortlist;
}

}  // namespace edgekiln
