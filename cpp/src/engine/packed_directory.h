// The directory `packed-weights` of an engine, which running the engine writes, and which may be deleted at any time.
//
// It holds packed weights (kernels/pack/pack_cache.h), and in the file `verified` the state of the large files whose
// SHA-256 was found right: a file that was not written since is not hashed again. Both are caches; engine.json lists
// neither. On systems other than Linux there is none. edgekiln/engine/packed_directory.py reads and writes the same.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>

namespace edgekiln {

constexpr char kPackedDirectory[] = "packed-weights";

// What changes when a file is written: size in bytes, inode, times in ns since 1970.
struct FileState {
  std::uint64_t size = 0, inode = 0;
  std::int64_t modified = 0, changed = 0;
  bool operator==(const FileState&) const = default;

  // Whether every write after `now`, in ns since 1970, gives the file another state.
  bool is_settled(std::int64_t now) const;
};

// The state of a file; empty where it cannot be read.
std::optional<FileState> file_state(const std::filesystem::path& path);

// Whether the record says that file `name` of an engine had this SHA-256, and the file has not been written since.
bool is_verified(const std::filesystem::path& directory, const std::string& name, const std::string& sha256);

// Record that files have the SHA-256 of engine.json, where the engine has packed weights. `states` are from before they
// were hashed. Never fails: the directory may be read-only.
void record_verified(const std::filesystem::path& directory, const std::map<std::string, std::string>& sha256,
                     const std::map<std::string, FileState>& states);

}  // namespace edgekiln
