// Runs the tokenizer for the Python tests: tokenize TOKENIZER_JSON. One request a line on stdin, one reply a line on
// stdout:
//   encode BYTES    followed by that many bytes of text: its ids, with the tokens that the post-processor adds
//   plain BYTES     the same without these tokens
//   decode ID...    the text as JSON
//   stream ID...    the streamed texts as a JSON list
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "text/stream.h"
#include "text/tokenizer.h"

namespace {

using edgekiln::text::StreamingDecoder;
using edgekiln::text::Tokenizer;
using nlohmann::json;

std::string read(std::size_t size) {
  std::string text(size, '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(size));
  return text;
}

bool encode(const Tokenizer& tokenizer, const std::string& text, bool add_special) {
  const auto ids = tokenizer.encode(text, add_special);
  if (!ids) {
    std::cerr << ids.error().message << '\n';
    return false;
  }
  std::string line;
  for (const std::int64_t id : ids.value()) line += std::to_string(id) += ' ';
  std::cout << line << std::endl;
  return true;
}

json streamed(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids) {
  StreamingDecoder stream(tokenizer);
  json texts = json::array();
  for (const std::int64_t id : ids) texts.push_back(stream.push(id));
  texts.push_back(stream.flush());
  return texts;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) return 2;
  std::ios::sync_with_stdio(false);
  std::ifstream file(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto tokenizer = Tokenizer::parse(text, "tokenizer.json");
  if (!tokenizer) {
    std::cerr << tokenizer.error().message << '\n';
    return 2;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream request(line);
    std::string what;
    request >> what;
    if (what == "encode" || what == "plain") {
      std::size_t size = 0;
      request >> size;
      if (!encode(tokenizer.value(), read(size), what == "encode")) return 2;
      continue;
    }
    const std::vector<std::int64_t> ids{std::istream_iterator<std::int64_t>(request), {}};
    const json reply = what == "decode" ? json(tokenizer.value().decode(ids)) : streamed(tokenizer.value(), ids);
    std::cout << reply << std::endl;
  }
}
