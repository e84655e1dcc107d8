// The kernels that this processor runs, and those for tiles with tiles in memory, if it runs the rest of them.
#pragma once

#include <string_view>
#include <vector>

#include "kernels/declare_kernels.h"

#if defined(EDGEKILN_EMULATED_TILES)
EDGEKILN_DECLARE(emulated_tiles, multiply_code_panels, multiply_row_quantized, multiply_shortlist, rounded_attention)
#endif

// Whether 4-bit weights are multiplied with prompts in bfloat16.
inline bool rounds_prompts(const edgekiln::Kernels& kernels) {
  const std::string_view name = kernels.instruction_set;
  return name == "amx" || name == "emulated_tiles";
}

inline std::vector<edgekiln::Kernels> tested_kernels() {
  std::vector<edgekiln::Kernels> kernels = edgekiln::kernels();
#if defined(EDGEKILN_EMULATED_TILES)
  if (kernels.front().rounded_attention) kernels.push_back(edgekiln::emulated_tiles::available);
#endif
  return kernels;
}
