// Packs weights of 4 and 8 bits into panels, once, when a session is created.
#include <algorithm>
#include <cstring>

#include "kernels/pack/pack_place.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln {

namespace {

constexpr std::size_t kLane = sizeof(std::uint32_t);  // bytes of a column in one vector
constexpr std::uint32_t kSigns = kPackedZero * 0x01010101u;
constexpr std::size_t kSixBitChunk = 16;  // values of k whose upper bits share a row
constexpr int kSixBitFirst = 128 - 32;    // the 8-bit code that is 0 in 6 bits

void store_param(const PackedNBits& weight, std::uint8_t* to, std::size_t lane, float value, Float16 float16) {
  if (weight.float16_params) {
    std::memcpy(to + lane * sizeof float16, &float16, sizeof float16);
  } else {
    std::memcpy(to + lane * sizeof value, &value, sizeof value);
  }
}

// The codes of `bytes` to `block`, in the order of their bytes.
void pack_codes(const std::uint8_t* codes, std::size_t bytes, std::uint32_t signs, std::size_t lane,
                std::uint8_t* block) {
  for (std::size_t vector = 0; vector < bytes / kLane; ++vector) {
    std::uint32_t four;
    std::memcpy(&four, codes + vector * kLane, kLane);
    four ^= signs;
    std::memcpy(block + (vector * kPanelWidth + lane) * kLane, &four, kLane);
  }
}

// 8-bit codes, each within 32 of the midpoint, as 6 bits.
void pack_six_bits(const std::uint8_t* codes, std::size_t count, std::size_t lane, std::uint8_t* block) {
  for (std::size_t first = 0; first < count; first += kSixBitChunk) {
    std::uint8_t rows[3][kLane] = {};
    for (std::size_t i = 0; i < kSixBitChunk; ++i) {
      const std::size_t quarter = i / kLane, byte = i % kLane;
      const int code = codes[first + i] - kSixBitFirst;
      rows[quarter / 2][byte] |= static_cast<std::uint8_t>((code & 15) << quarter % 2 * 4);
      rows[2][byte] |= static_cast<std::uint8_t>(code >> 4 << quarter * 2);
    }
    for (const auto& row : rows) {
      std::memcpy(block + lane * kLane, row, kLane);
      block += kPanelWidth * kLane;
    }
  }
}

bool fits_six_bits(const MatMulNBitsArgs& args) {
  if (args.bits != 8 || args.group_size != kSixBitChunk || args.zero_points || args.float16_min) return false;
  return std::all_of(args.codes, args.codes + args.n * args.k,
                     [](std::uint8_t code) { return static_cast<std::uint8_t>(code - kSixBitFirst) < 64; });
}

void pack_column(const MatMulNBitsArgs& args, const PackedNBits& weight, const FactoredScales& factored,
                 std::size_t column, std::uint8_t* panel) {
  const std::size_t lane = column % kPanelWidth, group_bytes = args.group_size * args.bits / 8;
  for (std::size_t at = 0; at * kPanelWidth * sizeof(Float16) < weight.factors_bytes(); ++at)
    std::memcpy(panel + (at * kPanelWidth + lane) * sizeof(Float16), factored.factors(column) + at, sizeof(Float16));
  std::uint8_t* block = panel + weight.factors_bytes();
  for (std::size_t group = 0; group < args.groups(); ++group, block += weight.block_bytes()) {
    const std::uint8_t* codes = args.codes + column * args.column_bytes() + group * group_bytes;
    if (weight.bits == 6) {
      pack_six_bits(codes, args.group_size, lane, block);
    } else {
      pack_codes(codes, group_bytes, args.bits == 8 ? kSigns : 0, lane, block);
    }
    const std::size_t at = column * args.groups() + group;
    std::uint8_t* scales = block + weight.codes_bytes();
    if (weight.factored_scales) {
      scales[lane] = static_cast<std::uint8_t>(factored.multiples(column)[group]);
      continue;
    }
    store_param(weight, scales, lane, args.scales[at], weight.float16_params ? args.float16_scales[at] : Float16{});
    std::uint8_t* zeros = scales + kPanelWidth * weight.param_bytes();
    if (weight.scheme == WeightScheme::kZeroPoints)
      zeros[lane] = static_cast<std::uint8_t>(
          zero_point_of(args.zero_points + column * args.zero_point_bytes(), args.bits_of_zero_points(), group));
    if (weight.scheme == WeightScheme::kGroupBias)
      store_param(weight, zeros, lane, args.group_bias[at], weight.float16_params ? args.float16_min[at] : Float16{});
  }
}

}  // namespace

std::uint32_t nbits_variant(const MatMulNBitsArgs& args, FactoredScales& factored) {
  const bool six_bits = fits_six_bits(args);
  if (six_bits && !args.group_bias) factored = FactoredScales(args.scales, args.n, args.groups());
  return (six_bits ? kSixBits : 0u) | (!factored.empty() ? kFactoredScales : args.float16_scales ? kFloat16Params : 0u);
}

PackedNBits packed_nbits_shape(const MatMulNBitsArgs& args, std::uint32_t variant) {
  const WeightScheme scheme = args.zero_points  ? WeightScheme::kZeroPoints
                              : args.group_bias ? WeightScheme::kGroupBias
                              : args.codebook   ? WeightScheme::kCodebook
                                                : WeightScheme::kSymmetric;
  const int bits = variant & kSixBits ? 6 : args.bits;
  PackedNBits weight{
      args.k, args.n, args.group_size, bits, scheme, (variant & kFloat16Params) != 0, (variant & kFactoredScales) != 0};
  if (args.codebook) std::copy_n(args.codebook, kCodebookSize, weight.codebook.begin());
  return weight;
}

void pack_columns(const MatMulNBitsArgs& args, const PackedNBits& weight, std::size_t first, std::uint8_t* memory,
                  const FactoredScales& factored) {
  // The last panel may have columns that no weight fills.
  if (const std::size_t end = first + args.n; end % kPanelWidth)
    std::memset(memory + end / kPanelWidth * weight.panel_bytes(), 0, weight.panel_bytes());
  for (std::size_t column = 0; column < args.n; ++column)
    pack_column(args, weight, factored, column, memory + (first + column) / kPanelWidth * weight.panel_bytes());
}

PackedNBits pack_nbits(const MatMulNBitsArgs& args) { return pack_nbits(args, PackPlace{}); }

PackedNBits pack_nbits(const MatMulNBitsArgs& args, const PackPlace& place) {
  FactoredScales factored;
  const std::uint32_t variant = nbits_variant(args, factored);
  PackedNBits weight = packed_nbits_shape(args, variant);
  weight.memory = place.find_or_pack(weight.bytes(), variant,
                                     [&](std::uint8_t* memory) { pack_columns(args, weight, 0, memory, factored); });
  return weight;
}

std::optional<PackedNBits> find_packed_nbits(const MatMulNBitsArgs& args, const PackPlace& place) {
  const std::optional<CachedWeight> cached = place.find();
  if (!cached || cached->variant >= kNBitsVariants) return std::nullopt;
  PackedNBits weight = packed_nbits_shape(args, cached->variant);
  if (cached->size != weight.bytes()) return std::nullopt;
  weight.memory = cached->memory;
  return weight;
}

}  // namespace edgekiln
