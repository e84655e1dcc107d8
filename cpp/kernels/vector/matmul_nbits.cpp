// MatMulNBits with an unpacked weight, in ONNX Runtime's layout. For every instruction set; those with VNNI use it only
// for weights that are not constant.
//
// GEMV (m <= kGemvMaxM): activations are quantized to int8 in blocks of 32, and each weight column is one int8 dot
// product, read once at the speed of memory. GEMM, and GEMV with groups of 16: slabs of the weight are dequantized to
// float and multiplied.
#include "kernels/matmul_nbits.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "kernels/vector/block_dot.h"
#include "kernels/vector/dequantized_gemm.h"
#include "kernels/vector/transpose.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

constexpr std::size_t kTaskBytes = 1 << 16;  // a GEMV task reads at least so many bytes of weights
constexpr std::size_t kPadding = 64;         // bytes that a vector may read past the end

std::size_t rounded_up(std::size_t value, std::size_t unit) { return (value + unit - 1) / unit * unit; }

// The zero points of kLanes groups from `group` on, a multiple of kLanes.
template <int Bits>
Floats load_zero_points(const std::uint8_t* column, std::size_t group) {
  if constexpr (Bits == 8) {
    using Bytes = std::uint8_t __attribute__((vector_size(kLanes)));
    Bytes codes;
    std::memcpy(&codes, column + group, sizeof codes);
    return __builtin_convertvector(codes, Floats);
  }
  // Each lane shifts its nibble out of a word of eight.
  using Words = std::uint32_t __attribute__((vector_size(kLanes * sizeof(std::uint32_t))));
  std::uint32_t words[2] = {};
  std::memcpy(words, column + group / 2, kLanes / 2);
  return [&]<int... Lane>(std::integer_sequence<int, Lane...>) {
    const Words low = words[0] - Words{}, high = words[1] - Words{};
    const Words word = __builtin_shufflevector(low, high, (Lane < 8 ? Lane : kLanes + Lane)...);
    return __builtin_convertvector((word >> Words{std::uint32_t{Lane % 8 * 4}...}) & 15, Floats);
  }(std::make_integer_sequence<int, kLanes>{});
}

template <typename Scale>
const Scale* scales_of(const MatMulNBitsArgs& args) {
  if constexpr (std::is_same_v<Scale, Float16>) {
    return args.float16_scales;
  } else {
    return args.scales;
  }
}

// What block_dot() of one column has too much: the sum over the groups of (scale * zero point - group bias) * sum of
// the activations, spread over the lanes.
//
// Zero points take the sums of the quantized activations, as block_dot() does; group biases take the float sums.
template <int Bits, typename Scale>
Floats correction(const MatMulNBitsArgs& args, std::size_t column, const QuantizedVector& a) {
  constexpr float midpoint = 1 << (Bits - 1);
  constexpr bool float16 = std::is_same_v<Scale, Float16>;
  const float* sums = a.sums;
  const std::size_t groups = args.groups();
  const Scale* scales = scales_of<Scale>(args) + column * groups;
  Floats total{};
  // Vectors may read past a column's last group, into the next column, as the sums there are zero; not in the last
  // ones.
  const bool may_read_on = args.zero_points ? (args.n - column - 1) * args.zero_point_bytes() >= kLanes
                                            : float16 || (args.n - column - 1) * groups >= kLanes;
  const std::size_t whole = may_read_on ? groups : groups / kLanes * kLanes;
  std::size_t group = 0;
  float rest = 0.0f;
  if (args.zero_points) {
    const std::uint8_t* points = args.zero_points + column * args.zero_point_bytes();
    for (; group < whole; group += kLanes)
      total += load(scales + group) * load(sums + group) * load_zero_points<Bits>(points, group);
    for (; group < groups; ++group)
      rest += to_float(scales[group]) * sums[group] * static_cast<float>(zero_point_of(points, Bits, group));
    return total + Floats{rest};
  }
  if (args.group_bias) {
    const Scale* stored;
    if constexpr (float16) {
      stored = args.float16_min + column * groups;
    } else {
      stored = args.group_bias + column * groups;
    }
    const auto part = [](auto scale, auto stored, auto sum, auto float_sum) {
      const auto from_zero = scale * midpoint;
      return from_zero * sum - (float16 ? stored + from_zero : stored) * float_sum;
    };
    for (; group < whole; group += kLanes)
      total += part(load(scales + group), load(stored + group), load(sums + group), load(a.float_sums + group));
    for (; group < groups; ++group)
      rest += part(to_float(scales[group]), to_float(stored[group]), sums[group], a.float_sums[group]);
    return total + Floats{rest};
  }
  for (; group < whole; group += kLanes) total += load(scales + group) * load(sums + group);
  for (; group < groups; ++group) rest += to_float(scales[group]) * sums[group];
  return (total + Floats{rest}) * midpoint;
}

