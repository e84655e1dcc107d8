// Splits an 8-bit LM head into high and low nibbles and packs both, once, when a session is created.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/common/aligned.h"
#include "kernels/common/mapped_file.h"
#include "kernels/common/pages.h"
#include "kernels/pack/pack_place.h"
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

void pack_high(const MatMulNBitsArgs& chunk, const PackedNBits& weight, std::size_t first, std::uint8_t* memory) {
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
  pack_columns(high, weight, first, memory);
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

// Where the parts of an LM head are in its memory.
struct Parts {
  explicit Parts(const PackedLmHead& head)
      : low(rounded_up(head.high.bytes(), kAlignment)),
        low_bytes(head.high.n * head.blocks() * kBlock / 2),
        scales(rounded_up(low + low_bytes + kLmHeadPadding, kAlignment)),
        scales_bytes(head.high.n * head.blocks() * sizeof(Float16)),
        size(scales + scales_bytes + kLmHeadPadding) {}

  std::size_t low, low_bytes, scales, scales_bytes, size;
};

// Without its memory.
PackedLmHead shape_of(MatMulNBitsArgs args, float margin) {
  args.bits = 4;
  PackedLmHead head{.high = packed_nbits_shape(args, kFloat16Params), .low = {}, .low_scales = {}, .margin = margin};
  head.high.code_offset = kMeanLowNibble / kHighStep;
  head.high.zero_point_scale = 1.0f / kHighStep;
  return head;
}

void set_memory(PackedLmHead& head, const Parts& parts, const ArenaBytes& memory) {
  head.high.memory = memory;
  head.low = {memory, memory.get() + parts.low};
  head.low_scales = {memory, memory.get() + parts.scales};
}

void pack(const MatMulNBitsArgs& args, const PackedLmHead& head, const Parts& parts, std::uint8_t* memory) {
  std::memset(memory + parts.low + parts.low_bytes, 0, kLmHeadPadding);
  std::memset(memory + parts.scales + parts.scales_bytes, 0, kLmHeadPadding);
  auto* const scales = reinterpret_cast<Float16*>(memory + parts.scales);
  for (std::size_t first = 0; first < args.n; first += kChunkColumns) {
    const MatMulNBitsArgs chunk = args.columns(first, std::min(kChunkColumns, args.n - first));
    pack_high(chunk, head.high, first, memory);
    const std::size_t before = first * head.blocks();
    pack_low(chunk, memory + parts.low + before * kBlock / 2, scales + before);
    drop_mapped_pages(chunk.codes, chunk.n * chunk.column_bytes());
  }
}

}  // namespace

std::optional<PackedLmHead> pack_lm_head(const MatMulNBitsArgs& args, float margin) {
  return pack_lm_head(args, margin, PackPlace{});
}

std::optional<PackedLmHead> pack_lm_head(const MatMulNBitsArgs& args, float margin, const PackPlace& place) {
  if (args.bits != 8 || args.group_size % kBlock || args.group_bias || !scales_fit(args)) return std::nullopt;
  PackedLmHead head = shape_of(args, margin);
  const Parts parts(head);
  set_memory(head, parts, place.find_or_pack(parts.size, 0, [&](std::uint8_t* to) { pack(args, head, parts, to); }));
  return head;
}

std::optional<PackedLmHead> find_packed_lm_head(const MatMulNBitsArgs& args, float margin, const PackPlace& place) {
  const std::optional<CachedWeight> cached = place.find();
  PackedLmHead head = shape_of(args, margin);
  const Parts parts(head);
  if (!cached || cached->size != parts.size) return std::nullopt;
  set_memory(head, parts, cached->memory);
  return head;
}

}  // namespace edgekiln
