// QKV prologue: adds the bias of the QKV projections, or applies RMS norms to queries and keys (QK norm), each head by
// itself or all heads together.
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
  const float* gammas[2];  // [norm_width()], of queries and of keys; null for no norm
  float epsilon;           // of the norms
  bool joint;              // norms are over all heads of a token

  std::size_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  // Of queries, or of keys.
  std::size_t norm_width(bool of_keys) const { return joint ? (of_keys ? kv_heads : heads) * head_dim : head_dim; }
};

using QkvPrologueKernel = void (*)(const QkvPrologueArgs&, const Parallel&);

}  // namespace edgekiln
