// Pages of a file leave memory and come back; pages that somebody has written to stay.
#include "kernels/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "testing.h"

namespace {

constexpr std::size_t kSize = 1 << 20;

char expected(std::size_t i) { return static_cast<char>(i * 31 % 251); }

int failed(const char* what) {
  std::printf("%s\n", what);
  return 1;
}

}  // namespace

int main() {
  char name[] = "/tmp/edgekiln-file-pages-XXXXXX";
  const int file = mkstemp(name);
  if (file < 0) return failed("no temporary file");
  unlink(name);
  std::vector<char> content(kSize);
  for (std::size_t i = 0; i < kSize; ++i) content[i] = expected(i);
  if (write(file, content.data(), kSize) != static_cast<ssize_t>(kSize)) return failed("no room for a temporary file");
  auto* mapped = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0));
  if (mapped == MAP_FAILED) return failed("the file cannot be mapped");
  if (std::memcmp(mapped, content.data(), kSize)) return failed("the mapping is not the file");
  const long before = kilobytes_of("RssFile");
  edgekiln::release_file_pages(mapped + 100, kSize - 100);
  const long after = kilobytes_of("RssFile");
  if (before - after < static_cast<long>(kSize / 1024 / 2)) return failed("the pages stayed");
  if (std::memcmp(mapped, content.data(), kSize)) return failed("the pages came back changed");

  const auto read = [&](const edgekiln::FileBytes& bytes, const char* at) {
    std::vector<char> found(1000);
    bytes.read(at, found.size(), found.data());
    return !std::memcmp(found.data(), at, found.size());
  };
  {
    const edgekiln::FileBytes nowhere(mapped, kSize);
    if (nowhere.of_file()) return failed("a file without a name was opened");
    if (!read(nowhere, mapped + 12345)) return failed("bytes of a file without a name are others");
  }
  char named[] = "/tmp/edgekiln file-pages-XXXXXX";
  const int other = mkstemp(named);
  if (other < 0 || write(other, content.data(), kSize) != static_cast<ssize_t>(kSize)) return failed("no second file");
  auto* again = static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, other, 0));
  const edgekiln::FileBytes bytes(again + 8192, kSize - 8192);
  if (!bytes.of_file()) return failed("a file with a name was not opened");
  for (const std::size_t at : {std::size_t{8192}, std::size_t{99999}, kSize - 1000})
    if (!read(bytes, again + at)) return failed("bytes of a file are others");
  if (edgekiln::FileBytes(content.data(), kSize).of_file()) return failed("memory that is no file's was taken for one");
  unlink(named);

  mapped[kSize / 2] = 1;
  edgekiln::release_file_pages(mapped, kSize);
  if (mapped[kSize / 2] != 1) return failed("what was written was lost");

  std::vector<char> heap(content);
  edgekiln::release_file_pages(heap.data(), kSize);
  if (heap != content) return failed("memory that is no file's was lost");
  return 0;
}
