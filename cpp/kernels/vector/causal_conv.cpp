#include "kernels/causal_conv.h"

#include <algorithm>

#include "kernels/vector/for_each_row.h"
#include "kernels/vector/softplus.h"

namespace edgekiln::EDGEKILN_ISA {
namespace {

// Channels that are computed together, whole vectors of every instruction set; enough that the tokens of a prompt are
// read in long runs.
constexpr std::size_t kBlock = 256;

// `count` channels from `first` on, of the sequence whose first values are at the pointers.
void convolve(const CausalConvArgs& args, std::size_t sequence, std::size_t first, std::size_t count) {
  const std::size_t before = args.width - 1, state = (sequence * args.channels + first) * before;
  const std::size_t start = sequence * args.length * args.channels + first;
  const float *x = args.x + start, *past = args.past + state;
  // The columns of the past and the parameters, padded to whole vectors.
  alignas(64) float columns[kMaxCausalConvWidth * kBlock] = {}, weight[kMaxCausalConvWidth * kBlock] = {};
  alignas(64) float bias[kBlock] = {}, padded[kBlock] = {};
  for (std::size_t channel = 0; channel < count; ++channel)
    for (std::size_t i = 0; i < before; ++i) columns[i * kBlock + channel] = past[channel * before + i];
  for (std::size_t i = 0; i < args.width; ++i)
    std::copy_n(args.weight + i * args.channels + first, count, weight + i * kBlock);
  std::copy_n(args.bias + first, count, bias);
  const std::size_t whole = count / kLanes * kLanes;
  const float* rows[kMaxCausalConvWidth];  // the columns of one output
  for (std::size_t token = 0; token < args.length; ++token) {
    for (std::size_t i = 0; i < args.width; ++i)
      rows[i] = token + i < before ? columns + (token + i) * kBlock : x + (token + i - before) * args.channels;
    const auto at = [&](std::size_t channel, const auto& value_of) {
      Floats sum = load(bias + channel);
      for (std::size_t i = 0; i < args.width; ++i)
        sum = added(sum, load(weight + i * kBlock + channel), value_of(rows[i]));
      return args.silu ? silu(sum) : sum;
    };
    float* const out = args.out + start + token * args.channels;
    for (std::size_t channel = 0; channel < whole; channel += kLanes)
      store(out + channel, at(channel, [&](const float* row) { return load(row + channel); }));
    if (whole < count) {
      const auto rest = [&](const float* row) {
        float values[kLanes] = {};
        std::copy_n(row + whole, count - whole, values);
        return load(values);
      };
      store(padded, at(whole, rest));
      std::copy_n(padded, count - whole, out + whole);
    }
  }
  float* const present = args.present + state;
  for (std::size_t i = 0; i < before; ++i) {
    const std::size_t column = args.length + i;
    const float* const row = column < before ? columns + column * kBlock : x + (column - before) * args.channels;
    for (std::size_t channel = 0; channel < count; ++channel) present[channel * before + i] = row[channel];
  }
}

}  // namespace

void causal_conv(const CausalConvArgs& args, const Parallel& parallel) {
  const std::size_t blocks = (args.channels + kBlock - 1) / kBlock;
  // A product counts for two values: tasks of half the size share a decode step among more threads.
  for_each_row(args.batch * blocks, 2 * kBlock * args.length * args.width, parallel, [&](std::size_t block) {
    const std::size_t first = block % blocks * kBlock;
    convolve(args, block / blocks, first, std::min(kBlock, args.channels - first));
  });
}

}  // namespace edgekiln::EDGEKILN_ISA
