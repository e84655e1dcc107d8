// How much memory this process may use.
#pragma once

#include <cstdint>

namespace edgekiln {

// Bytes: the system's memory, or less where a control group limits it; 0 where that is not known.
std::uint64_t usable_memory();

}  // namespace edgekiln
