// Attention kernels against double precision over the whole sequence.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tested_kernels.h"

namespace {

constexpr double kTolerance = 2e-5;
constexpr double kInt8Tolerance = 1e-4;  // with an int8 cache, queries and softmax weights have 15 bits
constexpr double kBf16Tolerance = 3e-2;  // bfloat16 has 8 significant bits

struct Case {
  std::string name;
  std::size_t batch, length, heads, kv_heads, head_dim, capacity;
  std::vector<std::int32_t> past;
  std::size_t rotary_dim;
  bool interleaved, packed;
  float scale, softcap;
  std::size_t window;
  bool int8 = false;
  float spread = 1.0f;  // standard deviation of the keys and values in the cache
  // Positions of the first cache slots, by which tokens are rotated; empty: 0, and tables without position_ids.
  std::vector<std::size_t> start = {};
  bool sinks = false;
  // The batch and head sizes of a bias of the scores, which also masks every fifth key; 0 is no bias.
  std::size_t bias_batch = 0, bias_heads = 0;
  bool rotary_table = false;

  std::size_t start_of(std::size_t sequence) const { return start.empty() ? 0 : start[sequence]; }
};

using Doubles = std::vector<double>;

std::vector<float> random_floats(std::mt19937& generator, std::size_t count, float spread = 1.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(generator); });
  return values;
}

Doubles rotated(const Case& c, const float* x, const float* cosine, const float* sine, std::size_t position) {
  Doubles y(x, x + c.head_dim);
  const std::size_t half = c.rotary_dim / 2;
  for (std::size_t i = 0; i < half; ++i) {
    const std::size_t a = c.interleaved ? 2 * i : i, b = c.interleaved ? 2 * i + 1 : half + i;
    const double cos = cosine[position * half + i], sin = sine[position * half + i];
    y[a] = x[a] * cos - x[b] * sin;
    y[b] = x[a] * sin + x[b] * cos;
  }
  return y;
}

// On threads; one task after another in emulated programs, as qemu-user hangs when they start threads.
void parallel_for(void* self, void (*task)(void*, std::size_t), std::size_t count, void* context) {
#if defined(EDGEKILN_CROSSCOMPILED)
  edgekiln::kSerial.run(self, task, count, context);
#else
  static_cast<void>(self);
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < count; ++i) threads.emplace_back(task, context, i);
#endif
}

