// Parsing of engine.json, and the message for every kind of damage.
#include "engine/manifest.h"

#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <string>

namespace {

using namespace edgekiln;
using nlohmann::json;

json good() {
  return json::parse(R"({
    "schema_version": 5, "name": "tiny", "source": "here", "target": "ort-cpu",
    "architecture": {"model_type": "llama", "vocab_size": 320, "hidden_size": 64, "layers": 2, "heads": 4,
                     "kv_heads": [2, 2], "head_dims": [16, 32], "max_length": 256, "parameters": 1000},
    "graphs": {"generate": "generate.onnx"},
    "io": {"input_ids": "tokens"},
    "kv_cache": {"layout": "shared-buffer", "dtype": "int8"},
    "quantization": {"scheme": "int4", "group_size": null},
    "special_tokens": {"bos": null, "eos": [3, 4], "pad": 5},
    "sampling": {"temperature": 0.7, "top_k": 20},
    "versions": {"edgekiln": "0.1.0"},
    "files": {"generate.onnx": "00", "tokenizer.json": "01"}
  })");
}

std::string error_of(const json& value, Code code = Code::kEngine) {
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE_FALSE(result);
  CHECK(result.error().code == code);
  return result.error().message;
}

std::string damaged(const std::string& reason) {
  return "engine.json is damaged: " + reason + ", build the engine again";
}

TEST_CASE("an engine.json is parsed") {
  const Result<Manifest> result = parse_manifest(good().dump(), "engine.json");
  REQUIRE(result);
  const Manifest& manifest = result.value();
  CHECK(manifest.target == "ort-cpu");
  CHECK(manifest.architecture.vocab_size == 320);
  CHECK(manifest.architecture.head_dims[1] == 32);
  CHECK(manifest.io.input_ids == "tokens");
  CHECK(manifest.io.present_key == "present.{layer}.key");
  CHECK((!manifest.io.total_length && !manifest.io.logits_to_keep));
  CHECK((!manifest.special_tokens.bos && manifest.special_tokens.eos.size() == 2 && *manifest.special_tokens.pad == 5));
  CHECK((*manifest.sampling.temperature == 0.7 && *manifest.sampling.top_k == 20 && !manifest.sampling.top_p));
}

TEST_CASE("optional graph inputs are parsed") {
  json value = good();
  value["io"]["total_length"] = nullptr;
  value["io"]["logits_to_keep"] = "keep";
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE(result);
  CHECK((!result.value().io.total_length && *result.value().io.logits_to_keep == "keep"));
  value["io"]["logits_to_keep"] = 7;
  CHECK(error_of(value) == damaged("io.logits_to_keep: it is not a string"));
}

TEST_CASE("windows of the layers are parsed and checked") {
  json value = good();
  value["kv_cache"]["windows"] = {0, 512};
  CHECK(error_of(value) == damaged("io.window_start: it is missing"));
  value["io"]["window_start"] = "start";
  CHECK(error_of(value) == damaged("io: window_start has no {window}"));
  value["io"]["window_start"] = "start.{window}";
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE(result);
  CHECK(result.value().kv_cache.windows == (std::vector<std::int64_t>{0, 512}));
  CHECK(*result.value().io.window_start == "start.{window}");
  value["kv_cache"]["windows"] = {512};
  CHECK(error_of(value) == damaged("kv_cache: 1 windows for 2 KV cache layers"));
  value["kv_cache"]["windows"] = {0, -1};
  CHECK(error_of(value) == damaged("kv_cache.windows.1: it is -1, the least is 0"));
}

TEST_CASE("the length at which keys change is parsed and checked") {
  json value = good();
  CHECK(!parse_manifest(value.dump(), "engine.json").value().kv_cache.recompute_beyond);
  value["kv_cache"]["recompute_beyond"] = 4096;
  CHECK(error_of(value) == damaged("io.sequence_length: it is missing"));
  value["io"]["sequence_length"] = "lengths";
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE(result);
  CHECK((result.value().kv_cache.recompute_beyond == 4096 && result.value().io.sequence_length == "lengths"));
  value["kv_cache"]["recompute_beyond"] = 0;
  CHECK(error_of(value) == damaged("kv_cache.recompute_beyond: it is 0, the least is 1"));
  value["kv_cache"].erase("recompute_beyond");
  CHECK(error_of(value) == damaged("kv_cache.recompute_beyond: it is missing"));
}