// Where the arrays of a quantized activation vector start in scratch memory, in floats.
struct ScratchLayout {
  std::size_t odd, scales, sums, float_sums, size;

  explicit ScratchLayout(const MatMulNBitsArgs& args, std::size_t sums_per_block) {
    const std::size_t plane = (args.bits == 4 ? args.k / 2 : args.k) + kPadding;
    odd = rounded_up(plane, sizeof(float)) / sizeof(float);
    scales = args.bits == 4 ? 2 * odd : odd;
    sums = scales + args.k / kBlock * sums_per_block + kLanes;
    float_sums = sums + args.groups() + kLanes;
    size = float_sums + (args.group_bias ? args.groups() + kLanes : 0);
  }
};

template <int Bits>
QuantizedVector quantize(const MatMulNBitsArgs& args, const float* a, float* memory) {
  const ScratchLayout layout(args, kSumsPerBlock<Bits>);
  std::fill_n(memory, layout.size, 0.0f);
  auto* codes = reinterpret_cast<std::int8_t*>(memory);
  auto* odd = reinterpret_cast<std::int8_t*>(memory + layout.odd);
  for (std::size_t block = 0; block < args.k / kBlock; ++block) {
    const float* x = a + block * kBlock;
    Floats most{};
    for (std::size_t i = 0; i < kBlock; i += kLanes) most = larger(most, larger(load(x + i), -load(x + i)));
    const float largest = largest_lane(most);
    if (largest == 0.0f) continue;
    if (args.group_bias) {
      Floats total{};
      for (std::size_t i = 0; i < kBlock; i += kLanes) total += load(x + i);
      memory[layout.float_sums + block * kBlock / args.group_size] += sum_of_lanes(total);
    }
    const float scale = largest / 127.0f, inverse = 127.0f / largest;
    std::int32_t sum = 0;
    std::int8_t block_codes[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) {
      // Rounds to the nearest integer: adding 1.5 * 2^23 leaves it in the low bits of the sum.
      const float shifted = x[i] * inverse + 12582912.0f;
      std::int32_t bits;
      std::memcpy(&bits, &shifted, sizeof bits);
      const std::int32_t code = bits - 0x4b400000;
      block_codes[i] = static_cast<std::int8_t>(code);
      sum += code;
    }
    if constexpr (Bits == 4) {
      for (std::size_t i = 0; i < kBlock / 2; ++i) {
        codes[block * kBlock / 2 + i] = block_codes[2 * i];
        odd[block * kBlock / 2 + i] = block_codes[2 * i + 1];
      }
    } else {
      std::copy_n(block_codes, kBlock, codes + block * kBlock);
    }
    std::fill_n(memory + layout.scales + block * kSumsPerBlock<Bits>, kSumsPerBlock<Bits>, scale);
    memory[layout.sums + block * kBlock / args.group_size] += scale * static_cast<float>(sum);
  }
  return {codes, odd, memory + layout.scales, memory + layout.sums, memory + layout.float_sums};
}

struct Gemv {
  const MatMulNBitsArgs& args;
  QuantizedVector a[kGemvMaxM];
  std::size_t columns_per_task;
};

template <int Bits, typename Scale>
void gemv_task(void* context, std::size_t index) {
  const Gemv& gemv = *static_cast<const Gemv*>(context);
  const MatMulNBitsArgs& args = gemv.args;
  const std::size_t first = index * gemv.columns_per_task, last = std::min(first + gemv.columns_per_task, args.n);
  const std::size_t blocks = args.k / kBlock;
  const unsigned group_shift = std::countr_zero(args.group_size / kBlock);
  for (std::size_t column = first; column < last; column += kLanes) {
    const std::size_t count = std::min<std::size_t>(kLanes, last - column);
    for (std::size_t token = 0; token < args.m; ++token) {
      const QuantizedVector& a = gemv.a[token];
      Floats dots[kLanes] = {};
      for (std::size_t i = 0; i < count; ++i) {
        const std::uint8_t* codes = args.codes + (column + i) * args.column_bytes();
        const Scale* scales = scales_of<Scale>(args) + (column + i) * args.groups();
        const bool at_end = (args.n - column - i - 1) * args.groups() < kPadding;
        dots[i] = block_dot<Bits>(codes, scales, a, blocks, group_shift, at_end) -
                  correction<Bits, Scale>(args, column + i, a);
      }
      const Floats result = sums(dots);
      std::memcpy(args.out + token * args.n + column, &result, count * sizeof(float));
    }
  }
}

