// The kernels that this processor runs, and those for tiles with tiles in memory, if it runs the rest of them.
#pragma once

#include "declare_kernels.h"

#if defined(EDGEKILN_EMULATED_TILES)
EDGEKILN_DECLARE(emulated_tiles, multiply_code_panels, multiply_row_quantized, multiply_shortlist, rounded_attention,
                 true)
#endif

inline std::vector<edgekiln::Kernels> tested_kernels() {
  std::vector<edgekiln::Kernels> kernels = edgekiln::kernels();
#if defined(EDGEKILN_EMULATED_TILES)
  if (kernels.front().rounded_attention) kernels.push_back(edgekiln::emulated_tiles::available);
#endif
  return kernels;
}
