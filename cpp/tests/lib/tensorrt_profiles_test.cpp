// What is checked of a TensorRT engine before there is a GPU, and the sentence for every way of not being one to run.
#include <string>
#include <vector>

#include "check.h"
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
  manifest.kv = {"growing", "float16"};
  manifest.tensorrt = TensorRTBuild{"tensorrt", "10.14.1.48", {"8.9", "9.0"}, false};
  return manifest;
}

void layouts_that_do_not_run_are_named() {
  CHECK(check_layout(good()).ok());
  Manifest manifest = good();
  manifest.tensorrt.reset();
  CHECK(check_layout(manifest).error().message == "engine.json names no plan for target trt: build the engine again");
  manifest = good();
  manifest.kv.kind = "inplace";
  CHECK(check_layout(manifest).error().code == Code::kUnsupported);
  CHECK(check_layout(manifest).error().message.ends_with("build the engine with --cache growing"));
  manifest = good();
  manifest.kv.dtype = "int8";
  CHECK(check_layout(manifest).error().code == Code::kUnsupported);
  manifest = good();
  manifest.tensorrt->library = "tensorrt_rtx";
  CHECK(check_layout(manifest).error().code == Code::kEngine);
  manifest = good();
  manifest.tensorrt->stripped = true;
  CHECK(check_layout(manifest).error().message.ends_with("build the engine without --strip-weights"));
}

void parts_are_keys_then_values_of_each_layer() {
  const std::vector<CachePart> parts = cache_parts(good());
  CHECK(parts.size() == 4);
  CHECK(parts[0].past == "past.0.key" && parts[1].present == "present.0.value" && parts[3].past == "past.1.value");
  CHECK(parts[1].heads == 2 && parts[1].head_dim == 16 && parts[2].heads == 1 && parts[2].head_dim == 32);
}

void the_closest_profile_runs() {
  const std::vector<Profile> profiles{{0, 1, 512}, {2, 1, 1}};
  CHECK(profile_for(profiles, 1).value() == 2);
  CHECK(profile_for(profiles, 2).value() == 0);
  CHECK(profile_for(profiles, 513).error().message ==
        "the plan takes 1 to 512, 1 to 1 tokens a run, not 513: build the engine again");
}

void why_a_plan_is_refused() {
  const TensorRTBuild build = *good().tensorrt;
  CHECK(why_refused(build, "10.1.0.1", "8.9", "no") ==
        "the plan was built with tensorrt 10.14.1.48, this machine has 10.1.0.1: build the engine again here, or "
        "install tensorrt 10.14.1.48");
  CHECK(why_refused(build, build.version, "8.6", "no") ==
        "the plan was built for compute capability 8.9, 9.0, this GPU has 8.6: build the engine on it");
  CHECK(why_refused(build, build.version, "8.9", "no") ==
        "tensorrt 10.14.1.48 cannot load the plan (no): build the engine again");
}

// As on every machine without a GPU, whatever else is missing there; the directory has no plan either.
void it_opens_to_a_sentence() {
  const auto opened = open_tensorrt("/nowhere", good(), RuntimeOptions{});
  CHECK(!opened.ok());
  CHECK(!opened.error().message.empty() && opened.error().message.find('\n') == std::string::npos);
}

}  // namespace

int main() {
  layouts_that_do_not_run_are_named();
  parts_are_keys_then_values_of_each_layer();
  the_closest_profile_runs();
  why_a_plan_is_refused();
  it_opens_to_a_sentence();
}
