// Matrix multiplications of tokens with the weights of the experts that are chosen for them, as sequences of kernels.
//
// A pair is a token and one of its experts. Pairs are grouped by expert, so that each chosen expert's weight is read
// once, and others not at all.
//
// Up to kGemvMaxM tokens, one parallel loop computes slices of columns of all chosen experts. With more, experts follow
// each other, each with all threads. How a row is rounded depends on the number of tokens alone (rounding_tokens()),
// not on the experts that others choose.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "kernels/kernel_table.h"
#include "kernels/pack/packed_experts.h"

namespace edgekiln {

// Weight formats: expert(i) is the weight of one expert. multiply() computes out[m, n] = a[m, k] * w with the kernel of
// a table, for m of the pairs of `tokens` tokens.
struct NBitsExpertFormat {
  using Experts = NBitsExperts;
  using Weight = PackedNBits;
  static Weight columns(const Weight& weight, std::size_t first, std::size_t count) {
    return weight.columns(first, count);
  }
  static std::size_t column_bytes(const Weight& weight) { return weight.panel_bytes() / kPanelWidth; }
  static void multiply(const KernelTable& table, const Weight& weight, const float* a, std::size_t m,
                       std::size_t tokens, float* out, const Parallel& parallel, Scratch& scratch) {
    table.nbits_gemm(weight, a, m, tokens, out, parallel, scratch);
  }

  const NBitsExperts& experts;
  Weight expert(std::size_t index) const { return experts.expert(index); }
};

struct PerTokenInt8ExpertFormat {
  using Experts = Int8Experts;
  using Weight = PackedInt8;
  static Weight columns(const Weight& weight, std::size_t first, std::size_t count) {
    return weight.columns(first, count);
  }
  static std::size_t column_bytes(const Weight& weight) { return weight.panel_bytes() / Weight::kPanelWidth; }
  static void multiply(const KernelTable& table, const Weight& weight, const float* a, std::size_t m, std::size_t,
                       float* out, const Parallel& parallel, Scratch& scratch) {
    table.per_token_int8_gemm(weight, a, m, out, parallel, scratch);
  }

  const Int8Experts& experts;
  Weight expert(std::size_t index) const { return experts.expert(index); }
};

// In ONNX Runtime's layout, for instruction sets without packed weights.
struct UnpackedExpertFormat {
  using Weight = MatMulNBitsArgs;
  static Weight columns(const Weight& weight, std::size_t first, std::size_t count) {
    return weight.columns(first, count);
  }
  static std::size_t column_bytes(const Weight& weight) { return weight.column_bytes(); }
  static void multiply(const KernelTable& table, Weight weight, const float* a, std::size_t m, std::size_t tokens,
                       float* out, const Parallel& parallel, Scratch& scratch) {
    for (; tokens <= kGemvMaxM && m > kGemvMaxM; m -= kGemvMaxM, a += kGemvMaxM * weight.k, out += kGemvMaxM * weight.n)
      multiply(table, weight, a, kGemvMaxM, tokens, out, parallel, scratch);
    weight.m = m;
    weight.a = a;
    weight.tokens = tokens;
    weight.out = out;
    table.matmul_nbits(weight, parallel, scratch);
  }

  const MatMulNBitsArgs& all;  // columns of the experts one after another
  std::size_t n;               // of one expert
  Weight expert(std::size_t index) const { return all.columns(index * n, n); }
};

struct FloatExpertWeight {
  const float* values;  // [n, k]
  std::size_t k, n;
};

struct FloatExpertFormat {
  using Weight = FloatExpertWeight;
  static Weight columns(const Weight& weight, std::size_t first, std::size_t count) {
    return {weight.values + first * weight.k, weight.k, count};
  }
  static std::size_t column_bytes(const Weight& weight) { return weight.k * sizeof(float); }
  static void multiply(const KernelTable& table, const Weight& weight, const float* a, std::size_t m, std::size_t,
                       float* out, const Parallel& parallel, Scratch&) {
    table.float_gemm(weight.values, weight.k, weight.n, a, m, out, parallel);
  }

