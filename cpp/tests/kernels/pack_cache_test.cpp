#include "kernels/pack/pack_cache.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "kernels/common/mapped_file.h"
#include "kernels/pack/packed_experts.h"
#include "kernels/pack/packed_weight_id.h"

namespace {

namespace fs = std::filesystem;
using edgekiln::PackCache, edgekiln::PackCacheOptions, edgekiln::PackCacheUse, edgekiln::PackedWeightId;

constexpr std::size_t kSizes[] = {1000, (5 << 20) + 7, 4096, 1};

// A directory with a weights file, removed at the end.
struct Engine {
  Engine() : folder(fs::temp_directory_path() / ("pack_cache_test." + std::to_string(getpid()))) {
    fs::remove_all(folder);
    fs::create_directory(folder);
    std::ofstream(folder / "weights.bin") << std::string(16 << 20, 'w');
  }
  ~Engine() { fs::remove_all(folder); }

  PackCacheOptions options(PackCacheUse use = PackCacheUse::kWrite,
                           const std::string& key = std::string(64, 'a')) const {
    return {folder / "packed-weights" / "aaaa.avx2.packed", folder / "weights.bin", key, use};
  }

  const fs::path folder;
};

// Packs, or finds, weights of kSizes; returns how many were packed.
int pack_all(PackCache& cache, std::vector<edgekiln::ArenaBytes>& weights) {
  int packed = 0;
  for (std::size_t i = 0; i < std::size(kSizes); ++i) {
    weights.push_back(cache.find_or_pack({i, 7}, kSizes[i], 0, [&](std::uint8_t* to) {
      ++packed;
      std::memset(to, static_cast<int>(i + 1), kSizes[i]);
    }));
    REQUIRE(std::all_of(weights.back().get(), weights.back().get() + kSizes[i],
                        [&](std::uint8_t byte) { return byte == i + 1; }));
  }
  return packed;
}

int pack_all(const PackCacheOptions& options, bool keep) {
  std::vector<edgekiln::ArenaBytes> weights;
  const int packed = pack_all(*PackCache::open(options), weights);
  if (keep) CHECK(PackCache::keep(options.path));
  return packed;
}

// Whether the memory at `data` is mapped from a file whose path begins with `folder`.
bool is_mapped_from(const std::string& folder, const std::uint8_t* data) {
  std::ifstream maps("/proc/self/maps");
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  for (std::string line; std::getline(maps, line);) {
    std::uintptr_t start = 0, end = 0;
    std::sscanf(line.c_str(), "%lx-%lx", &start, &end);
    const std::size_t path = line.find('/');
    if (start <= address && address < end)
      return !folder.empty() && path != line.npos && line.compare(path, folder.size(), folder) == 0;
  }
  return false;
}

constexpr int kAll = std::size(kSizes);

}  // namespace

TEST_CASE("what is kept is found by later caches, in any order") {
  const Engine engine;
  CHECK(pack_all(engine.options(), false) == kAll);
  CHECK_FALSE(fs::exists(engine.options().path));
  CHECK_FALSE(PackCache::keep(engine.options().path));
  CHECK(pack_all(engine.options(), true) == kAll);
  CHECK(pack_all(engine.options(PackCacheUse::kRead), false) == 0);
  const auto cache = PackCache::open(engine.options());
  const auto last = cache->find({std::size(kSizes) - 1, 7});
  REQUIRE(last);
  CHECK(last->size == kSizes[std::size(kSizes) - 1]);
  CHECK_FALSE(cache->find({0, 8}));
  // Of another size or variant, it is another weight.
  CHECK(*cache->find_or_pack({0, 7}, 999, 0, [](std::uint8_t* to) { std::memset(to, 9, 999); }) == 9);
}

TEST_CASE("a cache of other weights, or of a damaged file, is written again") {
  const Engine engine;
  pack_all(engine.options(), true);
  CHECK(pack_all(engine.options(PackCacheUse::kRead, std::string(64, 'b')), false) == kAll);
  CHECK(pack_all(engine.options(PackCacheUse::kWrite, std::string(64, 'b')), true) == kAll);
  CHECK(pack_all(engine.options(PackCacheUse::kWrite, std::string(64, 'b')), false) == 0);
  fs::resize_file(engine.options().path, fs::file_size(engine.options().path) - 1);
  CHECK(pack_all(engine.options(PackCacheUse::kWrite, std::string(64, 'b')), true) == kAll);
}

TEST_CASE("a temporary cache leaves nothing") {
  const Engine engine;
  PackCacheOptions options = engine.options(PackCacheUse::kTemporary);
  options.path = engine.folder / "aaaa.avx2.packed";
  std::vector<edgekiln::ArenaBytes> weights;
  CHECK(pack_all(*PackCache::open(options), weights) == kAll);
  CHECK_FALSE(fs::exists(options.path));
  weights.clear();
  CHECK(std::distance(fs::directory_iterator(engine.folder), {}) == 1);
}