// The largest error of the output and of the appended keys and values.
double error_of(const Case& c, edgekiln::AttentionKernel kernel, unsigned seed) {
  std::mt19937 generator(seed);
  const std::size_t dim = c.head_dim, widths[] = {c.heads * dim, c.kv_heads * dim, c.kv_heads * dim};
  const std::size_t stride = widths[0] + widths[1] + widths[2], tokens = c.batch * c.length;
  const std::vector<float> packed = random_floats(generator, tokens * stride);
  std::vector<float> parts[3];
  std::size_t offset = 0;
  for (int i = 0; i < 3; ++i) {
    for (std::size_t t = 0; t < tokens; ++t)
      parts[i].insert(parts[i].end(), &packed[t * stride + offset], &packed[t * stride + offset] + widths[i]);
    offset += widths[i];
  }
  std::vector<float> keys = random_floats(generator, c.batch * c.kv_heads * c.capacity * dim, c.spread);
  std::vector<float> values = random_floats(generator, keys.size(), c.spread);
  // With an int8 cache, `keys` and `values` become the dequantized codes.
  std::vector<float> key_scales(c.kv_heads * dim), value_scales(c.kv_heads * dim);
  std::uniform_real_distribution<float> scale(0.01f, 0.03f);
  for (std::vector<float>* scales : {&key_scales, &value_scales})
    std::generate(scales->begin(), scales->end(), [&] { return scale(generator); });
  std::vector<std::int8_t> key_codes, value_codes;
  const auto quantize = [&](double value, float by) {
    return static_cast<std::int8_t>(std::nearbyint(std::clamp(static_cast<float>(value) / by, -128.0f, 127.0f)));
  };
  const auto scale_of = [&](const std::vector<float>& scales, std::size_t i) {
    return scales[i / (c.capacity * dim) % c.kv_heads * dim + i % dim];
  };
  if (c.int8) {
    for (std::size_t i = 0; i < keys.size(); ++i) {
      key_codes.push_back(quantize(keys[i], scale_of(key_scales, i)));
      value_codes.push_back(quantize(values[i], scale_of(value_scales, i)));
      keys[i] = key_codes[i] * scale_of(key_scales, i);
      values[i] = value_codes[i] * scale_of(value_scales, i);
    }
  }
  std::size_t positions = c.capacity;
  for (const std::size_t start : c.start) positions = std::max(positions, start + c.capacity);
  const std::vector<float> cosine = random_floats(generator, positions * std::max<std::size_t>(c.rotary_dim / 2, 1));
  const std::vector<float> sine = random_floats(generator, cosine.size());
  Doubles true_keys(keys.begin(), keys.end()), true_values(values.begin(), values.end());
  const auto slot = [&](std::size_t b, std::size_t head, std::size_t position) {
    return ((b * c.kv_heads + head) * c.capacity + position) * dim;
  };

  std::vector<std::int32_t> last(c.batch);
  std::vector<std::int64_t> position_ids;
  std::vector<float> token_cosine, token_sine;
  for (std::size_t b = 0; b < c.batch; ++b) {
    last[b] = c.past[b] + static_cast<std::int32_t>(c.length) - 1;
    for (std::size_t s = 0; s < c.length; ++s) {
      const std::size_t position = c.start_of(b) + c.past[b] + s;
      position_ids.push_back(static_cast<std::int64_t>(position));
      for (std::size_t i = 0; i < c.rotary_dim / 2; ++i) {
        token_cosine.push_back(cosine[position * (c.rotary_dim / 2) + i]);
        token_sine.push_back(sine[position * (c.rotary_dim / 2) + i]);
      }
      for (std::size_t head = 0; head < c.kv_heads; ++head) {
        const std::size_t from = (b * c.length + s) * widths[1] + head * dim, to = slot(b, head, c.past[b] + s);
        const Doubles key = rotated(c, &parts[1][from], cosine.data(), sine.data(), position);
        for (std::size_t j = 0; j < dim; ++j) {
          const float by_key = scale_of(key_scales, to + j), by_value = scale_of(value_scales, to + j);
          true_keys[to + j] = c.int8 ? quantize(key[j], by_key) * by_key : key[j];
          true_values[to + j] = c.int8 ? quantize(parts[2][from + j], by_value) * by_value : parts[2][from + j];
        }
      }
    }
  }

  const std::vector<float> sinks = random_floats(generator, c.heads);
  std::vector<float> bias = random_floats(generator, c.bias_batch * c.bias_heads * c.length * c.capacity);
  for (std::size_t i = 0; i < bias.size(); i += 5) bias[i] = -30000.0f;

  std::vector<float> out(tokens * widths[0], NAN);
  edgekiln::AttentionArgs args{};
  if (c.sinks) args.sinks = sinks.data();
  if (!bias.empty()) {
    const std::size_t of_head = c.length * c.capacity;
    args.bias = {bias.data(), c.bias_batch == 1 ? 0 : c.bias_heads * of_head, c.bias_heads == 1 ? 0 : of_head,
                 c.capacity};
  }
  args.batch = c.batch, args.length = c.length, args.heads = c.heads, args.kv_heads = c.kv_heads;
  args.head_dim = dim, args.capacity = c.capacity;
  args.query = c.packed ? packed.data() : parts[0].data();
  args.key = c.packed ? packed.data() + widths[0] : parts[1].data();
  args.value = c.packed ? packed.data() + widths[0] + widths[1] : parts[2].data();
  args.query_stride = c.packed ? stride : widths[0];
  args.key_stride = args.value_stride = c.packed ? stride : widths[1];
  args.key_cache = {keys.data(), nullptr}, args.value_cache = {values.data(), nullptr};
  if (c.int8) {
    args.key_cache = {key_codes.data(), key_scales.data()};
    args.value_cache = {value_codes.data(), value_scales.data()};
  }
  args.last_position = last.data();
  args.position_ids = c.start.empty() ? nullptr : position_ids.data();
  if (c.rotary_dim) {
    args.cosine = c.rotary_table ? cosine.data() : token_cosine.data();
    args.sine = c.rotary_table ? sine.data() : token_sine.data();
  }
  args.rotary_table = c.rotary_table;
  args.rotary_dim = c.rotary_dim, args.interleaved = c.interleaved;
  args.scale = c.scale, args.softcap = c.softcap, args.window = c.window;
  args.out = out.data();
  edgekiln::Scratch scratch;
  kernel(args, {parallel_for, nullptr}, scratch);

  double worst = 0.0;
  const auto compare = [&](double got, double expected) {
    const double difference = std::abs(got - expected);
    worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
  };
  for (std::size_t i = 0; c.int8 && i < keys.size(); ++i) {
    keys[i] = key_codes[i] * scale_of(key_scales, i);
    values[i] = value_codes[i] * scale_of(value_scales, i);
  }
  for (std::size_t i = 0; i < keys.size(); ++i) compare(keys[i], true_keys[i]), compare(values[i], true_values[i]);
  for (std::size_t b = 0; b < c.batch; ++b) {
    for (std::size_t s = 0; s < c.length; ++s) {
      const std::size_t position = c.past[b] + s;
      const std::size_t first = c.window && position + 1 > c.window ? position + 1 - c.window : 0;
      for (std::size_t head = 0; head < c.heads; ++head) {
        const std::size_t kv_head = head / (c.heads / c.kv_heads), at = ((b * c.length + s) * c.heads + head) * dim;
        const Doubles query = rotated(c, &parts[0][at], cosine.data(), sine.data(), c.start_of(b) + position);
        Doubles weights, sum(dim);
        for (std::size_t k = first; k <= position; ++k) {
          double score = 0.0;
          for (std::size_t j = 0; j < dim; ++j) score += query[j] * true_keys[slot(b, kv_head, k) + j];
          score *= c.scale;
          if (c.softcap != 0.0f) score = c.softcap * std::tanh(score / c.softcap);
          const std::size_t row =
              b % std::max<std::size_t>(c.bias_batch, 1) * c.bias_heads + head % std::max<std::size_t>(c.bias_heads, 1);
          weights.push_back(bias.empty() ? score : score + bias[(row * c.length + s) * c.capacity + k]);
        }
        double largest = *std::max_element(weights.begin(), weights.end()), total = 0.0;
        if (c.sinks) {
          largest = std::max<double>(largest, sinks[head]);
          total = std::exp(sinks[head] - largest);
        }
        for (std::size_t k = 0; k < weights.size(); ++k) {
          const double weight = std::exp(weights[k] - largest);
          total += weight;
          for (std::size_t j = 0; j < dim; ++j) sum[j] += weight * true_values[slot(b, kv_head, first + k) + j];
        }
        for (std::size_t j = 0; j < dim; ++j) compare(out[at + j], sum[j] / total);
      }
    }
  }
  return worst;
}

