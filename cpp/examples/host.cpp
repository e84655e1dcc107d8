// Chat with an engine: host ENGINE [QUESTION]
//
// With a question, it prints the answer and exits. Otherwise each line of input is a message; an empty line ends the
// chat.
#include <cstdio>
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <string>

namespace {

// Ask a question and print the answer as it is generated, then its speed. False on failure.
bool ask(edgekiln::Session& session, const std::string& question) {
  const auto answer = session.ask(question, {}, [](const edgekiln::Token& token) {
    std::cout << token.text << std::flush;
    return true;
  });
  if (!answer) {
    std::cerr << answer.error().message << '\n';
    return false;
  }
  const edgekiln_summary& summary = answer->summary;
  const auto prefilled = static_cast<double>(summary.prompt_tokens - summary.cached_tokens);
  const auto decoded = static_cast<double>(summary.generated_tokens - 1);
  std::cout << '\n';
  std::fprintf(stderr, "prompt: %.0f tokens, %.0f tokens/s; answer: %lld tokens, %.1f tokens/s\n", prefilled,
               prefilled / summary.first_token_s, static_cast<long long>(summary.generated_tokens),
               decoded / (summary.total_s - summary.first_token_s));
  if (summary.drafted_tokens)
    std::fprintf(stderr, "drafted %lld tokens, %lld accepted\n", static_cast<long long>(summary.drafted_tokens),
                 static_cast<long long>(summary.accepted_tokens));
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
  if (count == 3) return ask(*session, arguments[2]) ? 0 : 2;
  for (std::string line; std::cout << "> " << std::flush && std::getline(std::cin, line) && !line.empty();)
    ask(*session, line);
}