TEST_CASE("states are parsed and checked") {
  json value = good();
  value["architecture"]["kv_heads"] = json::array();
  value["architecture"]["head_dims"] = json::array();
  value["architecture"]["heads"] = 0;
  const json state = {{"shape", {4, 8}}, {"dtype", "float16"}};
  value["kv_cache"]["states"] = {state, {{"shape", json::array()}, {"dtype", "float32"}}};
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE(result);
  const std::vector<StateSpec>& states = result.value().kv_cache.states;
  CHECK((states.size() == 2 && states[0].elements() == 32 && states[0].dtype == "float16"));
  CHECK((states[1].shape.empty() && states[1].elements() == 1));
  CHECK(result.value().io.past_state == "past_state.{state}");
  CHECK(of_state(result.value().io.present_state, 12) == "present_state.12");
  const auto error = [&](const json& second) {
    value["kv_cache"]["states"] = {state, second, 7};
    return error_of(value);
  };
  CHECK(error(7) == damaged("kv_cache.states.1: it is not an object"));
  CHECK(error({{"shape", {4}}}) == damaged("kv_cache.states.1.dtype: it is missing"));
  CHECK(error({{"shape", {4, 0}}}) == damaged("kv_cache.states.1.shape.1: it is 0, the least is 1"));
  CHECK(error({{"shape", {4}}, {"dtype", "int8"}}) == damaged("kv_cache.states.1.dtype: int8 is not known"));
  CHECK(error({{"shape", json(9, 1)}, {"dtype", "float32"}}) == damaged("kv_cache.states.1: it has 9 sizes"));
  CHECK(error({{"shape", {3, 1LL << 62}}, {"dtype", "float32"}}) ==
        damaged("kv_cache.states.1: it has 3 times 4611686018427387904 elements"));
  CHECK(error(state) == damaged("kv_cache.states.2: it is not an object"));
  value["kv_cache"]["states"] = json::array();
  value["io"]["past_state"] = "past.{layer}";
  CHECK(error_of(value) == damaged("io: past_state has no {state}"));
}

TEST_CASE("a missing or mistyped field is named") {
  for (const char* name : {"name", "source", "target", "architecture", "graphs", "kv_cache", "quantization",
                           "special_tokens", "sampling", "versions", "files"}) {
    json value = good();
    value.erase(name);
    CHECK(error_of(value) == damaged(std::string(name) + ": it is missing"));
    value[name] = 7;
    CHECK(error_of(value).starts_with("engine.json is damaged: " + std::string(name) + ": it is not"));
  }
}

TEST_CASE("an invalid value is named") {
  json value = good();
  value["architecture"]["vocab_size"] = 0;
  CHECK(error_of(value) == damaged("architecture.vocab_size: it is 0, the least is 1"));
  value = good();
  value["architecture"]["vocab_size"] = 18446744073709551615U;
  CHECK(error_of(value) == damaged("architecture.vocab_size: it is not an integer"));
  value = good();
  value["architecture"]["kv_heads"] = {2};
  CHECK(error_of(value) == damaged("architecture: 2 layers have 1 kv_heads and 2 head_dims"));
  value = good();
  value["architecture"]["kv_heads"][1] = -2;
  CHECK(error_of(value) == damaged("architecture.kv_heads.1: it is -2, the least is 1"));
  value = good();
  value["architecture"]["colour"] = "red";
  CHECK(error_of(value) == damaged("architecture.colour: it is not known"));
  value = good();
  value["kv_cache"]["dtype"] = "int3";
  CHECK(error_of(value) == damaged("kv_cache.dtype: int3 is not known"));
  value = good();
  value["graphs"]["generate"] = "other.onnx";
  CHECK(error_of(value) ==
        "engine.json names other.onnx as its generate graph but lists no such file: build the engine again");
  CHECK(parse_manifest("{", "engine.json").error().message == damaged("it is not JSON"));
  CHECK(parse_manifest("[]", "engine.json").error().message == damaged("it is not an object"));
  CHECK(parse_manifest(std::string(100000, '['), "engine.json").error().message == damaged("it is not JSON"));
}