// Whether tokens in one call get the same bits as in one call each.
bool chunk_equals_steps(edgekiln::AttentionKernel kernel, bool int8) {
  constexpr std::size_t heads = 6, kv_heads = 2, dim = 64, capacity = 256, past = 120, chunk = 8;
  constexpr std::size_t width = (heads + 2 * kv_heads) * dim;
  std::mt19937 generator(3);
  const std::vector<float> packed = random_floats(generator, chunk * width), angles(capacity * dim / 2, 0.6f);
  const std::vector<float> scales(kv_heads * dim, 0.02f);
  const std::vector<float> filled = random_floats(generator, kv_heads * capacity * dim, int8 ? 0.0f : 1.0f);
  std::vector<float> outs[2];
  for (const std::size_t step : {chunk, std::size_t{1}}) {
    std::vector<float> keys = filled, values = filled, out(chunk * heads * dim);
    edgekiln::Scratch scratch;
    for (std::size_t s = 0; s < chunk; s += step) {
      const std::int32_t last = static_cast<std::int32_t>(past + s + step - 1);
      edgekiln::AttentionArgs args{};
      args.batch = 1, args.length = step, args.heads = heads, args.kv_heads = kv_heads, args.head_dim = dim;
      args.capacity = capacity, args.query = packed.data() + s * width, args.key = args.query + heads * dim;
      args.value = args.key + kv_heads * dim;
      args.query_stride = args.key_stride = args.value_stride = width;
      args.key_cache = {keys.data(), int8 ? scales.data() : nullptr};
      args.value_cache = {values.data(), int8 ? scales.data() : nullptr};
      args.last_position = &last, args.cosine = args.sine = angles.data(), args.rotary_dim = dim;
      args.scale = 0.125f, args.out = out.data() + s * heads * dim;
      kernel(args, {parallel_for, nullptr}, scratch);
    }
    outs[step == 1] = out;
  }
  return outs[0] == outs[1];
}

