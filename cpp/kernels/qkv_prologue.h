// QKV prologue: adds the bias of the QKV projections, or applies RMS norms to the heads of queries and keys (QK norm).
#pragma once

#include <cstddef>

#include "kernels/common/parallel.h"

namespace edgekiln {

// Packed projections of a token: `heads` queries, `kv_heads` keys and `kv_heads` values, of head_dim floats each.
struct QkvPrologueArgs {
  std::size_t tokens, heads, kv_heads, head_dim;
  const float* from;       // [tokens, width()]
  float* to;               // [tokens, width()]; may be `from`
  const float* bias;       // [width()]; null for none
  const float* gammas[2];  // [head_dim], of queries and of keys; null for no norm
  float epsilon;           // of the norms

  std::size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

using QkvPrologueKernel = void (*)(const QkvPrologueArgs&, const Parallel&);

}  // namespace edgekiln