  const Weight& all;  // columns of the experts one after another
  std::size_t n;      // of one expert
  Weight expert(std::size_t index) const { return columns(all, index * n, n); }
};

struct ExpertMatMulArgs {
  std::size_t tokens, chosen;  // chosen: experts a token
  std::size_t experts, k, n;
  bool shared;  // x is [tokens, k], the same for all experts of a token; else [tokens, chosen, k]
  const float* x;
  const std::int64_t* index;  // [tokens, chosen], each below `experts`
  float* out;                 // [tokens, chosen, n]

  std::size_t pairs() const { return tokens * chosen; }
  const float* row(std::size_t pair) const { return x + (shared ? pair / chosen : pair) * k; }
};

// The number of tokens whose plain multiplication rounds as this one does: there are 4-bit GEMMs for less and for more
// than kPrefillMinM. The latter converts a weight first, which pays from kExpertPrefillMinM on as the m of an expert.
inline std::size_t rounding_tokens(const ExpertMatMulArgs& args) {
  const bool pays = args.pairs() >= args.experts * kExpertPrefillMinM;
  return pays ? args.tokens : std::min(args.tokens, kPrefillMinM - 1);
}

// The pairs of each expert that has any, in the order of tokens.
class ExpertGroups {
 public:
  struct Group {
    std::size_t expert, count;
    const std::size_t* pairs;
  };

  explicit ExpertGroups(const ExpertMatMulArgs& args) : pairs_(args.pairs()) {
    std::vector<std::size_t> end(args.experts);
    for (std::size_t pair = 0; pair < pairs_.size(); ++pair) ++end[static_cast<std::size_t>(args.index[pair])];
    for (std::size_t expert = 0, first = 0; expert < args.experts; ++expert) {
      if (end[expert]) groups_.push_back({expert, end[expert], pairs_.data() + first});
      first += end[expert];
      end[expert] = first - end[expert];
    }
    for (std::size_t pair = 0; pair < pairs_.size(); ++pair)
      pairs_[end[static_cast<std::size_t>(args.index[pair])]++] = pair;
  }

  const std::vector<Group>& groups() const { return groups_; }

  // The pairs of the expert that has most.
  std::size_t most() const {
    std::size_t most = 0;
    for (const Group& group : groups_) most = std::max(most, group.count);
    return most;
  }

 private:
  std::vector<std::size_t> pairs_;
  std::vector<Group> groups_;
};

// The weights of groups that follow each other: the next one is read from disk, or packed, before the current one is
// used.
template <typename Format>
class WeightsInTurn {
 public:
  WeightsInTurn(const Format& format, const std::vector<ExpertGroups::Group>& groups)
      : format_(format), groups_(groups), next_(format.expert(groups.front().expert)) {}

  typename Format::Weight take() {
    typename Format::Weight weight = *std::move(next_);
    if (++index_ < groups_.size()) next_ = format_.expert(groups_[index_].expert);
    return weight;
  }

 private:
  const Format& format_;
  const std::vector<ExpertGroups::Group>& groups_;
  std::size_t index_ = 0;
  std::optional<typename Format::Weight> next_;
};

namespace detail {

// Slices of columns of the chosen experts: as many as keep all threads busy to the end, since each quantizes the
// activations again, and no smaller than that is worth it.
inline constexpr std::size_t kSlicesAThread = 8, kLeastSliceBytes = 128 << 10;
inline constexpr std::size_t kSliceColumns = 64;  // their multiple, as kernels compute so many at once

template <typename Format>
struct ExpertSlices {
  using Weight = typename Format::Weight;

  const KernelTable& table;
  const ExpertMatMulArgs& args;
  const std::vector<ExpertGroups::Group>& groups;
  std::vector<Weight> weights;  // of the groups
  std::size_t columns, slices;  // of a slice, and of a group