const std::vector<Case> kCases = {
    {"a prompt", 1, 37, 9, 3, 64, 64, {0}, 64, false, true, 0.125f, 0, 0},
    {"a chunk after a past", 1, 70, 4, 2, 64, 512, {301}, 64, false, true, 0.125f, 0, 0},
    {"several blocks of queries and keys", 1, 150, 6, 2, 32, 512, {190}, 32, false, false, 0.2f, 0, 0},
    {"one token", 1, 1, 9, 3, 64, 1024, {640}, 64, false, true, 0.125f, 0, 0},
    {"the first token", 1, 1, 4, 4, 64, 16, {0}, 64, false, true, 0.125f, 0, 0},
    {"ragged batch, one token", 3, 1, 8, 2, 64, 512, {3, 500, 129}, 64, false, true, 0.125f, 0, 0},
    {"ragged batch, chunks", 2, 9, 8, 2, 64, 256, {200, 5}, 64, false, false, 0.125f, 0, 0},
    {"a window over chunks", 1, 90, 4, 1, 64, 512, {170}, 64, false, true, 0.125f, 0, 33},
    {"a window over one token", 2, 1, 4, 1, 64, 512, {400, 7}, 64, false, true, 0.125f, 0, 40},
    {"a window longer than the past", 1, 20, 4, 2, 64, 64, {0}, 64, false, true, 0.125f, 0, 50},
    {"softcap", 1, 40, 4, 2, 64, 128, {60}, 64, false, true, 1.0f, 5.0f, 0},
    {"softcap, one token", 1, 1, 4, 2, 64, 128, {90}, 64, false, true, 1.0f, 5.0f, 0},
    {"no rotary", 1, 30, 4, 4, 64, 128, {20}, 0, false, false, 0.125f, 0, 0},
    {"rotary of half a head", 1, 30, 4, 4, 64, 128, {20}, 32, false, false, 0.125f, 0, 0},
    {"interleaved rotary", 1, 30, 4, 4, 64, 128, {20}, 64, true, false, 0.125f, 0, 0},
    {"heads narrower than a vector", 1, 30, 4, 2, 8, 128, {20}, 8, false, true, 0.3f, 0, 0},
    {"heads that do not fill a vector", 2, 21, 6, 3, 40, 128, {64, 0}, 40, false, false, 0.2f, 0, 0},
    {"heads that do not fill a vector, one token", 2, 1, 6, 3, 40, 128, {64, 0}, 40, false, false, 0.2f, 0, 0},
    {"wide heads", 1, 65, 8, 1, 256, 256, {100}, 256, false, true, 0.0625f, 0, 0},
    {"many splits", 1, 1, 4, 1, 128, 4096, {4000}, 128, false, true, 0.09f, 0, 0},
    {"int8 cache, a prompt", 1, 37, 9, 3, 64, 64, {0}, 64, false, true, 0.125f, 0, 0, true},
    {"int8 cache, a chunk", 2, 70, 4, 2, 64, 512, {301, 2}, 64, false, true, 0.125f, 0, 0, true},
    {"int8 cache, ragged batch", 3, 1, 8, 2, 64, 512, {3, 500, 129}, 64, false, true, 0.125f, 0, 0, true},
    {"few tokens at once", 2, 5, 10, 2, 64, 512, {300, 61}, 64, false, true, 0.125f, 0, 0},
    {"few tokens in a window", 1, 6, 4, 2, 64, 512, {140}, 64, false, true, 0.125f, 0, 70},
    {"int8 cache, few tokens at once", 1, 8, 10, 2, 64, 512, {300}, 64, false, true, 0.125f, 0, 0, true},
    {"int8 cache, odd heads", 2, 1, 6, 3, 40, 128, {64, 0}, 40, false, false, 0.2f, 0, 0, true},
    {"int8 cache, odd heads in a chunk", 1, 9, 6, 3, 40, 128, {64}, 40, false, false, 0.2f, 0, 0, true},
    {"window buffers, one token", 2, 1, 4, 2, 64, 128, {90, 3}, 64, false, true, 0.125f, 0, 70, false, 1.0f, {192, 0}},
    {"window buffers, a chunk", 2, 40, 4, 2, 64, 128, {60, 3}, 64, true, true, 0.125f, 0, 50, false, 1.0f, {64, 640}},
    {"window buffers, int8 cache", 2, 2, 4, 2, 64, 128, {90, 3}, 64, false, true, 0.125f, 0, 70, true, 1.0f, {192, 0}},
    {"int8 cache, extreme codes", 1, 1, 9, 3, 64, 512, {400}, 64, false, true, 0.02f, 0, 0, true, 1e4f},
    {"int8 cache, extreme codes, wide", 1, 2, 2, 1, 256, 128, {70}, 0, false, true, 0.01f, 0, 0, true, 1e4f},
    {"int8 cache, zero codes", 1, 1, 3, 1, 64, 128, {70}, 64, false, true, 0.125f, 0, 0, true, 0.0f},
    {"int8 cache, a window", 2, 1, 4, 1, 64, 512, {400, 7}, 64, false, true, 0.125f, 0, 39, true},
    {"int8 cache, softcap", 1, 3, 4, 2, 64, 128, {90}, 64, false, true, 1.0f, 5.0f, 0, true},
    {"sinks, a prompt", 1, 150, 6, 2, 64, 256, {20}, 64, false, true, 0.125f, 0, 0, false, 1.0f, {}, true},
    {"sinks, one token", 2, 1, 6, 2, 64, 256, {200, 0}, 64, false, true, 0.125f, 0, 9, false, 1.0f, {}, true},
    {"sinks, int8 cache", 1, 3, 6, 2, 64, 256, {90}, 64, false, true, 0.125f, 0, 0, true, 1.0f, {}, true},
    {"a bias of heads", 2, 70, 6, 2, 64, 256, {100, 3}, 64, false, true, 0.125f, 0, 0, false, 1.0f, {}, false, 2, 6},
    {"a bias, one token", 2, 1, 6, 2, 64, 256, {190, 3}, 64, false, true, 0.125f, 0, 0, false, 1.0f, {}, false, 2, 1},
    {"a bias in a window", 2, 30, 6, 2, 64, 256, {140, 3}, 64, false, true, 0.125f, 0, 33, false, 1.0f, {}, true, 1, 6},
    {"a bias, int8 cache", 1, 2, 6, 2, 64, 256, {90}, 64, false, true, 1.0f, 5.0f, 0, true, 1.0f, {}, true, 1, 1},
    {"scores far apart", 1, 40, 2, 2, 64, 128, {60}, 64, false, true, 20.0f, 0, 0},
};

}  // namespace

