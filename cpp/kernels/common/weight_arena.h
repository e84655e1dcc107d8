// The weight arena: memory in huge pages for packed weights, which a session frees when it ends.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace edgekiln {

using ArenaBytes = std::shared_ptr<std::uint8_t>;

// Allocates `size` bytes, aligned to a cache line and uninitialized. Throws std::bad_alloc.
//
// Allocations share a large reserved address range that the system backs with huge pages. Reading weights from front to
// back then misses the TLB less, which on virtual machines costs a fifth of the memory bandwidth and more. Consecutive
// allocations are adjacent; freeing one returns its pages to the OS.
ArenaBytes arena_allocate(std::size_t size);

}  // namespace edgekiln
