#include "engine/packed_directory.h"

#include "util/str_cat.h"

#if defined(__linux__)
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>
#endif

namespace edgekiln {

namespace fs = std::filesystem;

#if defined(__linux__)

namespace {

constexpr char kVerifiedFile[] = "verified";
constexpr std::int64_t kSecond = 1'000'000'000;
// A write within one tick of the file system's clock, after the state was read, does not change it.
constexpr std::int64_t kTick = kSecond / 10, kCoarseTick = 2 * kSecond;

std::string line(const std::string& name, const std::string& sha256, const FileState& state) {
  return str_cat(sha256, ' ', state.size, ' ', state.inode, ' ', state.modified, ' ', state.changed, ' ', name);
}

// Whether another user may have written the record to harm this one.
bool is_trusted(const struct stat& record, const fs::path& file) {
  struct stat own;
  return S_ISREG(record.st_mode) && (record.st_uid == geteuid() || record.st_uid == 0 ||
                                     (!stat(file.c_str(), &own) && record.st_uid == own.st_uid));
}

}  // namespace

bool FileState::is_settled(std::int64_t now) const { return now - changed > (changed % kSecond ? kTick : kCoarseTick); }

std::optional<FileState> file_state(const fs::path& path) {
  struct stat found;
  if (stat(path.c_str(), &found)) return std::nullopt;
  const auto nanoseconds = [](const timespec& time) { return std::int64_t{time.tv_sec} * kSecond + time.tv_nsec; };
  return FileState{static_cast<std::uint64_t>(found.st_size), found.st_ino, nanoseconds(found.st_mtim),
                   nanoseconds(found.st_ctim)};
}

bool is_verified(const fs::path& directory, const std::string& name, const std::string& sha256) {
  const fs::path record = directory / kPackedDirectory / kVerifiedFile;
  struct stat found;
  const std::optional<FileState> state = file_state(directory / name);
  if (!state || lstat(record.c_str(), &found) || !is_trusted(found, directory / name)) return false;
  const std::string wanted = line(name, sha256, *state);
  std::ifstream file(record);
  for (std::string recorded; std::getline(file, recorded);)
    if (recorded == wanted) return true;
  return false;
}

void record_verified(const fs::path& directory, const std::map<std::string, std::string>& sha256,
                     const std::map<std::string, FileState>& states) {
  std::string text;
  for (const auto& [name, state] : states)
    if (file_state(directory / name) == state) text += line(name, sha256.at(name), state) + '\n';
  const fs::path parent = directory / kPackedDirectory;
  std::error_code ignored;
  if (text.empty() || !fs::is_directory(parent, ignored)) return;
  std::string temporary = (parent / (std::string(".") + kVerifiedFile + ".edgekiln-tmp-XXXXXX")).string();
  const int descriptor = mkstemp(temporary.data());
  if (descriptor < 0) return;
  const bool written =
      write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size()) && !fchmod(descriptor, 0644);
  close(descriptor);
  if (!written || std::rename(temporary.c_str(), (parent / kVerifiedFile).c_str())) unlink(temporary.c_str());
}

#else

bool FileState::is_settled(std::int64_t) const { return false; }

std::optional<FileState> file_state(const fs::path&) { return std::nullopt; }

bool is_verified(const fs::path&, const std::string&, const std::string&) { return false; }

void record_verified(const fs::path&, const std::map<std::string, std::string>&,
                     const std::map<std::string, FileState>&) {}

#endif

}  // namespace edgekiln
