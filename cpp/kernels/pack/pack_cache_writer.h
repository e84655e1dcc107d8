// Writes a file of the pack cache while weights are packed.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/common/file_descriptor.h"
#include "kernels/common/reserved_range.h"
#include "kernels/pack/pack_cache_file.h"

namespace edgekiln {

class PackCacheWriter {
 public:
  // Null where the file cannot or should not be written: the directory is read-only, its file system has no unnamed
  // files, the disk has less space than twice the weights, or another process is writing a cache of the engine.
  // A temporary file never gets a name, and its directory is not locked.
  static std::unique_ptr<PackCacheWriter> open(const std::string& path, const std::string& key,
                                               const std::string& weights, bool temporary);

  const PackCacheEntry* find(const PackedWeightId& id) const;

  const std::uint8_t* data(const PackCacheEntry& entry) const { return range_.data() + entry.offset; }

  // Memory of `size` zeros for the next weight; null where no more is written. Its address stays valid as long as this
  // object.
  std::uint8_t* allocate(std::size_t size);

  // Adds the weight that the memory of the last allocate() holds now, which nobody changes from here on. With `mapped`,
  // what is written of it becomes a mapping of the file, also in small pages.
  void add(const PackedWeightId& id, std::size_t size, std::uint64_t variant, bool mapped = false);

  // Gives the file its name, in place of an older one, and removes files of other weights. Nothing is added afterwards.
  bool keep();

 private:
  PackCacheWriter(FileDescriptor directory, FileDescriptor file, std::string name, std::string key,
                  std::size_t reserved, bool temporary)
      : directory_(std::move(directory)),
        file_(std::move(file)),
        name_(std::move(name)),
        key_(std::move(key)),
        temporary_(temporary),
        range_(reserved) {}

  void write_whole_chunks(bool mapped);
  void remove_others() const;

  FileDescriptor directory_;  // locked, so that one process writes
  FileDescriptor file_;       // without a name
  const std::string name_, key_;
  const bool temporary_;
  bool maps_ = true;  // what is written becomes a mapping of the file
  ReservedRange range_;
  std::size_t next_ = kPackCacheHeaderBytes, committed_ = kPackCacheHeaderBytes;  // offsets
  std::size_t written_ = kPackCacheHeaderBytes;
  std::vector<PackCacheEntry> entries_;
};

}  // namespace edgekiln
