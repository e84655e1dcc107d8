// Says that the kernels of an instruction set are there: EDGEKILN_DECLARE(isa, those that not all of them have).
#pragma once

#include "kernels/kernel_table.h"

#define EDGEKILN_DECLARE(isa, ...)                                                                              \
  namespace edgekiln::isa {                                                                                     \
  void attention(const AttentionCall&, const Parallel&, Scratch&);                                              \
  void matmul_n_bits(const MatMulNBitsCall&, const Parallel&, Scratch&);                                        \
  void skip_norm(const SkipNormCall&, const Parallel&);                                                         \
  void packed_heads(const PackedHeadsCall&, const Parallel&);                                                   \
  void gated_silu(const GatedSiluCall&, const Parallel&);                                                       \
  void multiply_code_panels(const CodePanels&, const float*, std::size_t, float*, const Parallel&, Scratch&);   \
  void multiply_row_quantized(const Int8Panels&, const float*, std::size_t, float*, const Parallel&, Scratch&); \
  void multiply_shortlist(const Shortlist&, const float*, std::size_t, float*, const Parallel&, Scratch&);      \
  void rounded_attention(const AttentionCall&, const Parallel&, Scratch&);                                      \
  inline constexpr Kernels available{                                                                           \
      #isa, attention, matmul_n_bits, skip_norm, gated_silu, packed_heads, __VA_ARGS__};                        \
  }
