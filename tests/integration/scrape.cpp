#include "tests/integration/scrape.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <sstream>
#include <stdexcept>

namespace sluice::test {

std::string http_get(const std::string& address, const std::string& path) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  to.sin_port =
      htons(static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  std::string answer;
  if (::connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0) {
    const std::string request =
        "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    (void)!::send(fd, request.data(), request.size(), MSG_NOSIGNAL);
    char buffer[4096];
    while (true) {
      const ssize_t n = ::recv(fd, buffer, sizeof buffer, 0);
      if (n <= 0) break;
      answer.append(buffer, static_cast<std::size_t>(n));
    }
  }
  ::close(fd);
  return answer;
}

Scrape::Scrape(const std::string& address) {
  const std::string answer = http_get(address, "/metrics");
  if (!answer.starts_with("HTTP/1.1 200 OK\r\n")) {
    throw std::runtime_error("no scrape of " + address + ": " + answer);
  }
  std::istringstream lines(answer.substr(answer.find("\r\n\r\n") + 4));
  for (std::string line; std::getline(lines, line);) {
    const std::size_t space = line.rfind(' ');
    if (line.empty() || line.front() == '#' || space == std::string::npos) continue;
    const std::string series = line.substr(0, space);
    if (!values_.emplace(series, std::stod(line.substr(space))).second) {
      throw std::runtime_error("a series twice: " + series);
    }
  }
}

double Scrape::operator[](const std::string& series) const {
  const auto found = values_.find(series);
  if (found == values_.end()) throw std::runtime_error("no series " + series);
  return found->second;
}

}  // namespace sluice::test
