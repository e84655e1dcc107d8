// Chat with an engine: host ENGINE [QUESTION]
//
// With a question, it prints the answer and exits. Otherwise each line of input is a message; an empty line ends the
// chat.
#include <cstdio>
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <string>
#include <vector>

namespace {

// Print an answer as it is generated, then its speed. False on failure.
bool answer(edgekiln::Session& session, const edgekiln::GenerateOptions& options,
            std::vector<edgekiln::Message>& messages) {
  const auto print = [](const edgekiln::Token& token) {
    std::cout << token.text << std::flush;
    return true;
  };
  const auto result = session.chat(messages, options, print);
  if (!result) {
    std::cerr << result.error().message << '\n';
    return false;
  }
  const edgekiln_summary& summary = result->summary;
  const auto read = static_cast<double>(summary.prompt_tokens - summary.cached_tokens);
  const auto written = static_cast<double>(summary.generated_tokens - 1);
  std::cout << '\n';
  std::fprintf(stderr, "prompt: %.0f tokens, %.0f tokens/s; answer: %lld tokens, %.1f tokens/s\n", read,
               read / summary.first_token_s, static_cast<long long>(summary.generated_tokens),
               written / (summary.total_s - summary.first_token_s));
  if (summary.drafted_tokens)
    std::fprintf(stderr, "drafted %lld tokens, %lld accepted\n", static_cast<long long>(summary.drafted_tokens),
                 static_cast<long long>(summary.accepted_tokens));
  messages.push_back({"assistant", result->text});
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  if (count < 2 || count > 3) {
    std::cerr << "usage: " << arguments[0] << " ENGINE [QUESTION]\n";
    return 2;
  }
  const auto engine = edgekiln::Engine::open(arguments[1]);
  if (!engine) {
    std::cerr << engine.error().message << '\n';
    return 2;
  }
  auto session = engine->session();
  if (!session) {
    std::cerr << session.error().message << '\n';
    return 2;
  }
  const edgekiln::GenerateOptions options = engine->generate_options();
  std::vector<edgekiln::Message> messages;
  if (count == 3) {
    messages.push_back({"user", arguments[2]});
    return answer(*session, options, messages) ? 0 : 2;
  }
  for (std::string line; std::cout << "> " << std::flush && std::getline(std::cin, line) && !line.empty();) {
    messages.push_back({"user", line});
    // Drop a message that was refused, for example because the conversation is too long.
    if (!answer(*session, options, messages)) messages.pop_back();
  }
}
