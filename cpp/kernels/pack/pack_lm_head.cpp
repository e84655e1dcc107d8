// Splits an 8-bit LM head into high and low nibbles and packs both, once, when a session is created.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/common/mapped_file.h"
#include "kernels/pack/packed_lm_head.h"

namespace edgekiln {

namespace {

constexpr std::size_t kBlock = 32;
constexpr std::size_t kChunkColumns = 256 * kPanelWidth;  // split at a time, which bounds the temporary memory
constexpr float kHighStep = 16.0f;                        // one step of a high nibble, in steps of the code

// Whether float16 holds the scales of the low and of the high nibbles exactly.
bool scales_fit(const MatMulNBitsArgs& args) {
  return std::all_of(args.scales, args.scales + args.n * args.groups(),
                     [](float scale) { return exact_float16(scale) && exact_float16(scale * kHighStep); });
}

MatMulNBitsArgs columns_of(MatMulNBitsArgs args, std::size_t first, std::size_t count) {
  args.codes += first * args.column_bytes();
  args.scales += first * args.groups();
  if (args.zero_points) args.zero_points += first * args.zero_point_bytes();
  args.n = count;
  return args;
}

void pack_high(const MatMulNBitsArgs& chunk, PackedNBits& weight, std::size_t first) {
  std::vector<std::uint8_t> codes(chunk.n * chunk.k / 2);
  for (std::size_t i = 0; i < codes.size(); ++i)
    codes[i] = static_cast<std::uint8_t>(chunk.codes[2 * i] >> 4 | (chunk.codes[2 * i + 1] & 0xf0));
  std::vector<Float16> scales(chunk.n * chunk.groups());
  for (std::size_t i = 0; i < scales.size(); ++i) scales[i] = *exact_float16(chunk.scales[i] * kHighStep);
  MatMulNBitsArgs high = chunk;
  high.bits = weight.bits;
  high.zero_point_bits = chunk.bits;
  high.codes = codes.data();
  high.float16_scales = scales.data();
  pack_columns(high, weight, first);
}

void pack_low(const MatMulNBitsArgs& chunk, std::uint8_t* codes, Float16* scales) {
  const std::size_t blocks = chunk.n * chunk.k / kBlock, blocks_per_group = chunk.group_size / kBlock;
  for (std::size_t block = 0; block < blocks; ++block, codes += kBlock / 2) {
    const std::uint8_t* from = chunk.codes + block * kBlock;
    for (std::size_t i = 0; i < kBlock / 2; ++i)
      codes[i] = static_cast<std::uint8_t>((from[i] & 15) | from[kBlock / 2 + i] << 4);
    scales[block] = *exact_float16(chunk.scales[block / blocks_per_group]);
  }
}

ArenaBytes padded(std::size_t size) {
  ArenaBytes memory = arena_allocate(size + kLmHeadPadding);
  std::memset(memory.get() + size, 0, kLmHeadPadding);
  return memory;
}

}  // namespace

std::optional<PackedLmHead> pack_lm_head(const MatMulNBitsArgs& args, float margin) {
  if (args.bits != 8 || args.group_bias || !scales_fit(args)) return std::nullopt;
  MatMulNBitsArgs high = args;
  high.bits = 4;
  const std::size_t blocks = args.n * args.k / kBlock;
  PackedLmHead head{
      .high = allocate_packed_nbits(high, true),
      .low = padded(blocks * kBlock / 2),
      .low_scales = padded(blocks * sizeof(Float16)),
      .margin = margin,
  };
  head.high.code_offset = kMeanLowNibble / kHighStep;
  head.high.zero_point_scale = 1.0f / kHighStep;
  for (std::size_t first = 0; first < args.n; first += kChunkColumns) {
    const MatMulNBitsArgs chunk = columns_of(args, first, std::min(kChunkColumns, args.n - first));
    pack_high(chunk, head.high, first);
    const std::size_t before = first * args.k / kBlock;
    pack_low(chunk, head.low.get() + before * kBlock / 2, reinterpret_cast<Float16*>(head.low_scales.get()) + before);
    drop_mapped_pages(chunk.codes, chunk.n * chunk.column_bytes());
  }
  return head;
}

}  // namespace edgekiln