TEST_CASE("names of inputs and outputs are checked") {
  const auto error = [](const char* field, const json& name) {
    json value = good();
    value["io"][field] = name;
    return error_of(value);
  };
  CHECK(error("logits", "") == damaged("io: logits is empty"));
  CHECK(error("logits", std::string(1, '\0')) == damaged("io: logits has a zero byte"));
  CHECK(error("past_key", "past.key") == damaged("io: past_key has no {layer}"));
  CHECK(error("total_length", "tokens") == damaged("io: total_length has the name of input_ids"));
}

TEST_CASE("values are checked across fields") {
  json value = good();
  value["special_tokens"]["eos"] = {3, 320};
  CHECK(error_of(value) == damaged("special_tokens: 320 is not below the vocabulary of 320"));
  value = good();
  value["special_tokens"]["bos"] = -1;
  CHECK(error_of(value) == damaged("special_tokens.bos: it is -1, the least is 0"));
  value = good();
  value["graphs"] = {{"score", "generate.onnx"}};
  CHECK(error_of(value) == damaged("graphs: generate is missing"));
  value = good();
  value["files"].erase("tokenizer.json");
  CHECK(error_of(value) == damaged("files: tokenizer.json is missing"));
}

TEST_CASE("sampling defaults out of range are refused") {
  const auto error = [](const char* field, double number) {
    json value = good();
    value["sampling"][field] = number;
    return error_of(value);
  };
  CHECK(error("temperature", -0.5) == damaged("sampling.temperature: it is not 0 or more"));
  CHECK(error("top_p", 1.5) == damaged("sampling.top_p: it is not from 0 to 1"));
  CHECK(error("min_p", -0.5) == damaged("sampling.min_p: it is not from 0 to 1"));
  CHECK(error("repetition_penalty", 0) == damaged("sampling.repetition_penalty: it is not more than 0"));
  CHECK(error("top_k", 1.5) == damaged("sampling.top_k: it is not an integer"));
}

TEST_CASE("the TensorRT build is parsed") {
  json value = good();
  value["tensorrt"] = nullptr;
  CHECK(!parse_manifest(value.dump(), "engine.json").value().tensorrt);
  value["tensorrt"] = {{"library", "tensorrt"}, {"version", "10.14.1.48"}, {"compute_capabilities", {"8.9", "9.0"}},
                       {"max_batch", 4},        {"prefill_chunk", 512},    {"weight_stripped", true},
                       {"options", {"fast"}}};
  const Result<Manifest> result = parse_manifest(value.dump(), "engine.json");
  REQUIRE(result);
  const TensorRTBuild& build = *result.value().tensorrt;
  CHECK((build.library == "tensorrt" && build.version == "10.14.1.48" && build.weight_stripped));
  CHECK(build.compute_capabilities == (std::vector<std::string>{"8.9", "9.0"}));
  value["tensorrt"]["compute_capabilities"] = {8.9};
  CHECK(error_of(value) == damaged("tensorrt.compute_capabilities.0: it is not a string"));
  value["tensorrt"]["compute_capabilities"] = "8.9";
  CHECK(error_of(value) == damaged("tensorrt.compute_capabilities: it is not a list"));
  value["tensorrt"] = 7;
  CHECK(error_of(value) == damaged("tensorrt: it is not an object"));
}

TEST_CASE("other schema versions are refused") {
  json value = good();
  for (const int version : {0, 4}) {
    value["schema_version"] = version;
    CHECK(error_of(value, Code::kUnsupported) == "engine.json has schema version " + std::to_string(version) +
                                                     ", this edgekiln reads version 5: build the engine again");
  }
  value["schema_version"] = 6;
  CHECK(error_of(value, Code::kUnsupported) ==
        "engine.json has schema version 6, this edgekiln reads version 5: upgrade edgekiln");
  value["schema_version"] = 18446744073709551615U;
  CHECK(error_of(value) == damaged("schema_version: it is not an integer"));
  value["schema_version"] = "1";
  CHECK(error_of(value) == damaged("schema_version: it is not an integer"));
}

}  // namespace
