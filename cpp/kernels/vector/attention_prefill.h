// Prefill attention: many new tokens a sequence. Blocked attention with an online softmax (Dao et al.,
// "FlashAttention", 2022).
//
// The query heads of one key-value head are the rows of one matrix, so that keys and values are read once for all of
// them.
#pragma once

#include "kernels/vector/online_softmax.h"
#include "kernels/vector/prefill_operands.h"

namespace edgekiln::EDGEKILN_ISA {
namespace detail {

inline constexpr std::size_t kKeyBlock = 128;   // keys a block
inline constexpr std::size_t kQueryBlock = 64;  // positions a task
inline constexpr std::size_t kRowUnit = 16;     // matrices are padded to a multiple of it

struct Prefill {
  const AttentionArgs& args;
  const float* queries;  // [batch, heads, length, head_dim], rotated and scaled
  std::size_t tasks_a_head, workspace;
};

// Floats of memory of one task, whose matrices have group query heads * up to kQueryBlock positions as rows.
inline std::size_t workspace_size(const AttentionArgs& args, std::size_t row_block) {
  const std::size_t rows = rounded_up(args.heads / args.kv_heads * std::min(args.length, kQueryBlock), kRowUnit);
  const std::size_t padded = rounded_up(args.head_dim, kLanes);
  return rows * args.head_dim + rows * padded + 2 * rows + 3 * kKeyBlock * args.head_dim + kKeyBlock * padded +
         row_block * kKeyBlock + kLanes;
}

template <typename Operands>
void prefill_task(void* context, std::size_t index) {
  using Word = typename Operands::Word;
  static_assert(sizeof(Word) == sizeof(float));
  constexpr std::size_t values_a_word = Operands::kValues;
  const Prefill& prefill = *static_cast<const Prefill*>(context);
  const AttentionArgs& args = prefill.args;
  const std::size_t group = args.heads / args.kv_heads, dim = args.head_dim, padded = rounded_up(dim, kLanes);
  // The last positions attend to most keys: start with them.
  const std::size_t block = prefill.tasks_a_head - 1 - index / (args.batch * args.kv_heads);
  const std::size_t sequence = index / args.kv_heads % args.batch, kv_head = index % args.kv_heads;
  const std::size_t first = block * kQueryBlock, positions = std::min(kQueryBlock, args.length - first);
  const std::size_t rows = group * positions, padded_rows = rounded_up(rows, kRowUnit), past = args.past(sequence);

  thread_local Scratch workspace;
  float* memory = at_least(workspace, prefill.workspace);
  const auto words = [](float* at) { return reinterpret_cast<Word*>(at); };
  Word* query = words(memory);
  float* sum = memory + padded_rows * dim;  // [rows, padded], the accumulated weighted values
  float* maximum = sum + padded_rows * padded;
  float* total = maximum + padded_rows;
  float* key = total + padded_rows;  // [dim / values_a_word, kKeyBlock]
  float* value = key + kKeyBlock * dim;
  float* floats = value + kKeyBlock * padded;
  float* copies = floats + kKeyBlock * dim;
  float* scores = copies + kKeyBlock * dim;
  const std::size_t words_a_row = dim / values_a_word;
  for (std::size_t head = 0; head < group; ++head) {
    Operands::pack_queries(
        prefill.queries + ((sequence * args.heads + kv_head * group + head) * args.length + first) * dim,
        positions * dim, query + head * positions * words_a_row);
  }
  std::fill_n(sum, padded_rows * padded, 0.0f);
  std::fill_n(maximum, padded_rows, kMinusInfinity);
  std::fill_n(total, padded_rows, 0.0f);
  for (std::size_t i = 0; args.sinks && i < rows; ++i) {
    maximum[i] = args.sinks[kv_head * group + i / positions];
    total[i] = 1.0f;
  }

  const auto window_start = [&](std::size_t position) {
    return args.window && position + 1 > args.window ? position + 1 - args.window : 0;
  };
  [[maybe_unused]] const typename Operands::Configuration configuration;
  const std::size_t end = past + first + positions;
  for (std::size_t start = window_start(past + first); start < end; start += kKeyBlock) {
    const std::size_t keys = std::min(kKeyBlock, end - start), width = rounded_up(keys, kLanes);
    const std::size_t whole = rounded_up(keys, values_a_word * kLanes);
    Operands::pack_keys(load_kv(args, args.key_cache, sequence, kv_head, start, keys, floats), keys, dim, words(key),
                        kKeyBlock, copies);
    const Word* values = Operands::pack_values(load_kv(args, args.value_cache, sequence, kv_head, start, keys, floats),
                                               keys, dim, padded, words(value));
    for (std::size_t top = 0; top < rows; top += Operands::kRowBlock) {
      const std::size_t count = std::min(Operands::kRowBlock, rows - top);
      std::size_t needed = keys;
      if constexpr (requires { Operands::kSkipsMaskedKeys; }) {
        // Up to the last position of the rows, of which those of one head follow each other.
        const std::size_t last = std::min(top % positions + count, positions);
        needed = std::clamp(past + first + last, start + 1, start + keys) - start;
      }
      Operands::matmul(count, needed == keys ? width : rounded_up(needed, kLanes), words_a_row,
                       query + top * words_a_row, words_a_row, words(key), kKeyBlock, scores, kKeyBlock, false);
      for (std::size_t i = 0; i < count; i += kLanes) {
        MaskRange ranges[kLanes]{};
        for (std::size_t lane = 0; lane < std::min<std::size_t>(kLanes, count - i); ++lane) {
          const std::size_t row = top + i + lane, position = past + first + row % positions;
          ranges[lane] = {std::clamp(window_start(position), start, start + keys) - start,
                          std::clamp(position + 1, start, start + keys) - start};
          if (args.softcap != 0.0f)
            cap_scores(scores + (i + lane) * kKeyBlock + ranges[lane].from, ranges[lane].to - ranges[lane].from,
                       args.softcap);
          add_bias(args, sequence, kv_head * group + row / positions, first + row % positions,
                   start + ranges[lane].from, scores + (i + lane) * kKeyBlock + ranges[lane].from,
                   ranges[lane].to - ranges[lane].from);
        }
        online_softmax(scores + i * kKeyBlock, kKeyBlock, ranges, whole, maximum + top + i, total + top + i,
                       sum + (top + i) * padded, padded);
        for (int lane = 0; lane < kLanes; ++lane) Operands::pack_weights(scores + (i + lane) * kKeyBlock, keys);
      }
      Operands::matmul(count, padded, (needed + values_a_word - 1) / values_a_word, words(scores), kKeyBlock, values,
                       padded, sum + top * padded, padded, true);
    }
  }
  for (std::size_t i = 0; i < rows; ++i) {
    const std::size_t head = kv_head * group + i / positions, s = first + i % positions;
    float* out = args.out + (sequence * args.length + s) * args.heads * dim + head * dim;
    const float inverse = 1.0f / total[i];
    for (std::size_t j = 0; j < dim; ++j) out[j] = sum[i * padded + j] * inverse;
    apply_scales(args, args.value_cache, kv_head, out);
  }
}

struct Append {
  const AttentionArgs& args;
  float* queries;  // [batch, heads, length, head_dim]
};

inline void append_task(void* context, std::size_t index) {
  const Append& append_all = *static_cast<const Append*>(context);
  const AttentionArgs& args = append_all.args;
  const std::size_t sequence = index / args.length, s = index % args.length;
  append_token(args, append_all.queries + (sequence * args.heads * args.length + s) * args.head_dim,
               args.length * args.head_dim, sequence, s);
}

}  // namespace detail

// Prefill attention that multiplies Operands of one number format.
template <typename Operands>
void prefill(const AttentionArgs& args, const Parallel& parallel, Scratch& scratch) {
  const std::size_t tasks_a_head = (args.length + detail::kQueryBlock - 1) / detail::kQueryBlock;
  detail::Append append_all{args, at_least(scratch, args.batch * args.heads * args.length * args.head_dim)};
  parallel.run(parallel.self, detail::append_task, args.batch * args.length, &append_all);
  detail::Prefill all{args, append_all.queries, tasks_a_head, detail::workspace_size(args, Operands::kRowBlock)};
  parallel.run(parallel.self, detail::prefill_task<Operands>, tasks_a_head * args.batch * args.kv_heads, &all);
}

}  // namespace edgekiln::EDGEKILN_ISA
