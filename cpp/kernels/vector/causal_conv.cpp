#include "kernels/causal_conv.h"

#include <algorithm>
#include <type_traits>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Channels and tokens that are computed together, the channels in whole vectors of every instruction set. The blocks of
// the same few tokens follow each other, so that their values are read as a few streams.
constexpr std::size_t kBlock = 256, kTokens = 8;

// Calls `compute` with `width` as a constant, so that loops over it are unrolled; 0 stands for widths that no model of
// today has.
template <typename Compute>
void with_width(std::size_t width, const Compute& compute) {
  switch (width) {
    case 3:
      return compute(std::integral_constant<std::size_t, 3>{});
    case 4:
      return compute(std::integral_constant<std::size_t, 4>{});
    default:
      return compute(std::integral_constant<std::size_t, 0>{});
  }
}

// `count` channels from `first` on, of kTokens tokens of a sequence from `begin` on.
template <std::size_t Width>
void convolve(const CausalConvArgs& args, std::size_t sequence, std::size_t begin, std::size_t first,
              std::size_t count) {
  const std::size_t width = Width ? Width : args.width, before = width - 1;
  const std::size_t state = (sequence * args.channels + first) * before, start = sequence * args.length;
  const float *x = args.x + start * args.x_stride + first, *past = args.past + state;
  alignas(64) float columns[(Width ? Width : kMaxCausalConvWidth) * kBlock];  // of the past
  if (begin < before) {
    for (std::size_t channel = 0; channel < count; ++channel)
      for (std::size_t i = 0; i < before; ++i) columns[i * kBlock + channel] = past[channel * before + i];
  }
  const std::size_t whole = count / kLanes * kLanes;
  const float* rows[kMaxCausalConvWidth];  // the columns of one output
  const auto row_of = [&](std::size_t column) {
    return column < before ? columns + column * kBlock : x + (column - before) * args.x_stride;
  };
  const std::size_t end = std::min(begin + kTokens, args.length);
  for (std::size_t token = begin; token < end; ++token) {
    for (std::size_t i = 0; i < width; ++i) rows[i] = row_of(token + i);
    const auto at = [&](std::size_t channel, const auto& loaded) {
      Floats sum = loaded(args.bias + first + channel);
      for (std::size_t i = 0; i < width; ++i)
        sum = added(sum, loaded(args.weight + i * args.channels + first + channel), loaded(rows[i] + channel));
      return args.silu ? silu(sum) : sum;
    };
    float* const out = args.out + (start + token) * args.channels + first;
    for (std::size_t channel = 0; channel < whole; channel += kLanes)
      store(out + channel, at(channel, [](const float* from) { return load(from); }));
    if (whole < count) {
      const auto padded = [&](const float* from) {
        float values[kLanes] = {};
        std::copy_n(from, count - whole, values);
        return load(values);
      };
      float last[kLanes];
      store(last, at(whole, padded));
      std::copy_n(last, count - whole, out + whole);
    }
  }
  if (end < args.length) return;
  for (std::size_t i = 0; i < before; ++i) rows[i] = row_of(args.length + i);
  float* const present = args.present + state;
  for (std::size_t channel = 0; channel < count; ++channel)
    for (std::size_t i = 0; i < before; ++i) present[channel * before + i] = rows[i][channel];
}

}  // namespace

void causal_conv(const CausalConvArgs& given, const Parallel& parallel) {
  CausalConvArgs args = given;
  if (!args.x_stride) args.x_stride = args.channels;
  const std::size_t blocks = (args.channels + kBlock - 1) / kBlock, spans = (args.length + kTokens - 1) / kTokens;
  with_width(args.width, [&](auto width) {
    // A product counts for two values: tasks of half the size share a decode step among more threads.
    const std::size_t values = 2 * kBlock * std::min(args.length, kTokens) * args.width;
    for_each_row(args.batch * spans * blocks, values, parallel, [&](std::size_t block) {
      const std::size_t span = block / blocks, first = block % blocks * kBlock;
      convolve<width>(args, span / spans, span % spans * kTokens, first, std::min(kBlock, args.channels - first));
    });
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
