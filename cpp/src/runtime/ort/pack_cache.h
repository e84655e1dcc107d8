// The pack cache: packed weights in a file beside the engine, which edgekiln's kernels write once and then map.
//
// The kernels do the reading and writing (kernels/pack/pack_cache.h); this chooses the file. Counterpart of
// runtimes/ort/pack_cache.py.
#pragma once

#include <filesystem>
#include <map>
#include <optional>
#include <string>

#include "engine/manifest.h"
#include "runtime/base.h"
#include "runtime/ort/kernels.h"

namespace edgekiln {

// The file of packed weights of an engine, for one instruction set.
struct PackCache {
  std::filesystem::path library;  // the kernels that read and write it
  std::filesystem::path file;
  bool write = false;
  std::map<std::string, std::string> entries;  // the session config entries that tell the kernels

  // Let the file that a session wrote stay, now that the weights it was made from have been checked.
  void keep() const;
};

// The pack cache of an engine; empty where none is used, also because the weights are small or the path is too long for
// ONNX Runtime.
std::optional<PackCache> pack_cache(const std::filesystem::path& directory, const Manifest& manifest,
                                    const KernelLibrary& kernels, PackCacheUse use);

}  // namespace edgekiln
