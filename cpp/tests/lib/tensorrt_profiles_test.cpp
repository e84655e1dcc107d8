// Checks of a TensorRT plan that need no GPU, and the message for every reason to refuse it.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "runtime/tensorrt/profiles.h"
#include "runtime/tensorrt/runtime.h"

namespace {

using namespace edgekiln;

Manifest good() {
  Manifest manifest;
  manifest.target = "trt";
  manifest.architecture.kv_heads = {2, 1};
  manifest.architecture.head_dims = {16, 32};
  manifest.graphs = {{"plan", "generate.plan"}};
  manifest.kv_cache = {"growing", "float16"};
  manifest.tensorrt = TensorRTBuild{"tensorrt", "10.14.1.48", {"8.9", "9.0"}, false};
  return manifest;
}

TEST_CASE("unsupported KV cache layouts are refused") {
  CHECK(check_layout(good()));
  Manifest manifest = good();
  manifest.tensorrt.reset();
  CHECK(check_layout(manifest).error().message == "engine.json names no plan for target trt: build the engine again");
  manifest = good();
  manifest.kv_cache.layout = "in-place";
  CHECK(check_layout(manifest).error().code == Code::kUnsupported);
  CHECK(check_layout(manifest).error().message.ends_with("build the engine with --cache growing"));
  manifest = good();
  manifest.kv_cache.dtype = "int8";
  CHECK(check_layout(manifest).error().code == Code::kUnsupported);
  manifest = good();
  manifest.tensorrt->library = "tensorrt_rtx";
  CHECK(check_layout(manifest).error().code == Code::kEngine);
  manifest = good();
  manifest.tensorrt->weight_stripped = true;
  CHECK(check_layout(manifest).error().message.ends_with("build the engine without --strip-weights"));
}

TEST_CASE("cache parts are the keys, then the values of each layer") {
  const std::vector<CachePart> parts = cache_parts(good());
  CHECK(parts.size() == 4);
  CHECK((parts[0].past == "past.0.key" && parts[1].present == "present.0.value" && parts[3].past == "past.1.value"));
  CHECK((parts[1].heads == 2 && parts[1].head_dim == 16 && parts[2].heads == 1 && parts[2].head_dim == 32));
}

TEST_CASE("the smallest matching profile is chosen") {
  const std::vector<Profile> profiles{{0, 1, 512}, {2, 1, 1}};
  CHECK(profile_for(profiles, 1).value() == 2);
  CHECK(profile_for(profiles, 2).value() == 0);
  CHECK(profile_for(profiles, 513).error().message ==
        "the plan takes 1 to 512, 1 to 1 tokens a run, not 513: build the engine again");
}

TEST_CASE("a refused plan is explained") {
  const TensorRTBuild build = *good().tensorrt;
  CHECK(why_refused(build, "10.1.0.1", "8.9", "no") ==
        "the plan was built with tensorrt 10.14.1.48, this machine has 10.1.0.1: build the engine again here, or "
        "install tensorrt 10.14.1.48");
  CHECK(why_refused(build, build.version, "8.6", "no") ==
        "the plan was built for compute capability 8.9, 9.0, this GPU has 8.6: build the engine on it");
  CHECK(why_refused(build, build.version, "8.9", "no") ==
        "tensorrt 10.14.1.48 cannot load the plan (no): build the engine again");
}

// The directory has no plan, and on a machine without a GPU the driver is missing too.
TEST_CASE("opening a missing plan fails with one sentence") {
  const auto opened = open_tensorrt("/nowhere", good(), RuntimeOptions{});
  REQUIRE_FALSE(opened);
  CHECK_FALSE(opened.error().message.empty());
  CHECK(opened.error().message.find('\n') == std::string::npos);
}

}  // namespace
