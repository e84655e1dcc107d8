// Products of an int8 KV cache with the parts of queries and softmax weights (packed/int8_kv_attention.h). For NEON
// with FEAT_DotProd: SDOT multiplies keys by the signed parts of queries, UDOT values by the unsigned ones of weights.
#pragma once

#include <arm_neon.h>

#include "kernels/vector/attention_products.h"

namespace edgekiln::EDGEKILN_ISA {

inline constexpr std::size_t kKvStep = 16;
inline constexpr int kInt8ScoreHeads = 3, kInt8ScoreKeys = 2, kInt8SumHeads = 3;

namespace detail {

// The low bytes of four int32.
inline void store_bytes(std::int8_t* to, Ints values) {
  const int16x4_t halves = vmovn_s32(reinterpret_cast<int32x4_t>(values));
  const int8x8_t bytes = vmovn_s16(vcombine_s16(halves, halves));
  std::memcpy(to, &bytes, 4);
}

}  // namespace detail

// parts [2, dim], high and low.
inline void store_query(Ints high, Ints low, std::size_t at, std::size_t dim, std::int8_t* parts) {
  detail::store_bytes(parts + at, high);
  detail::store_bytes(parts + dim + at, low);
}

struct QueryPart {
  int8x16_t high, low;
  static QueryPart load(const std::int8_t* parts, std::size_t at, std::size_t dim) {
    return {vld1q_s8(parts + at), vld1q_s8(parts + dim + at)};
  }
};

using KeyPart = int8x16_t;
template <std::size_t Size>
inline KeyPart load_key(const std::int8_t* codes) {
  return vld1q_s8(codes);
}

struct ScoreSum {
  int32x4_t high = vdupq_n_s32(0), low = vdupq_n_s32(0);
  void add(const QueryPart& query, KeyPart key) {
    high = vdotq_s32(high, query.high, key);
    low = vdotq_s32(low, query.low, key);
  }
  Ints total() const { return reinterpret_cast<Ints>(vaddq_s32(vshlq_n_s32(high, 8), low)); }
};

// parts [2, kKeysPerBlock], high and low.
inline void store_weights(Ints high, Ints low, std::size_t at, std::int8_t* parts) {
  detail::store_bytes(parts + at, high);
  detail::store_bytes(parts + kKeysPerBlock + at, low);
}

// sum [Heads, Columns], rows `stride` apart, of the weights of Heads heads times the first Columns columns of values
// [keys, dim].
template <int Heads, std::size_t Columns>
inline void value_tile(const std::int8_t* parts, const std::int8_t* values, std::size_t keys, std::size_t dim,
                       float* sum, std::size_t stride) {
  uint32x4_t high[Heads][4], low[Heads][4];
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head)
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) high[head][i] = low[head][i] = vdupq_n_u32(0);
  const auto* weights = reinterpret_cast<const std::uint8_t*>(parts);
  const auto add_four = [&](const std::int8_t* a, const std::int8_t* b, const std::int8_t* c, const std::int8_t* d) {
    // code + 128 is unsigned; 128 times the sum of the weights is subtracted below.
    const auto unsigned_row = [](const std::int8_t* row) {
      return veorq_u8(vreinterpretq_u8_s8(vld1q_s8(row)), vdupq_n_u8(128));
    };
    const uint8x16_t rows[4] = {unsigned_row(a), unsigned_row(b), unsigned_row(c), unsigned_row(d)};
    const uint16x8_t pairs[4] = {
        vreinterpretq_u16_u8(vzip1q_u8(rows[0], rows[1])), vreinterpretq_u16_u8(vzip2q_u8(rows[0], rows[1])),
        vreinterpretq_u16_u8(vzip1q_u8(rows[2], rows[3])), vreinterpretq_u16_u8(vzip2q_u8(rows[2], rows[3]))};
    const uint8x16_t four[4] = {
        vreinterpretq_u8_u16(vzip1q_u16(pairs[0], pairs[2])), vreinterpretq_u8_u16(vzip2q_u16(pairs[0], pairs[2])),
        vreinterpretq_u8_u16(vzip1q_u16(pairs[1], pairs[3])), vreinterpretq_u8_u16(vzip2q_u16(pairs[1], pairs[3]))};
#pragma GCC unroll 4
    for (int head = 0; head < Heads; ++head) {
      const auto word = [&](std::size_t part) {
        const std::uint8_t* from = weights + (2 * head + part) * kKeysPerBlock;
        return vreinterpretq_u8_u32(vld1q_dup_u32(reinterpret_cast<const std::uint32_t*>(from)));
      };
      const uint8x16_t high_parts = word(0), low_parts = word(1);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) high[head][i] = vdotq_u32(high[head][i], four[i], high_parts);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) low[head][i] = vdotq_u32(low[head][i], four[i], low_parts);
    }
  };
  for (const auto* end = weights + keys / 4 * 4; weights != end; weights += 4, values += 4 * dim)
    add_four(values, values + dim, values + 2 * dim, values + 3 * dim);
  if (const std::size_t rest = keys % 4) {
    // Past the end the last value is loaded again; it has weight 0.
    const auto row = [&](std::size_t i) { return values + (i < rest ? i : rest - 1) * dim; };
    add_four(row(0), row(1), row(2), row(3));
  }
#pragma GCC unroll 4
  for (int head = 0; head < Heads; ++head) {
    const auto of_both = [](uint32x4_t high, uint32x4_t low) {
      return vsubq_u32(vaddq_u32(vshlq_n_u32(high, 8), low), high);  // 255 * high + low
    };
    uint32x4_t totals[2];
    for (int part = 0; part < 2; ++part) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(parts) + (2 * head + part) * kKeysPerBlock;
      totals[part] = vdupq_n_u32(0);
      for (std::size_t k = 0; k < kKeysPerBlock; k += 16)
        totals[part] = vdotq_u32(totals[part], vld1q_u8(from + k), vdupq_n_u8(1));
    }
    const uint32x4_t offset = vdupq_n_u32(vaddvq_u32(of_both(totals[0], totals[1])) * 128);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const uint32x4_t total = vsubq_u32(of_both(high[head][i], low[head][i]), offset);
      store(sum + head * stride + 4 * i, to_floats(reinterpret_cast<Ints>(total)) * kWeightStep);
    }
  }
}

}  // namespace edgekiln::EDGEKILN_ISA
