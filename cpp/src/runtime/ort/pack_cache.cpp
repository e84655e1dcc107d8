#include "runtime/ort/pack_cache.h"

#include <algorithm>
#include <cstdint>
#include <system_error>

#include "engine/packed_directory.h"
#include "util/shared_library.h"

namespace edgekiln {

namespace fs = std::filesystem;

namespace {

constexpr char kWeightsFile[] = "weights.bin";
// Weights of this size are packed in a quarter of a second. Smaller ones stay in anonymous huge pages, which every
// kernel and file system has; their engines write nothing.
constexpr std::uintmax_t kLeastBytes = std::uintmax_t{256} << 20;
constexpr std::size_t kMaxPath = 2000;  // ONNX Runtime limits the values of session entries
constexpr std::size_t kHashDigits = 16;

}  // namespace

void PackCache::keep() const {
  if (!write) return;
  const SharedLibrary functions = SharedLibrary::open(library);
  if (!functions) return;
  if (auto* const keep_file = functions.symbol<int(const char*)>("edgekiln_ops_keep_pack_cache"))
    keep_file(file.c_str());
}

std::optional<PackCache> pack_cache(const fs::path& directory, const Manifest& manifest, const KernelLibrary& kernels,
                                    PackCacheUse use) {
  const auto key = manifest.files.find(kWeightsFile);
  std::error_code failed;
  const fs::path weights = fs::canonical(directory / kWeightsFile, failed);
  if (use == PackCacheUse::kOff || key == manifest.files.end() || failed) return std::nullopt;
  const std::uintmax_t size = fs::file_size(weights, failed);
  const fs::path real = fs::canonical(directory, failed);
  if (failed || size < kLeastBytes) return std::nullopt;
  PackCache cache{.library = kernels.path,
                  .file = real / kPackedDirectory /
                          (key->second.substr(0, kHashDigits) + '.' + kernels.instruction_set + ".packed"),
                  .write = use == PackCacheUse::kWrite,
                  .entries = {}};
  if (std::max(cache.file.string().size(), weights.string().size()) > kMaxPath) return std::nullopt;
  cache.entries = {{"edgekiln.pack_cache", cache.file.string()},
                   {"edgekiln.pack_cache.weights", weights.string()},
                   {"edgekiln.pack_cache.key", key->second},
                   {"edgekiln.pack_cache.use", cache.write ? "write" : "read"}};
  return cache;
}

}  // namespace edgekiln