  static void task(void* context, std::size_t index) {
    const ExpertSlices& self = *static_cast<const ExpertSlices*>(context);
    const ExpertMatMulArgs& args = self.args;
    const ExpertGroups::Group& group = self.groups[index / self.slices];
    const std::size_t first = index % self.slices * self.columns, count = std::min(self.columns, args.n - first);
    const Weight weight = Format::columns(self.weights[index / self.slices], first, count);
    thread_local Scratch rows, gemm;
    if (group.count == 1) {
      const std::size_t pair = group.pairs[0];
      float* const out = args.out + pair * args.n + first;
      return Format::multiply(self.table, weight, args.row(pair), 1, args.tokens, out, kSerial, gemm);
    }
    float* const a = at_least(rows, group.count * (args.k + count));
    float* const out = a + group.count * args.k;
    for (std::size_t i = 0; i < group.count; ++i) std::copy_n(args.row(group.pairs[i]), args.k, a + i * args.k);
    Format::multiply(self.table, weight, a, group.count, args.tokens, out, kSerial, gemm);
    for (std::size_t i = 0; i < group.count; ++i)
      std::copy_n(out + i * count, count, args.out + group.pairs[i] * args.n + first);
  }
};

// Copies results of one group to their places, and the rows of the next one together.
struct ExpertRows {
  const ExpertMatMulArgs& args;
  const ExpertGroups::Group *done, *next;  // null for none
  const float* results;
  float* rows;

  static void task(void* context, std::size_t index) {
    const ExpertRows& self = *static_cast<const ExpertRows*>(context);
    const ExpertMatMulArgs& args = self.args;
    const std::size_t done = self.done ? self.done->count : 0;
    if (index < done) {
      std::copy_n(self.results + index * args.n, args.n, args.out + self.done->pairs[index] * args.n);
    } else {
      index -= done;
      std::copy_n(args.row(self.next->pairs[index]), args.k, self.rows + index * args.k);
    }
  }

  void run(const Parallel& parallel) {
    parallel.run(parallel.self, task, (done ? done->count : 0) + (next ? next->count : 0), this);
  }
};

// All pairs of `groups` in one loop; at most kGemvMaxM tokens.
template <typename Format>
void multiply_slices(const KernelTable& table, const Format& format, const ExpertMatMulArgs& args,
                     const std::vector<ExpertGroups::Group>& groups, const Parallel& parallel) {
  ExpertSlices<Format> slices{table, args, groups, {}, 0, 0};
  for (const ExpertGroups::Group& group : groups) slices.weights.push_back(format.expert(group.expert));
  static const std::size_t threads = std::max(std::thread::hardware_concurrency(), 1u);
  const std::size_t most = args.n * Format::column_bytes(slices.weights[0]) / kLeastSliceBytes;
  const std::size_t wanted =
      std::clamp<std::size_t>(threads * kSlicesAThread / groups.size(), 1, std::max<std::size_t>(most, 1));
  slices.columns = ((args.n + wanted - 1) / wanted + kSliceColumns - 1) / kSliceColumns * kSliceColumns;
  slices.slices = (args.n + slices.columns - 1) / slices.columns;
  parallel.run(parallel.self, slices.task, groups.size() * slices.slices, &slices);
}

}  // namespace detail

// out[token, slot] = x[token, slot] * the weight of expert index[token, slot]. The caller owns both scratches.
template <typename Format>
void expert_matmul(const KernelTable& table, const Format& format, const ExpertMatMulArgs& args,
                   const Parallel& parallel, Scratch& memory, Scratch& gemm_memory) {
  const ExpertGroups all(args);
  const std::vector<ExpertGroups::Group>& groups = all.groups();
  if (groups.empty()) return;
  if (args.tokens <= kGemvMaxM) return detail::multiply_slices(table, format, args, groups, parallel);
  const std::size_t tokens = rounding_tokens(args), most = all.most();
  float* const rows = at_least(memory, most * (args.k + args.n));
  detail::ExpertRows copies{args, nullptr, nullptr, rows + most * args.k, rows};
  WeightsInTurn<Format> weights(format, groups);
  for (const ExpertGroups::Group& group : groups) {
    copies.next = &group;
    copies.run(parallel);
    Format::multiply(table, weights.take(), rows, group.count, tokens, rows + most * args.k, parallel, gemm_memory);
    copies.done = &group;
  }
  copies.next = nullptr;
  copies.run(parallel);
}

}  // namespace edgekiln
