// What the KV caches of an ort-cuda engine share: its graphs and the device.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <utility>

#include "engine/manifest.h"
#include "runtime/ort/device.h"
#include "runtime/ort/library.h"
#include "util/str_cat.h"

namespace edgekiln {

// The sessions and the device that all caches of an engine share. It must outlive them.
class OrtCudaGraphs {
 public:
  // Throws Ort::Exception.
  OrtCudaGraphs(GraphIO io, const std::string& device_name, Ort::Session generate_session, Ort::Session grow_session)
      : names(std::move(io)),
        generate(std::move(generate_session)),
        grow(std::move(grow_session)),
        device(device_name, generate) {}

  // An unused id for a captured CUDA graph of `generate`. The caller holds `run_mutex`.
  std::string next_graph_id() { return str_cat(++graph_ids_); }

  // Copy `past`, float16 [B, KV, P, D], to the start of `present`, [B, KV, C, D], which is zero after it. Either may be
  // in host memory. The caller holds `run_mutex`. Throws Ort::Exception.
  void copy(const Ort::Value& past, const Ort::Value& present);

  const GraphIO names;
  Ort::Session generate;
  Ort::Session grow;  // copies a buffer into a larger one
  OrtDevice device;
  // Held during every use of the device: other work on it would break a CUDA graph capture in progress.
  std::mutex run_mutex;

 private:
  std::int64_t graph_ids_ = 0;
};

}  // namespace edgekiln
