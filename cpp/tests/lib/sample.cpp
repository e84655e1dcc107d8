// Samples tokens for the Python tests. stdin: a line of JSON with the sampling options, the prompt and the vocabulary
// size, then float32 logits, one row a token. With "words", a mask of so many uint32 follows each row. stdout: the
// token and its log-probability, one line a row; or the message of the error.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "sampling/sampler.h"

int main() {
  std::string line;
  std::getline(std::cin, line);
  const nlohmann::json request = nlohmann::json::parse(line);
  edgekiln::SamplingOptions options;
  options.temperature = request.at("temperature");
  options.top_k = request.at("top_k");
  options.top_p = request.at("top_p");
  options.min_p = request.at("min_p");
  options.repetition_penalty = request.at("repetition_penalty");
  options.seed = request.at("seed").get<std::uint64_t>();
  if (!options.check()) return 2;
  edgekiln::Sampler sampler(options);
  sampler.observe(request.at("prompt").get<std::vector<std::int64_t>>());
  std::vector<float> logits(request.at("size").get<std::size_t>());
  const bool masked = request.contains("words");
  std::vector<std::uint32_t> mask(request.value("words", std::size_t{0}));
  const auto bytes = static_cast<std::streamsize>(logits.size() * sizeof(float));
  while (std::cin.read(static_cast<char*>(static_cast<void*>(logits.data())), bytes)) {
    std::cin.read(static_cast<char*>(static_cast<void*>(mask.data())),
                  static_cast<std::streamsize>(mask.size() * sizeof(std::uint32_t)));
    const auto choice = sampler.sample(logits, true, masked ? std::optional<edgekiln::Bitmask>(mask) : std::nullopt);
    if (choice)
      std::printf("%lld %.17g\n", static_cast<long long>(choice->token), *choice->logprob);
    else
      std::printf("%s\n", choice.error().message.c_str());
  }
}
