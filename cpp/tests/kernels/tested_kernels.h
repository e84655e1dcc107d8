// The kernel tables that the tests run: those of this processor and, where it runs the rest of them, AMX emulated in
// memory and AVX-VNNI in the encoding of AVX-512.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/instruction_sets/instruction_set.h"

#if defined(EDGEKILN_EMULATED)
namespace edgekiln::amx_emulated {
extern const InstructionSet instruction_set;
}
namespace edgekiln::avxvnni_emulated {
extern const InstructionSet instruction_set;
}
#endif

// Whether the q4 prefill GEMM of a table multiplies in bfloat16.
inline bool q4_prefill_in_bf16(const edgekiln::KernelTable& kernels) {
  const std::string_view name = kernels.instruction_set;
  return name == "amx" || name == "amx_emulated";
}

// Whether it multiplies the 4-bit codes, as the smaller GEMMs do, without requantization.
inline bool q4_prefill_of_codes(const edgekiln::KernelTable& kernels) {
  const std::string_view name = kernels.instruction_set;
  return name == "avx512" || name == "avx2";
}

// The values of k that share a scale of the quantized activations in the q4 prefill GEMM of a table.
inline std::size_t q4_prefill_block(const edgekiln::KernelTable& kernels) {
  return std::string_view(kernels.instruction_set).starts_with("neon") ? 64 : 32;
}

inline std::vector<edgekiln::KernelTable> tested_kernels() {
  std::vector<edgekiln::KernelTable> tables = edgekiln::supported_kernels();
#if defined(EDGEKILN_EMULATED)
  for (const edgekiln::InstructionSet& emulated :
       {edgekiln::amx_emulated::instruction_set, edgekiln::avxvnni_emulated::instruction_set})
    if (emulated.supported()) tables.push_back(emulated.kernels);
#endif
  return tables;
}