template <int Bits>
void run_gemv(const MatMulNBitsArgs& args, const Parallel& parallel, Scratch& scratch) {
  const std::size_t size = ScratchLayout(args, kSumsPerBlock<Bits>).size;
  float* memory = at_least(scratch, size * args.m);
  Gemv gemv{args, {}, rounded_up(kTaskBytes / args.column_bytes() + 1, kLanes)};
  for (std::size_t token = 0; token < args.m; ++token)
    gemv.a[token] = quantize<Bits>(args, args.a + token * args.k, memory + token * size);
  auto* task = gemv_task<Bits, float>;
  if constexpr (kLoadsFloat16) {
    if (args.float16_scales) task = gemv_task<Bits, Float16>;
  }
  parallel.run(parallel.self, task, (args.n + gemv.columns_per_task - 1) / gemv.columns_per_task, &gemv);
}

using HalfBlock = float __attribute__((vector_size(kBlock / 2 * sizeof(float))));

// Half of a block's codes, in the order of k.
template <int Bits>
HalfBlock half_block(const std::uint8_t* codes, std::size_t half) {
  using Bytes = std::uint8_t __attribute__((vector_size(kBlock / 2)));
  Bytes bytes;
  if constexpr (Bits == 8) {
    std::memcpy(&bytes, codes + half * kBlock / 2, sizeof bytes);
    return __builtin_convertvector(bytes, HalfBlock);
  }
  std::memcpy(&bytes, codes, sizeof bytes);
  const Bytes low = bytes & 15, high = bytes >> 4;
  const Bytes ordered =
      half == 0 ? __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
                : __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
  return __builtin_convertvector(ordered, HalfBlock);
}

// to[count_k, kFloatColumns] = the weights of `columns` columns from `column` on, and of count_k values of k from
// `first_k` on.
template <int Bits>
void dequantize(const MatMulNBitsArgs& args, std::size_t column, std::size_t columns, std::size_t first_k,
                std::size_t count_k, float* to) {
  float lines[kLanes * kBlock];
  for (std::size_t top = 0; top < columns; top += kLanes) {
    for (std::size_t k = 0; k < count_k; k += kBlock) {
      const std::size_t count = std::min<std::size_t>(kLanes, columns - top);
      for (std::size_t i = 0; i < count; ++i) {
        const std::size_t line = column + top + i;
        const std::uint8_t* codes = args.codes + line * args.column_bytes() + (first_k + k) * Bits / 8;
        float* weights = lines + i * kBlock;
        for (std::size_t half = 0; half < 2; ++half) {
          const std::size_t group = (first_k + k + half * kBlock / 2) / args.group_size;
          const float zero =
              !args.zero_points
                  ? (Bits == 4 ? 8.0f : 128.0f)
                  : static_cast<float>(zero_point_of(args.zero_points + line * args.zero_point_bytes(), Bits, group));
          const float scale = args.scales[line * args.groups() + group];
          const float bias = args.group_bias ? args.group_bias[line * args.groups() + group] : 0.0f;
          const HalfBlock values = (half_block<Bits>(codes, half) - zero) * scale + bias;
          std::memcpy(weights + half * kBlock / 2, &values, sizeof values);
        }
      }
      if (count < kLanes) std::fill(lines + count * kBlock, lines + kLanes * kBlock, 0.0f);
      transpose(lines, kLanes, kBlock, to + k * kFloatColumns + top, kFloatColumns);
    }
  }
}

template <int Bits>
void gemm_task(void* context, std::size_t index) {
  const MatMulNBitsArgs& args = *static_cast<const MatMulNBitsArgs*>(context);
  dequantized_gemm(args.a, args.m, args.k, args.n, index * kFloatColumns, args.out,
                   [&](std::size_t first, std::size_t count, std::size_t k, std::size_t count_k, float* to) {
                     dequantize<Bits>(args, first, count, k, count_k, to);
                   });
}

template <int Bits>
void run_gemm(MatMulNBitsArgs args, const Parallel& parallel) {
  parallel.run(parallel.self, gemm_task<Bits>, (args.n + kFloatColumns - 1) / kFloatColumns, &args);
}

template <int Bits>
void run(const MatMulNBitsArgs& args, const Parallel& parallel, Scratch& scratch) {
  if (std::max(args.m, args.tokens) <= kGemvMaxM && args.group_size >= kBlock) {
    run_gemv<Bits>(args, parallel, scratch);
  } else {
    run_gemm<Bits>(args, parallel);
  }
}

}  // namespace

void matmul_nbits(const MatMulNBitsArgs& args, const Parallel& parallel, Scratch& scratch) {
  (args.bits == 4 ? run<4> : run<8>)(args, parallel, scratch);
}

}  // namespace edgekiln::EDGEKILN_ISA