TEST_CASE("weights live as long as somebody uses them, also if packing one throws") {
  const Engine engine;
  std::vector<edgekiln::ArenaBytes> weights;
  {
    const auto cache = PackCache::open(engine.options());
    CHECK_THROWS_AS(cache->find_or_pack({99, 7}, 5000, 0, [](std::uint8_t*) { throw std::bad_alloc(); }),
                    std::bad_alloc);
    CHECK(pack_all(*cache, weights) == kAll);
    CHECK(PackCache::keep(engine.options().path));
  }
  fs::remove_all(engine.folder / "packed-weights");
  CHECK(*weights[1] == 2);
  CHECK(weights[1].get()[kSizes[1] - 1] == 2);
}

TEST_CASE("experts of large mixtures stay in the mapping of the file, and without one are packed when they are used") {
  const Engine engine;
  constexpr std::size_t kExperts = 40, kK = 1024, kN = 200;
  std::vector<std::int8_t> codes(kExperts * kK * kN);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::int8_t>(i * 7 + i / 1000);
  const std::vector<float> scales(kExperts * kN, 0.5f);
  const auto large = [&](PackCacheUse use) {
    PackCacheOptions options = engine.options(use);
    options.memory = 20 << 20;
    return options;
  };
  const auto experts_in = [&](const std::shared_ptr<PackCache>& cache) {
    const edgekiln::PackPlace place{cache, {1, 7}};
    return edgekiln::Int8Experts(codes.data(), scales.data(), kExperts, kK, kN, edgekiln::Int8Order::kFours, place);
  };
  // Whether the middle of each expert is as packing it alone makes it, and mapped from a file in `folder`.
  const auto check = [&](const edgekiln::Int8Experts& experts, const std::string& folder) {
    for (const std::size_t i : {std::size_t{0}, kExperts / 2, kExperts - 2}) {
      const edgekiln::PackedInt8 expert = experts.expert(i);
      const edgekiln::PackedInt8 alone(codes.data() + i * kK * kN, scales.data(), kK, kN, edgekiln::Int8Order::kFours);
      const std::size_t size = edgekiln::PackedInt8::bytes(kK, kN, edgekiln::Int8Order::kFours);
      CHECK(std::equal(alone.memory.get(), alone.memory.get() + size, expert.memory.get()));
      CHECK(is_mapped_from(folder, expert.memory.get() + size / 2) == !folder.empty());
    }
  };
  {
    const auto cache = PackCache::open(large(PackCacheUse::kWrite));
    check(experts_in(cache), "/");  // of a file without a name
    CHECK(PackCache::keep(engine.options().path));
  }
  const auto cache = PackCache::open(large(PackCacheUse::kRead));
  codes.assign(codes.size(), 0);  // is not read
  const edgekiln::PackedInt8 found = experts_in(cache).expert(1);
  CHECK(std::any_of(found.memory.get(), found.memory.get() + 100, [](std::uint8_t byte) { return byte != 0; }));
  CHECK(is_mapped_from(engine.folder.string(), found.memory.get() + 5000));
  fs::remove_all(engine.folder / "packed-weights");
  const auto none = PackCache::open(engine.options(PackCacheUse::kRead, std::string(64, 'c')));
  check(experts_in(none), "");
}

TEST_CASE("a weight is identified by its layout and by where its inputs are in the file") {
  const Engine engine;
  const int file = ::open((engine.folder / "weights.bin").c_str(), O_RDONLY);
  auto* const mapped = static_cast<std::uint8_t*>(mmap(nullptr, 16 << 20, PROT_READ, MAP_PRIVATE, file, 0));
  close(file);
  REQUIRE(mapped != MAP_FAILED);
  const edgekiln::FileMappings mappings(fs::canonical(engine.folder / "weights.bin").string());
  const auto id = [&](const char* layout, const void* data, std::size_t size) {
    const edgekiln::WeightInput inputs[] = {{data, size}, {nullptr, 0}};
    return edgekiln::packed_weight_id(layout, inputs, mappings);
  };
  const std::vector<std::uint8_t> large(10000), small(100), other(100, 1);
  REQUIRE(id("int8", mapped + 8192, 10000));
  CHECK(id("int8", mapped + 8192, 10000) == id("int8", mapped + 8192, 10000));
  CHECK(id("int8", mapped + 8192, 10000) != id("nbits", mapped + 8192, 10000));
  CHECK(id("int8", mapped + 8192, 10000) != id("int8", mapped + 4096, 10000));
  CHECK(id("int8", mapped + 8192, 10000) != id("int8", mapped + 8192, 9999));
  CHECK_FALSE(id("int8", large.data(), large.size()));
  REQUIRE(id("int8", small.data(), small.size()));
  CHECK(id("int8", small.data(), small.size()) != id("int8", other.data(), other.size()));
  munmap(mapped, 16 << 20);
}
