#include "kernels/common/mapped_file.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/common/usable_memory.h"
#include "testing.h"

namespace {

constexpr std::size_t kSize = 1 << 20;

std::vector<char> content() {
  std::vector<char> bytes(kSize);
  for (std::size_t i = 0; i < kSize; ++i) bytes[i] = static_cast<char>(i * 31 % 251);
  return bytes;
}

// A temporary file with content(), privately mapped. Its name has a space, which /proc/self/maps does not quote.
class TemporaryMapping {
 public:
  TemporaryMapping() {
    file_ = mkstemp(name_.data());
    REQUIRE(file_ >= 0);
    const std::vector<char> bytes = content();
    REQUIRE(write(file_, bytes.data(), kSize) == static_cast<ssize_t>(kSize));
    void* mapped = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE, file_, 0);
    REQUIRE(mapped != MAP_FAILED);
    data_ = static_cast<char*>(mapped);
  }
  ~TemporaryMapping() {
    munmap(data_, kSize);
    close(file_);
    unlink(name_.c_str());
  }
  TemporaryMapping(const TemporaryMapping&) = delete;
  TemporaryMapping& operator=(const TemporaryMapping&) = delete;

  char* data() const { return data_; }
  void remove_name() { unlink(name_.c_str()); }

 private:
  std::string name_ = "/tmp/edgekiln mapped-file-XXXXXX";
  int file_ = -1;
  char* data_ = nullptr;
};

bool reads_the_same(const edgekiln::MappedFileReader& bytes, const char* at) {
  std::vector<char> found(1000);
  bytes.read(at, found.size(), found.data());
  return !std::memcmp(found.data(), at, found.size());
}

}  // namespace

TEST_CASE("dropped pages of a mapped file leave memory and are read again from the file") {
  const TemporaryMapping mapping;
  CHECK(!std::memcmp(mapping.data(), content().data(), kSize));
  const long before = kilobytes_of("RssFile");
  edgekiln::drop_mapped_pages(mapping.data() + 100, kSize - 100);
  CHECK(before - kilobytes_of("RssFile") >= static_cast<long>(kSize / 1024 / 2));
  CHECK(!std::memcmp(mapping.data(), content().data(), kSize));
}

TEST_CASE("pages written to are not dropped") {
  const TemporaryMapping mapping;
  mapping.data()[kSize / 2] = 1;
  edgekiln::drop_mapped_pages(mapping.data(), kSize);
  CHECK(mapping.data()[kSize / 2] == 1);
}

TEST_CASE("memory that maps no file is not dropped") {
  std::vector<char> heap = content();
  edgekiln::drop_mapped_pages(heap.data(), kSize);
  CHECK(heap == content());
}

TEST_CASE("a mapping is read from its file by name") {
  const TemporaryMapping mapping;
  const edgekiln::MappedFileReader bytes(mapping.data() + 8192, kSize - 8192);
  CHECK(bytes.has_file());
  for (const std::size_t at : {std::size_t{8192}, std::size_t{99999}, kSize - 1000}) {
    CAPTURE(at);
    CHECK(reads_the_same(bytes, mapping.data() + at));
  }
}

TEST_CASE("a mapping of a removed file is read from memory") {
  TemporaryMapping mapping;
  mapping.remove_name();
  const edgekiln::MappedFileReader bytes(mapping.data(), kSize);
  CHECK_FALSE(bytes.has_file());
  CHECK(reads_the_same(bytes, mapping.data() + 12345));
}

TEST_CASE("memory that maps no file is read from memory") {
  const std::vector<char> heap = content();
  CHECK_FALSE(edgekiln::MappedFileReader(heap.data(), kSize).has_file());
}

TEST_CASE("reading ahead changes nothing, in memory or not") {
  const TemporaryMapping mapping;
  const std::vector<char> expected = content();
  edgekiln::read_ahead(mapping.data(), kSize);
  CHECK(!std::memcmp(mapping.data(), expected.data(), kSize));
  edgekiln::drop_mapped_pages(mapping.data(), kSize);
  edgekiln::read_ahead(mapping.data() + 100, kSize - 100);
  edgekiln::read_ahead(mapping.data(), 10);  // no whole page
  edgekiln::read_ahead(expected.data(), kSize);
  CHECK(!std::memcmp(mapping.data(), expected.data(), kSize));
}

TEST_CASE("the usable memory is that of the system at most") {
  CHECK(edgekiln::usable_memory() > 0);
  CHECK(edgekiln::usable_memory() <= static_cast<std::uint64_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE));
}
