#include "kernels/weight_arena.h"

#include "kernels/aligned.h"
#include "kernels/pages.h"

#if defined(__linux__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#endif

namespace edgekiln {

namespace {

// So that the pieces of one block stay whole lines of the cache.
std::size_t whole_lines(std::size_t size) { return rounded_up(size, kAlignment); }

}  // namespace

#if defined(__linux__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)

namespace {

// Addresses only: memory is asked for as pieces are.
constexpr std::size_t kAddresses = std::size_t{16} << 30;

class Block {
 public:
  // Fewer addresses where a limit forbids so many.
  explicit Block(std::size_t least) {
    for (const std::size_t size : {std::max(least, kAddresses), least}) {
      size_ = rounded_up(size, kHugePage) + kHugePage;
      mapped_ = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapped_ != MAP_FAILED) break;
    }
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    madvise(mapped_, size_, MADV_HUGEPAGE);
    next_ = writable_ = rounded_up(reinterpret_cast<std::uintptr_t>(mapped_), kHugePage);
    end_ = next_ + size_ - kHugePage;
  }
  ~Block() { munmap(mapped_, size_); }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  bool holds(std::size_t size) const { return end_ - next_ >= size; }

  std::uint8_t* take(std::size_t size) {
    const std::uintptr_t needed = rounded_up(next_ + size, kHugePage);
    if (needed > writable_) {
      if (mprotect(reinterpret_cast<void*>(writable_), needed - writable_, PROT_READ | PROT_WRITE))
        throw std::bad_alloc();
      writable_ = needed;
    }
    auto* const piece = reinterpret_cast<std::uint8_t*>(next_);
    next_ += size;
    return piece;
  }

 private:
  std::size_t size_ = 0;
  void* mapped_ = MAP_FAILED;
  std::uintptr_t next_ = 0, writable_ = 0, end_ = 0;
};

}  // namespace

LastingBytes lasting_bytes(std::size_t size) {
  static std::mutex mutex;
  static std::weak_ptr<Block> last;
  const std::size_t needed = whole_lines(size);
  const std::lock_guard lock(mutex);
  std::shared_ptr<Block> block = last.lock();
  if (!block || !block->holds(needed)) last = block = std::make_shared<Block>(needed);
  std::uint8_t* const piece = block->take(needed);
  // Pages that a piece shares with others stay until the block goes.
  return {piece, [block, needed](std::uint8_t* begin) { give_back(begin, needed); }};
}

#else

// Pieces of their own: no other system is asked for huge pages, and a sanitizer sees a read past one.
LastingBytes lasting_bytes(std::size_t size) { return aligned_bytes(whole_lines(size)); }

#endif

}  // namespace edgekiln
