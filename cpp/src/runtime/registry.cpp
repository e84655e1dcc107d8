#include "runtime/registry.h"

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "runtime/ort/cpu.h"
#include "runtime/ort/cuda.h"
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
  if (options.threads < 0 || options.chunk < 0)
    return fail(Code::kRequest, "threads and chunk must be 0 (the default) or more, got ", options.threads, " and ",
                options.chunk);
  if (Result<void> checked = check_threads(options.threads); !checked) return std::unexpected(checked.error());
  const auto found = adapters().find(manifest.target);
  if (found == adapters().end()) {
    std::vector<std::string> known;
    for (const auto& [target, adapter] : adapters()) known.push_back(target);
    return fail(Code::kUnsupported, directory.string(), " is for target ", manifest.target, ", this library runs ",
                joined(known), ": build it for one");
  }
  const auto& [open, devices] = found->second;
  if (options.device.empty()) options.device = devices.front();
  if (std::find(devices.begin(), devices.end(), options.device) == devices.end())
    return fail(Code::kRequest, "the device of target ", manifest.target, " must be one of ", joined(devices), ", got ",
                options.device);
  return open(directory, manifest, options);
}

}  // namespace edgekiln
