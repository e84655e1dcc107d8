#include "runtime/registry.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "runtime/ort/cpu.h"
#include "runtime/ort/cuda.h"
#include "util/json_reader.h"
#include "util/str_cat.h"
#include "util/threads.h"

#ifdef EDGEKILN_WITH_TENSORRT
#include "runtime/tensorrt/runtime.h"
#endif

namespace edgekiln {

namespace {

struct Adapter {
  Result<std::unique_ptr<Runtime>> (*open)(const std::filesystem::path&, const Manifest&, const RuntimeOptions&);
  std::vector<std::string> devices;  // the first is the default
};

const std::map<std::string, Adapter>& adapters() {
  static const std::map<std::string, Adapter> table{
      {"ort-cpu", {&open_ort_cpu, {"cpu"}}},
      {"ort-cuda", {&open_ort_cuda, {"cuda", "cpu"}}},
#ifdef EDGEKILN_WITH_TENSORRT
      {"trt", {&open_tensorrt, {"cuda"}}},
#endif
  };
  return table;
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : ", ") + word;
  return text;
}

}  // namespace

Result<std::unique_ptr<Runtime>> open_runtime(const std::filesystem::path& directory, const Manifest& manifest,
                                              RuntimeOptions options) {
  if (options.chunk < 0) return fail(Code::kRequest, "chunk must be at least 1, got ", options.chunk);
  if (options.chunk > std::numeric_limits<std::int32_t>::max())
    return fail(Code::kRequest, "chunk must be below 2^31, got ", options.chunk);
  if (Result<void> checked = check_threads(options.threads); !checked) return std::unexpected(checked.error());
  const auto found = adapters().find(manifest.target);
  if (found == adapters().end())
    return fail(Code::kUnsupported, directory.string(), " is for target ", shown(manifest.target),
                ", which this edgekiln does not run: build it for one that `edgekiln doctor` lists");
  const auto& [open, devices] = found->second;
  if (options.device.empty()) options.device = devices.front();
  if (std::find(devices.begin(), devices.end(), options.device) == devices.end())
    return fail(Code::kRequest, "the device of target ", manifest.target, " must be one of ", joined(devices), ", got ",
                options.device);
  return open(directory, manifest, options);
}

}  // namespace edgekiln
