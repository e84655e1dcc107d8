// Memory for what stays as long as a session does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace edgekiln {

using LastingBytes = std::shared_ptr<std::uint8_t>;

// A piece of a large block of addresses that the system is asked to map in huge pages: reading it from front to back
// then waits less for addresses to be translated, which on virtual machines costs a fifth of memory's speed and more.
// Pieces asked for one after another lie one after another. What a piece took goes back to the system with it.
//
// The address suits whole lines of the cache; what the memory holds is undefined. Throws std::bad_alloc.
LastingBytes lasting_bytes(std::size_t size);

}  // namespace edgekiln
