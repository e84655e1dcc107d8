// Parts a weight of 8 bits into upper and lower halves, once, when a session is made.
#include <cstring>
#include <vector>

#include "half_scales.h"
#include "shortlist.h"

namespace edgekiln {

namespace {

constexpr std::size_t kBlock = 32;

std::vector<std::uint8_t> upper_halves(const MatMulNBitsCall& call) {
  std::vector<std::uint8_t> codes(call.columns * call.depth / 2);
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(call.codes[2 * i] >> 4 | (call.codes[2 * i + 1] & 0xf0));
  return codes;
}

LastingBytes lower_halves(const MatMulNBitsCall& call) {
  const std::size_t blocks = call.columns * call.depth / kBlock;
  LastingBytes memory = lasting_bytes(blocks * kBlock / 2 + kShortlistPadding);
  std::uint8_t* to = memory.get();
  for (std::size_t block = 0; block < blocks; ++block, to += kBlock / 2) {
    const std::uint8_t* from = call.codes + block * kBlock;
    for (std::size_t i = 0; i < kBlock / 2; ++i)
      to[i] = static_cast<std::uint8_t>((from[i] & 15) | from[kBlock / 2 + i] << 4);
  }
  std::memset(to, 0, kShortlistPadding);
  return memory;
}

LastingBytes scales_by_block(const MatMulNBitsCall& call, const Half* scales) {
  const std::size_t blocks = call.columns * call.depth / kBlock, blocks_a_group = call.group / kBlock;
  LastingBytes memory = lasting_bytes(blocks * sizeof(Half) + kShortlistPadding);
  auto* to = reinterpret_cast<Half*>(memory.get());
  for (std::size_t block = 0; block < blocks; ++block) to[block] = scales[block / blocks_a_group];
  std::memset(to + blocks, 0, kShortlistPadding);
  return memory;
}

}  // namespace

std::optional<Shortlist> shortlist_of(const MatMulNBitsCall& call, float margin) {
  constexpr float kStep = 16.0f;  // of an upper half, in those of the code
  if (call.bits != 8 || call.offsets) return std::nullopt;
  const std::size_t count = call.columns * call.groups();
  std::vector<float> scales(call.scales, call.scales + count);
  for (float& scale : scales) scale *= kStep;
  const HalfScales own(call.scales, nullptr, count, 0), larger(scales.data(), nullptr, count, 0);
  if (!own.scales() || !larger.scales()) return std::nullopt;
  const std::vector<std::uint8_t> codes = upper_halves(call);
  MatMulNBitsCall upper = call;
  upper.bits = 4;
  upper.zero_point_bits = call.bits;
  upper.codes = codes.data();
  upper.scales = scales.data();
  upper.half_scales = larger.scales();
  Shortlist shortlist{panels_of(upper), lower_halves(call), scales_by_block(call, own.scales()), margin};
  shortlist.upper.shift = kMiddleOfLower / kStep;
  shortlist.upper.point = 1.0f / kStep;
  return shortlist;
}

}  // namespace edgekiln
