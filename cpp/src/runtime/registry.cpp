#include "runtime/registry.h"

#include <map>

#include "runtime/ort_cpu.h"
#include "sentence.h"

namespace edgekiln {

namespace {

using Open = Result<std::unique_ptr<Runtime>> (*)(const std::filesystem::path&, const Manifest&, const RuntimeOptions&);

const std::map<std::string, Open>& adapters() {
  static const std::map<std::string, Open> table{{"ort-cpu", &open_ort_cpu}};
  return table;
}

}  // namespace

Result<std::unique_ptr<Runtime>> open_runtime(const std::filesystem::path& directory, const Manifest& manifest,
                                              const RuntimeOptions& options) {
  if (options.threads < 0 || options.chunk < 0)
    return Error{Code::kRequest, sentence("threads and chunk must be 0 (the default) or more, got ", options.threads,
                                          " and ", options.chunk)};
  const auto found = adapters().find(manifest.target);
  if (found != adapters().end()) return found->second(directory, manifest, options);
  std::string known;
  for (const auto& [target, open] : adapters()) known += (known.empty() ? "" : ", ") + target;
  return Error{Code::kUnsupported, sentence(directory.string(), " is for target ", manifest.target,
                                            ", this library runs ", known, ": build it for one")};
}

}  // namespace edgekiln
