// Runs the tokenizer for the Python tests: tokenize TOKENIZER_JSON [ID...], with the ids of bos, eos and pad. One
// request a line on stdin, one reply a line on stdout:
//   encode BYTES    followed by that many bytes of text: its ids, with the tokens that the post-processor adds
//   plain BYTES     the same without these tokens
//   parts JSON      [["text", is it given], ...]: its ids, in which given text is no control token
//   longest         the most characters of one token as JSON, null if that is not known
//   decode ID...    the text as JSON
//   stream ID...    the streamed texts as a JSON list
//   show ID...      the same with special tokens
//   answer JSON     {"ids": [], "stop": [], "hide": false}: the pieces of the answer's text as a JSON list, and whether
//                   a stop string ended it
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "generate/answer_text.h"
#include "text/stream.h"
#include "text/text_length.h"
#include "text/tokenizer.h"

namespace {

using edgekiln::AnswerText;
using edgekiln::SpecialTokensChoice;
using edgekiln::text::StreamingDecoder;
using edgekiln::text::Tokenizer;
using nlohmann::json;

std::string read(std::size_t size) {
  std::string text(size, '\0');
  std::cin.read(text.data(), static_cast<std::streamsize>(size));
  return text;
}

bool print(const edgekiln::Result<std::vector<std::int64_t>>& ids) {
  if (!ids) {
    std::cerr << ids.error().message << '\n';
    return false;
  }
  std::string line;
  for (const std::int64_t id : ids.value()) line += std::to_string(id) += ' ';
  std::cout << line << std::endl;
  return true;
}

edgekiln::text::MarkedText marked(const json& parts) {
  edgekiln::text::MarkedText text;
  for (const json& part : parts)
    text.append(part.at(0).get_ref<const std::string&>(), part.at(1) ? edgekiln::text::kGiven : edgekiln::text::kOwn);
  return text;
}

json streamed(const Tokenizer& tokenizer, const std::vector<std::int64_t>& ids, SpecialTokensChoice special_tokens) {
  StreamingDecoder stream(tokenizer, special_tokens);
  json texts = json::array();
  for (const std::int64_t id : ids) texts.push_back(stream.push(id));
  texts.push_back(stream.flush());
  return texts;
}

json answer(const Tokenizer& tokenizer, const json& request) {
  StreamingDecoder stream(tokenizer, request.at("hide") ? SpecialTokensChoice::kHide : SpecialTokensChoice::kShow);
  AnswerText text(&stream, request.at("stop"));
  json texts = json::array();
  for (const std::int64_t id : request.at("ids")) {
    const AnswerText::Piece piece = text.push(id);
    texts.push_back(piece.text);
    if (piece.stopped) return {texts, true};
  }
  const AnswerText::Piece rest = text.flush();
  texts.push_back(rest.text);
  return {texts, rest.stopped};
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2) return 2;
  std::set<std::int64_t> turn_marks;
  for (int i = 2; i < count; ++i) turn_marks.insert(std::stoll(arguments[i]));
  std::ios::sync_with_stdio(false);
  std::ifstream file(arguments[1], std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto tokenizer = Tokenizer::parse(text, "tokenizer.json", turn_marks);
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
      if (!print(tokenizer.value().encode(read(size), what == "encode"))) return 2;
      continue;
    }
    if (what == "parts") {
      if (!print(tokenizer.value().encode(marked(json::parse(request))))) return 2;
      continue;
    }
    if (what == "longest") {
      const auto most = edgekiln::text::most_characters(*edgekiln::text::parse_tokenizer(text, ""));
      std::cout << (most ? json(*most) : json()) << std::endl;
      continue;
    }
    if (what == "answer") {
      std::cout << answer(tokenizer.value(), json::parse(request)) << std::endl;
      continue;
    }
    const std::vector<std::int64_t> ids{std::istream_iterator<std::int64_t>(request), {}};
    const auto choice = what == "show" ? SpecialTokensChoice::kShow : SpecialTokensChoice::kHide;
    const json reply =
        what == "decode" ? json(tokenizer.value().decode(ids)) : streamed(tokenizer.value(), ids, choice);
    std::cout << reply << std::endl;
  }
}
