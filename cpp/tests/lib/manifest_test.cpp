// engine.json: what is read of a good one, and the sentence for every way of being a bad one.
#include "engine/manifest.h"

#include <nlohmann/json.hpp>
#include <string>

#include "check.h"

namespace {

using namespace edgekiln;
using nlohmann::json;

json good() {
  return json::parse(R"({
    "schema_version": 1, "name": "tiny", "source": "here", "target": "ort-cpu",
    "architecture": {"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "layers": 2, "heads": 4,
                     "kv_heads": [2, 2], "head_dims": [16, 32], "max_length": 256, "parameters": 1000},
    "graphs": {"generate": "generate.onnx"},
    "io": {"input_ids": "tokens"},
    "kv": {"kind": "shared-buffer", "dtype": "int8"},
    "quantization": {"scheme": "int4", "group_size": null},
    "tokens": {"bos": null, "eos": [3, 4], "pad": 5},
    "sampling": {"temperature": 0.7, "top_k": 20},
    "versions": {"edgekiln": "0.1.0"},
    "files": {"generate.onnx": "00"}
  })");
}

std::string complaint(const json& value, Code code = Code::kEngine) {
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  CHECK(!result.ok());
  CHECK(result.error().code == code);
  return result.error().message;
}

std::string damaged(const std::string& what) { return "engine.json is damaged: " + what + ", build the engine again"; }

void a_good_one_is_read() {
  const Result<Manifest> result = parse_manifest(good().dump(), "engine.json");
  CHECK(result.ok());
  const Manifest& manifest = result.value();
  CHECK(manifest.target == "ort-cpu");
  CHECK(manifest.architecture.vocab_size == 320);
  CHECK(manifest.architecture.head_dims[1] == 32);
  CHECK(manifest.io.input_ids == "tokens");
  CHECK(manifest.io.present_key == "present.{layer}.key");
  CHECK(!manifest.io.total_length && !manifest.io.logits_start);
  CHECK(!manifest.tokens.bos && manifest.tokens.eos.size() == 2 && *manifest.tokens.pad == 5);
  CHECK(*manifest.sampling.temperature == 0.7 && *manifest.sampling.top_k == 20 && !manifest.sampling.top_p);
}

void inputs_that_not_every_graph_has_are_read() {
  json value = good();
  value["io"]["total_length"] = nullptr;
  value["io"]["logits_start"] = "from";
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  CHECK(result.ok());
  CHECK(!result.value().io.total_length && *result.value().io.logits_start == "from");
  value["io"]["logits_start"] = 7;
  CHECK(complaint(value) == damaged("io.logits_start: it is not a string"));
}

void every_field_is_needed_and_of_its_type() {
  for (const char* name : {"name", "source", "target", "architecture", "graphs", "kv", "quantization", "tokens",
                           "sampling", "versions", "files"}) {
    json value = good();
    value.erase(name);
    CHECK(complaint(value) == damaged(std::string(name) + ": it is missing"));
    value[name] = 7;
    CHECK(complaint(value).starts_with("engine.json is damaged: " + std::string(name) + ": it is not"));
  }
}

void what_is_wrong_is_named() {
  json value = good();
  value["architecture"]["vocab_size"] = 0;
  CHECK(complaint(value) == damaged("architecture.vocab_size: it is 0, the least is 1"));
  value = good();
  value["architecture"]["vocab_size"] = 18446744073709551615U;
  CHECK(complaint(value) == damaged("architecture.vocab_size: it is not an integer"));
  value = good();
  value["architecture"]["kv_heads"] = {2};
  CHECK(complaint(value) == damaged("architecture: 2 layers have 1 kv_heads and 2 head_dims"));
  value = good();
  value["architecture"]["kv_heads"][1] = -2;
  CHECK(complaint(value) == damaged("architecture.kv_heads.1: it is not an integer of at least 1"));
  value = good();
  value["architecture"]["colour"] = "red";
  CHECK(complaint(value) == damaged("architecture.colour: it is not known"));
  value = good();
  value["kv"]["dtype"] = "int3";
  CHECK(complaint(value) == damaged("kv.dtype: int3 is not known"));
  value = good();
  value["graphs"]["generate"] = "other.onnx";
  CHECK(complaint(value) ==
        "engine.json names other.onnx as its generate graph but lists no such file: build the engine again");
  CHECK(parse_manifest("{", "engine.json").error().message == damaged("it is not JSON"));
  CHECK(parse_manifest("[]", "engine.json").error().message == damaged("it is not an object"));
  CHECK(parse_manifest(std::string(100000, '['), "engine.json").error().message == damaged("it is not JSON"));
}

void what_a_plan_was_built_for_is_read() {
  json value = good();
  value["tensorrt"] = nullptr;
  CHECK(!parse_manifest(value.dump(), "engine.json").value().tensorrt);
  value["tensorrt"] = {{"library", "tensorrt"},
                       {"version", "10.14.1.48"},
                       {"compute_capabilities", {"8.9", "9.0"}},
                       {"max_batch", 4},
                       {"chunk", 512},
                       {"stripped", true},
                       {"options", {"fast"}}};
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  CHECK(result.ok());
  const TensorRTBuild& build = *result.value().tensorrt;
  CHECK(build.library == "tensorrt" && build.version == "10.14.1.48" && build.stripped);
  CHECK(build.compute_capabilities == (std::vector<std::string>{"8.9", "9.0"}));
  value["tensorrt"]["compute_capabilities"] = {8.9};
  CHECK(complaint(value) == damaged("tensorrt.compute_capabilities.0: it is not a string"));
  value["tensorrt"]["compute_capabilities"] = "8.9";
  CHECK(complaint(value) == damaged("tensorrt.compute_capabilities: it is not a list"));
  value["tensorrt"] = 7;
  CHECK(complaint(value) == damaged("tensorrt: it is not an object"));
}

void newer_schemas_are_not_read() {
  json value = good();
  value["schema_version"] = 2;
  CHECK(complaint(value, Code::kUnsupported) ==
        "engine.json has schema version 2, this edgekiln reads up to 1: upgrade edgekiln");
  value["schema_version"] = 18446744073709551615U;
  CHECK(complaint(value, Code::kUnsupported).starts_with("engine.json has schema version 18446744073709551615"));
  value["schema_version"] = "1";
  CHECK(complaint(value) == damaged("schema_version: it is not an integer"));
}

}  // namespace

int main() {
  a_good_one_is_read();
  inputs_that_not_every_graph_has_are_read();
  every_field_is_needed_and_of_its_type();
  what_is_wrong_is_named();
  what_a_plan_was_built_for_is_read();
  newer_schemas_are_not_read();
}
