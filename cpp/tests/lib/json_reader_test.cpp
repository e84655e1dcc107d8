// Validated reading of JSON: the path and reason in every error.
#include "util/json_reader.h"

#include <doctest/doctest.h>

#include <functional>
#include <string>

namespace {

using namespace edgekiln;

std::string error_of(const std::string& text, const std::function<void(JsonObject&)>& read) {
  const Result<void> result = read_checked("a.json", [&]() -> Result<void> {
    const JsonDocument document = parse_json(text);
    JsonObject root(*document, "");
    read(root);
    return {};
  });
  return result ? "" : result.error().message;
}

std::string damaged(const std::string& reason) { return "a.json is damaged: " + reason + ", build the engine again"; }

TEST_CASE("null counts as missing") {
  const std::string text = R"({"a": null})";
  CHECK(error_of(text, [](JsonObject& root) { root.string("a"); }) == damaged("a: it is missing"));
  CHECK(error_of(text, [](JsonObject& root) {
          CHECK(root.string_or("a", "x") == "x");
          CHECK(root.boolean_or("a", true));
          CHECK_FALSE(root.optional_object("a"));
          CHECK(root.objects_or_empty("a").empty());
          CHECK(root.integers_or_empty("b", 0).empty());
          root.refuse_unknown_keys();
        }).empty());
}

TEST_CASE("errors carry the path of the value") {
  const std::string text = R"({"a": [{"b": {"c": [1, -1, "x"]}}, 5], "d": {"e": 1}})";
  const auto b = [](JsonObject& root) { return root.objects("a"); };
  CHECK(error_of(text, [&](JsonObject& root) { b(root); }) == damaged("a.1: it is not an object"));
  const std::string nested = R"({"a": [{"b": {"c": [1, -1, "x"]}}]})";
  CHECK(error_of(nested, [](JsonObject& root) { root.objects("a")[0].object("b").integers("c", 0); }) ==
        damaged("a.0.b.c.1: it is -1, the least is 0"));
  CHECK(error_of(nested, [](JsonObject& root) { root.objects("a")[0].object("b").strings("c"); }) ==
        damaged("a.0.b.c.0: it is not a string"));
  CHECK(error_of(text, [](JsonObject& root) { root.string_map("d"); }) == damaged("d.e: it is not a string"));
  CHECK(error_of(text, [](JsonObject& root) { root.object("d").refuse_unknown_keys(); }) ==
        damaged("d.e: it is not known"));
  CHECK(error_of(text, [](JsonObject& root) { root.object("d").boolean_or("e", true); }) ==
        damaged("d.e: it is not true or false"));
  CHECK(error_of("[]", [](JsonObject&) {}) == damaged("it is not an object"));
  CHECK(error_of("{", [](JsonObject&) {}) == damaged("it is not JSON"));
}

TEST_CASE("what is not JSON is refused") {
  const std::string deep = std::string(101, '[') + std::string(101, ']');
  const std::string zero("{}\0", 3);
  for (const std::string& text : {std::string(), std::string("{} {}"), std::string("{\"a\": NaN}"),
                                  std::string("{\"a\": 1e999}"), std::string("{\"a\": \"\\ud800\"}"),
                                  std::string("{\"a\": \"\xFF\"}"), std::string("\xEF\xBB\xBF{}"), zero, deep})
    CHECK(error_of(text, [](JsonObject&) {}) == damaged("it is not JSON"));
  CHECK(error_of("{\"a\": \"" + std::string(500, '[') + "\"}", [](JsonObject&) {}).empty());
  CHECK(error_of(R"({"a": 1, "a": 2})", [](JsonObject& root) { CHECK(root.integer("a") == 2); }).empty());
}

TEST_CASE("unsupported parts are named") {
  CHECK(error_of("{}", [](JsonObject&) { unsupported("a model of type X"); }) ==
        "a.json has a model of type X, which this library does not know");
}

}  // namespace
