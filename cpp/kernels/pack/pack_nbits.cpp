// Packs 4- and 8-bit weights into panels, once, when a session is created.
#include <algorithm>
#include <cstring>

#include "kernels/pack/pack_place.h"
#include "kernels/pack/packed_nbits.h"

namespace edgekiln {

namespace {

constexpr std::size_t kLane = sizeof(std::uint32_t);  // bytes of a column in one vector
constexpr std::uint32_t kSigns = kPackedZero * 0x01010101u;

void store_param(const PackedNBits& weight, std::uint8_t* to, std::size_t lane, float value, Float16 float16) {
  if (weight.float16_params) {
    std::memcpy(to + lane * sizeof float16, &float16, sizeof float16);
  } else {
    std::memcpy(to + lane * sizeof value, &value, sizeof value);
  }
}

// `block` is the first of the column's panel.
void pack_column(const MatMulNBitsArgs& args, const PackedNBits& weight, std::size_t column, std::uint8_t* block) {
  const std::size_t lane = column % kPanelWidth, vectors = args.group_size * args.bits / 8 / kLane;
  for (std::size_t group = 0; group < args.groups(); ++group, block += weight.block_bytes()) {
    const std::uint8_t* codes = args.codes + column * args.column_bytes() + group * vectors * kLane;
    for (std::size_t vector = 0; vector < vectors; ++vector) {
      std::uint32_t four;
      std::memcpy(&four, codes + vector * kLane, kLane);
      if (args.bits == 8) four ^= kSigns;
      std::memcpy(block + (vector * kPanelWidth + lane) * kLane, &four, kLane);
    }
    const std::size_t at = column * args.groups() + group;
    std::uint8_t* scales = block + weight.codes_bytes();
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

PackedNBits packed_nbits_shape(const MatMulNBitsArgs& args, bool float16_params) {
  const WeightScheme scheme = args.zero_points  ? WeightScheme::kZeroPoints
                              : args.group_bias ? WeightScheme::kGroupBias
                                                : WeightScheme::kSymmetric;
  return {args.k, args.n, args.group_size, args.bits, scheme, float16_params};
}

void pack_columns(const MatMulNBitsArgs& args, const PackedNBits& weight, std::size_t first, std::uint8_t* memory) {
  // The last panel may have columns that no weight fills.
  if (const std::size_t end = first + args.n; end % kPanelWidth)
    std::memset(memory + end / kPanelWidth * weight.panel_bytes(), 0, weight.panel_bytes());
  for (std::size_t column = 0; column < args.n; ++column)
    pack_column(args, weight, column, memory + (first + column) / kPanelWidth * weight.panel_bytes());
}

PackedNBits pack_nbits(const MatMulNBitsArgs& args) { return pack_nbits(args, PackPlace{}); }

PackedNBits pack_nbits(const MatMulNBitsArgs& args, const PackPlace& place) {
  PackedNBits weight = packed_nbits_shape(args, args.float16_scales != nullptr);
  weight.memory = place.find_or_pack(weight.bytes(), weight.float16_params,
                                     [&](std::uint8_t* memory) { pack_columns(args, weight, 0, memory); });
  return weight;
}

std::optional<PackedNBits> find_packed_nbits(const MatMulNBitsArgs& args, const PackPlace& place) {
  const std::optional<CachedWeight> cached = place.find();
  if (!cached || cached->variant > 1) return std::nullopt;
  PackedNBits weight = packed_nbits_shape(args, cached->variant != 0);
  if (cached->size != weight.bytes()) return std::nullopt;
  weight.memory = cached->memory;
  return weight;
}

}  // namespace edgekiln
