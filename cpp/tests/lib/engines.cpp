// Opens many engines for the Python tests: engines KERNELS_LIBRARY. Each line of stdin is an engine directory, each
// line of stdout the JSON result of opening it and generating one token after "a": its status, and its ids or the
// error.
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace {

using nlohmann::json;

json failed(const edgekiln::Failure& failure) { return {{"status", failure.status}, {"error", failure.message}}; }

json first_token(const std::string& directory, const edgekiln::EngineOptions& options) {
  const edgekiln::Expected<edgekiln::Engine> engine = edgekiln::Engine::open(directory, options);
  if (!engine) return failed(engine.error());
  edgekiln::GenerateOptions one;
  one.max_tokens = 1;
  one.seed = 1;
  std::vector<std::int64_t> ids;
  const auto answer = engine->generate("a", one, [&ids](const edgekiln::Token& token) {
    ids.push_back(token.id);
    return true;
  });
  if (!answer) return failed(answer.error());
  return {{"status", 0}, {"ids", ids}};
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 2) return 2;
  edgekiln::EngineOptions options;
  options.threads = 1;
  if (count == 2) options.kernels_library = arguments[1];
  for (std::string line; std::getline(std::cin, line);)
    std::cout << first_token(line, options).dump(-1, ' ', false, json::error_handler_t::replace) << std::endl;
}
