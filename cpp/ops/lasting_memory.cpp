#include "lasting_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

#include "aligned.h"

namespace edgekiln {

#if defined(__SANITIZE_ADDRESS__)

// Pieces of their own, so that a read past one is seen.
LastingBytes lasting_bytes(std::size_t size) {
  return aligned_bytes((size + kAlignment - 1) / kAlignment * kAlignment);
}

#else

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kBlock = std::size_t{32} << 20;

struct Block {
  explicit Block(std::size_t size)
      : size(size), memory(static_cast<std::uint8_t*>(std::aligned_alloc(kHugePage, size))) {
    if (!memory) throw std::bad_alloc();
#if defined(__linux__)
    madvise(memory, size, MADV_HUGEPAGE);
#endif
  }
  ~Block() { std::free(memory); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  const std::size_t size;
  std::uint8_t* const memory;
  std::size_t used = 0;
};

}  // namespace

LastingBytes lasting_bytes(std::size_t size) {
  static std::mutex mutex;
  static std::weak_ptr<Block> last;
  const std::size_t needed = (size + kAlignment - 1) / kAlignment * kAlignment;
  const std::lock_guard lock(mutex);
  std::shared_ptr<Block> block = last.lock();
  if (!block || block->size - block->used < needed) {
    block = std::make_shared<Block>(std::max((needed + kHugePage - 1) / kHugePage * kHugePage, kBlock));
    last = block;
  }
  std::uint8_t* const piece = block->memory + block->used;
  block->used += needed;
  return {std::move(block), piece};
}

#endif

}  // namespace edgekiln
