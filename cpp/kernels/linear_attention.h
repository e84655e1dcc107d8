// Linear attention: a state for each head that each token updates and reads (Katharopoulos et al., 2020; with decay
// Dao and Gu, "Transformers are SSMs", 2024; with the delta rule Yang et al., "Gated Delta Networks", 2025).
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// Where the factor on new values comes from.
enum class UpdateFactor {
  kOne,
  kBeta,     // the input
  kSigmoid,  // of the input, in Gated DeltaNet
  kStep,     // the step of the decay, in Mamba-2
};

// For each token and head, with state S [key_dim, value_dim] and k ⊗ v the outer product:
//   S = exp(decay) S, unless decay is null
//   S = S + k ⊗ factor v, with the delta rule S + k ⊗ factor (v - Sᵀk)
//   out = scale Sᵀq + skip v
// With `a`, the decay is step a, where step = min(max(softplus(decay + dt_bias), least_step), most_step). With
// `norm_epsilon`, k and q are divided by their length, the root of their sum of squares + norm_epsilon.
// Each token has the same bits whatever the length of the call, if that is less than 16 tokens: longer calls take
// blocks of tokens together, unless rows have decays of their own.
struct LinearAttentionArgs {
  std::size_t batch, length, heads, key_dim, value_dim;  // key_dim: at most kMaxLinearAttentionKeyDim
  std::size_t key_heads;                                 // of queries and keys, a divisor of heads
  const float *query, *key;                              // [batch, length, key_heads, key_dim]
  const float* value;                                    // [batch, length, heads, value_dim]
  const float* past;                                     // [batch, heads, key_dim, value_dim]
  float* out;                                            // [batch, length, heads, value_dim]
  float* present;                                        // [batch, heads, key_dim, value_dim]; not `past`
  float scale = 1.0f;
  bool delta = false;
  const float* decay = nullptr;    // [batch, length, heads], by row [batch, length, heads, key_dim]; null for none
  bool decay_by_row = false;       // without `a`
  const float* a = nullptr;        // [heads]
  const float* dt_bias = nullptr;  // [heads], with `a`
  float least_step = 0.0f, most_step = 0.0f;
  UpdateFactor factor = UpdateFactor::kOne;
  const float* beta = nullptr;  // [batch, length, heads], for kBeta and kSigmoid
  const float* skip = nullptr;  // [heads]; null for none
  float norm_epsilon = 0.0f;    // 0 for no norm
  // Floats from a token to the next, 0 where the tensor has no others between: of query and key, of value, of decay.
  std::size_t key_stride = 0, value_stride = 0, decay_stride = 0;
};

inline constexpr std::size_t kMaxLinearAttentionKeyDim = 256;

using LinearAttentionKernel = void (*)(const LinearAttentionArgs&, const Parallel&);

}  // namespace edgekiln
