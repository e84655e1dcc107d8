// Two threads that share one engine: two_sessions ENGINE QUESTION QUESTION
#include <array>
#include <cstddef>
#include <edgekiln/edgekiln.hpp>
#include <iostream>
#include <string>
#include <thread>

namespace {

std::string answer(const edgekiln::Engine& engine, const std::string& question) {
  const auto result = engine.chat({{"user", question}});
  return result ? result->text : result.error().message;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: " << arguments[0] << " ENGINE QUESTION QUESTION\n";
    return 2;
  }
  const auto engine = edgekiln::Engine::open(arguments[1]);
  if (!engine) {
    std::cerr << engine.error().message << '\n';
    return 2;
  }
  const std::array<std::string, 2> questions{arguments[2], arguments[3]};
  std::array<std::string, 2> answers;
  std::array<std::thread, 2> threads;
  for (std::size_t i = 0; i < threads.size(); ++i)
    threads[i] = std::thread([&, i] { answers[i] = answer(*engine, questions[i]); });
  for (std::thread& thread : threads) thread.join();
  for (std::size_t i = 0; i < threads.size(); ++i) std::cout << questions[i] << "\n  " << answers[i] << '\n';
}
