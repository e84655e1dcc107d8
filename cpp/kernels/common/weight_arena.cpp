#include "kernels/common/weight_arena.h"

#include "kernels/common/aligned.h"
#include "kernels/common/pages.h"

#if defined(__linux__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <mutex>
#include <new>
#endif

namespace edgekiln {

namespace {

// Keeps allocations of one range aligned to cache lines.
std::size_t whole_lines(std::size_t size) { return rounded_up(size, kAlignment); }

}  // namespace

#if defined(__linux__) && defined(__LP64__) && !defined(__SANITIZE_ADDRESS__)

namespace {

// Reserved addresses; memory is committed as allocations need it.
constexpr std::size_t kReservedBytes = std::size_t{16} << 30;

class AddressRange {
 public:
  // Reserves only `least` bytes where a limit on address space forbids more.
  explicit AddressRange(std::size_t least) {
    for (const std::size_t size : {std::max(least, kReservedBytes), least}) {
      size_ = rounded_up(size, kHugePage) + kHugePage;
      mapped_ = mmap(nullptr, size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapped_ != MAP_FAILED) break;
    }
    if (mapped_ == MAP_FAILED) throw std::bad_alloc();
    madvise(mapped_, size_, MADV_HUGEPAGE);
    next_ = writable_ = rounded_up(reinterpret_cast<std::uintptr_t>(mapped_), kHugePage);
    end_ = next_ + size_ - kHugePage;
  }
  ~AddressRange() { munmap(mapped_, size_); }
  AddressRange(const AddressRange&) = delete;
  AddressRange& operator=(const AddressRange&) = delete;

  bool has_room(std::size_t size) const { return end_ - next_ >= size; }

  std::uint8_t* allocate(std::size_t size) {
    const std::uintptr_t needed = rounded_up(next_ + size, kHugePage);
    if (needed > writable_) {
      if (mprotect(reinterpret_cast<void*>(writable_), needed - writable_, PROT_READ | PROT_WRITE))
        throw std::bad_alloc();
      writable_ = needed;
    }
    auto* const memory = reinterpret_cast<std::uint8_t*>(next_);
    next_ += size;
    return memory;
  }

 private:
  std::size_t size_ = 0;
  void* mapped_ = MAP_FAILED;
  std::uintptr_t next_ = 0, writable_ = 0, end_ = 0;
};

}  // namespace

ArenaBytes arena_allocate(std::size_t size) {
  static std::mutex mutex;
  static std::weak_ptr<AddressRange> last;
  const std::size_t needed = whole_lines(size);
  const std::lock_guard lock(mutex);
  std::shared_ptr<AddressRange> range = last.lock();
  if (!range || !range->has_room(needed)) last = range = std::make_shared<AddressRange>(needed);
  std::uint8_t* const memory = range->allocate(needed);
  // Pages shared with neighbouring allocations stay until the range is unmapped.
  return {memory, [range, needed](std::uint8_t* begin) { drop_pages(begin, needed); }};
}

#else

// Separate allocations: huge pages are only requested on Linux, and AddressSanitizer detects reads past each.
ArenaBytes arena_allocate(std::size_t size) { return aligned_bytes(whole_lines(size)); }

#endif

}  // namespace edgekiln
