// Int8 dot products by VPMADDUBSW and VPMADDWD, for processors without VNNI; see packed/int8_dot.h.
//
// VPMADDUBSW adds two products of unsigned by signed bytes and saturates at int16. With weight codes of 4 bits nothing
// saturates: not two products (2 * 15 * 127), nor the 16 of a block of 32 that meet in an int16 (16 * 15 * 127 <
// 2^15). Nor do two products with 6 bits (2 * 63 * 127). With 8 bits, magnitudes of weights times activations with the
// weights' signs do not (2 * 128 * 127 < 2^15).
#pragma once

namespace edgekiln::EDGEKILN_ISA {

// Adds now: GCC would delay the additions of a tile to the use of its sums, and spill all the products till then.
inline Ints added_now(Ints sum) {
  asm("" : "+x"(sum));
  return sum;
}

// An int8 weight as its magnitude and its sign.
struct SignedWeights {
  SignedWeights() = default;
  explicit SignedWeights(Ints codes) : codes(codes), magnitudes(byte_magnitudes(codes)) {}

  Ints dot(Ints sum, const void* four) const {
    return added_now(sum + madd(maddubs(magnitudes, with_signs(broadcast_4(four), codes)), ones_in_words()));
  }

  Ints codes, magnitudes;
};

template <int Bits>
struct NBitsDot;

// Accumulates in int16, two a column: of the first and of the last two of every four values of k.
template <>
struct NBitsDot<4> {
  using Weights = Ints;
  using Sum = Ints;

  static Weights weights(Bytes codes) { return reinterpret_cast<Ints>(codes); }
  // Two int16: -8 * the sum of the activations of each accumulator.
  static std::int32_t compensation(BlockCodes codes, std::int32_t sum, bool zero_points) {
    if (zero_points) return 0;
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), reinterpret_cast<__m256i>(codes));
    const __m256i firsts = _mm256_madd_epi16(pairs, _mm256_set1_epi32(1));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(firsts), _mm256_extracti128_si256(firsts, 1));
    four = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    const std::int32_t first = _mm_extract_epi32(four, 0) + _mm_extract_epi32(four, 1);
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(-8 * (sum - first)) << 16 |
                                     (static_cast<std::uint32_t>(-8 * first) & 0xffff));
  }
  static Sum start(std::int32_t compensation) { return broadcast_4(&compensation); }
  static Sum add(Sum sum, Weights weights, const std::int8_t* four) {
    return added_now(add_words(sum, maddubs(weights, broadcast_4(four))));
  }
  static Floats finish(Sum sum) { return to_floats(madd(sum, ones_in_words())); }
};

template <>
struct NBitsDot<6> {
  using Weights = Ints;
  using Sum = Ints;

  static Weights weights(Bytes codes) { return reinterpret_cast<Ints>(codes); }
  static std::int32_t compensation(BlockCodes, std::int32_t sum, bool) { return -32 * sum; }
  static Sum start(std::int32_t compensation) { return broadcast_4(&compensation); }
  static Sum add(Sum sum, Weights weights, const std::int8_t* four) {
    return added_now(sum + madd(maddubs(weights, broadcast_4(four)), ones_in_words()));
  }
  static Floats finish(Sum sum) { return to_floats(sum); }
};

// Of code - 128, an int8.
template <>
struct NBitsDot<8> {
  using Weights = SignedWeights;
  using Sum = Ints;

  static Weights weights(Bytes codes) { return SignedWeights(reinterpret_cast<Ints>(codes ^ 128)); }
  static std::int32_t compensation(BlockCodes, std::int32_t sum, bool zero_points) {
    return zero_points ? 128 * sum : 0;
  }
  static Sum start(std::int32_t compensation) { return broadcast_4(&compensation); }
  static Sum add(Sum sum, const Weights& weights, const std::int8_t* four) { return weights.dot(sum, four); }
  static Floats finish(Sum sum) { return to_floats(sum); }
};

struct Int8Gemv {
  using Weights = SignedWeights;

  static constexpr std::size_t kCodeBytes = 1;
  static constexpr int kParts = 1;
  static constexpr int kActivationZeroPoint = 0;

  static void store_codes(std::uint8_t* to, const Floats (&x)[4]) {
    const Ints codes = rounded_to_bytes<false>(x, 0);
    std::memcpy(to, &codes, sizeof codes);
  }
  static Weights weights(Bytes codes, int) { return SignedWeights(reinterpret_cast<Ints>(codes)); }
  static Ints dot(Ints sum, const Weights& weights, const std::uint8_t* four) { return weights.dot(sum, four); }
};

// Weights extended to int16, once for all tokens of a tile: VPMADDWD then needs two operations for two products, where
// Int8Gemv needs four for four, but more of these are multiplications.
struct Int8Gemm {
  using Weights = Ints;

  static constexpr std::size_t kCodeBytes = 2;
  static constexpr int kParts = 2;  // of every four values of k, the first and third, then the second and fourth
  static constexpr int kActivationZeroPoint = 0;

  // In the order of the weights.
  static void store_codes(std::uint8_t* to, const Floats (&x)[4]) {
    using Words = std::int16_t __attribute__((vector_size(sizeof(Ints))));
    for (int i = 0; i < 4; i += 2, to += sizeof(Ints)) {
      auto words = reinterpret_cast<Words>(rounded_to_words(x[i], x[i + 1]));
      words = [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
        return __builtin_shufflevector(words, words, (Lane % 4 == 1 ? Lane + 1 : Lane % 4 == 2 ? Lane - 1 : Lane)...);
      }(std::make_integer_sequence<int, 2 * kLanes>{});
      std::memcpy(to, &words, sizeof words);
    }
  }
  static Weights weights(Bytes codes, int part) {
    const auto words = reinterpret_cast<Ints>(codes);
    return part == 0 ? low_bytes(words) : high_bytes(words);
  }
  static Ints dot(Ints sum, Weights weights, const std::uint8_t* two) {
    return added_now(sum + madd(weights, broadcast_4(two)));
  }
};

}  // namespace edgekiln::EDGEKILN_ISA