TEST_CASE("attention matches double precision") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const bool bf16 : {false, true}) {
      const edgekiln::AttentionKernel kernel = bf16 ? kernels.bf16_attention : kernels.attention;
      if (!kernel) continue;
      for (const Case& c : kCases) {
        INFO(kernels.instruction_set, ", bf16 ", bf16, ": ", c.name);
        const double tolerance = bf16 ? kBf16Tolerance : c.int8 ? kInt8Tolerance : kTolerance;
        // The rounding error of a score grows with the scores.
        CHECK(error_of(c, kernel, 7) <= tolerance * std::max(1.0f, c.scale * 8));
      }
    }
  }
}

TEST_CASE("attention reads tables of all positions") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    if (!kernels.attention) continue;
    for (Case c : kCases) {
      if (c.start.empty() && !c.name.starts_with("ragged batch")) continue;
      c.rotary_table = true;
      INFO(kernels.instruction_set, ": ", c.name);
      CHECK(error_of(c, kernels.attention, 7) <= (c.int8 ? kInt8Tolerance : kTolerance));
    }
  }
}

TEST_CASE("decode attention with any number of query heads a key-value head, and any width") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    if (!kernels.attention) continue;
    for (const bool int8 : {false, true}) {
      for (std::size_t group = 1; group <= 9; ++group) {
        for (const std::size_t dim : {16, 48, 64, 80}) {
          // The last of its blocks of keys ends anywhere.
          const auto past = static_cast<std::int32_t>(60 + 3 * group);
          const Case c{"", 1, 1, 2 * group, 2, dim, 128, {past}, 0, false, true, 0.125f, 0, 0, int8};
          INFO(kernels.instruction_set, ", int8 ", int8, ": group ", group, ", head_dim ", dim);
          CHECK(error_of(c, kernels.attention, 11) <= (int8 ? kInt8Tolerance : kTolerance));
        }
      }
    }
  }
}

TEST_CASE("a chunk of tokens gets the bits of one token at a time") {
  for (const edgekiln::KernelTable& kernels : tested_kernels()) {
    for (const edgekiln::AttentionKernel kernel : {kernels.attention, kernels.bf16_attention}) {
      for (const bool int8 : {false, true}) {
        INFO(kernels.instruction_set, ", bf16 ", kernel == kernels.bf16_attention, ", int8 ", int8);
        if (kernel) CHECK(chunk_equals_steps(kernel, int8));
      }
    }
  }
}
