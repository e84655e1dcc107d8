#include "kernels/pack/pack_cache_writer.h"

#include <algorithm>
#include <utility>

#include "kernels/common/huge_pages.h"
#include "kernels/common/pages.h"

#if defined(__linux__)
#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#endif

namespace edgekiln {

const PackCacheEntry* PackCacheWriter::find(const PackedWeightId& id) const {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const auto& entry) { return entry.id == id; });
  return found == entries_.end() ? nullptr : &*found;
}

std::uint8_t* PackCacheWriter::allocate(std::size_t size) {
  next_ = rounded_up(next_, kPackCachePage);
  if (!file_ || entries_.size() == kMaxPackCacheEntries || range_.size() - next_ < size) return nullptr;
  const std::size_t end = rounded_up(next_ + size, kHugePage);
  if (end > committed_) {
    if (!range_.commit(committed_, end - committed_)) return nullptr;
    committed_ = end;
  }
  return range_.data() + next_;
}

void PackCacheWriter::add(const PackedWeightId& id, std::size_t size, std::uint64_t variant, bool mapped) {
  const std::uint8_t* const data = range_.data() + next_;
  entries_.push_back({id, next_, size, checksum_of(data, size), sample_of(data, size), variant});
  next_ += size;
  write_whole_chunks(mapped);
}

// Pieces of a huge page, at offsets of one: file systems with large folios then keep the page cache in huge pages.
void PackCacheWriter::write_whole_chunks(bool mapped) {
  const std::size_t first = written_;
  while (file_ && next_ - written_ >= kHugePage) {
    if (file_.write_all(range_.data() + written_, kHugePage, written_)) {
      written_ += kHugePage;
    } else {
      file_.reset();  // such as a full disk: what is packed stays in memory
    }
  }
  if (!file_ || !(maps_ || mapped) || written_ == first) return;
  if (!range_.map_file(file_.number(), first, written_ - first)) return file_.reset();
  // In small pages it would be read more slowly than the memory that it replaces.
  if (!temporary_ && maps_) maps_ = mapped_pages(range_.data() + first, kHugePage)[0] == MappedPage::kHuge;
}

#if defined(__linux__)

namespace {

constexpr char kSuffix[] = ".packed", kTemporary[] = ".edgekiln-tmp";

// Address space for the packed weights: scales of an LM head may become larger, the other weights do not.
std::size_t reserved_bytes(std::size_t weights) { return kPackCacheHeaderBytes + weights + weights / 2; }

bool has_space(int directory, std::size_t bytes) {
  struct statvfs disk;
  return !fstatvfs(directory, &disk) && disk.f_bavail * std::uint64_t{disk.f_frsize} >= bytes;
}

}  // namespace

std::unique_ptr<PackCacheWriter> PackCacheWriter::open(const std::string& path, const std::string& key,
                                                       const std::string& weights, bool temporary) {
  struct stat of_weights;
  if (stat(weights.c_str(), &of_weights)) return nullptr;
  const auto size = static_cast<std::size_t>(of_weights.st_size);
  const std::filesystem::path whole(path);
  const std::string folder = whole.parent_path().string();
  if (!temporary) mkdir(folder.c_str(), 0777);
  FileDescriptor directory(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory || !has_space(directory.number(), 2 * size)) return nullptr;
  if (!temporary && flock(directory.number(), LOCK_EX | LOCK_NB)) return nullptr;
  FileDescriptor file(openat(directory.number(), ".", O_TMPFILE | O_RDWR | O_CLOEXEC, of_weights.st_mode & 0666));
  if (!file) return nullptr;
  std::unique_ptr<PackCacheWriter> writer(new PackCacheWriter(
      std::move(directory), std::move(file), whole.filename().string(), key, reserved_bytes(size), temporary));
  return writer->range_.data() ? std::move(writer) : nullptr;
}

bool PackCacheWriter::keep() {
  if (!file_ || entries_.empty()) return false;
  const std::vector<std::uint8_t> header = pack_cache_header(key_, next_, entries_);
  FileDescriptor file = std::move(file_);
  if (!file.write_all(range_.data() + written_, next_ - written_, written_) ||
      !file.write_all(header.data(), header.size(), 0))
    return false;
  const int folder = directory_.number();
  const std::string unnamed = "/proc/self/fd/" + std::to_string(file.number()), temporary = name_ + kTemporary;
  unlinkat(folder, temporary.c_str(), 0);
  const bool kept = !linkat(AT_FDCWD, unnamed.c_str(), folder, temporary.c_str(), AT_SYMLINK_FOLLOW) &&
                    !renameat(folder, temporary.c_str(), folder, name_.c_str());
  if (kept) remove_others();
  directory_.reset();
  return kept;
}

// Of other weights, which this engine had before, and what a killed process left.
void PackCacheWriter::remove_others() const {
  const std::string weights = name_.substr(0, name_.find('.') + 1);
  const std::unique_ptr<DIR, int (*)(DIR*)> entries(
      opendir(("/proc/self/fd/" + std::to_string(directory_.number())).c_str()), &closedir);
  while (const dirent* entry = entries ? readdir(entries.get()) : nullptr) {
    const std::string name = entry->d_name;
    if (name.ends_with(kTemporary) || (name.ends_with(kSuffix) && !name.starts_with(weights)))
      unlinkat(directory_.number(), entry->d_name, 0);
  }
}

#else

std::unique_ptr<PackCacheWriter> PackCacheWriter::open(const std::string&, const std::string&, const std::string&,
                                                       bool) {
  return nullptr;
}

bool PackCacheWriter::keep() { return false; }

void PackCacheWriter::remove_others() const {}

#endif

}  // namespace edgekiln
