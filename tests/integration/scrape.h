// What Prometheus would see of a daemon: one GET, and the series by their text.
//
// Thread-safety: free functions.
#pragma once

#include <map>
#include <string>

namespace sluice::test {

// The whole answer of an HTTP server on 127.0.0.1, headers and all; empty if nobody listens there.
std::string http_get(const std::string& address, const std::string& path);

class Scrape {
 public:
  // Throws unless the answer is a good one.
  explicit Scrape(const std::string& address);

  // `series` as it is exposed: `sluice_sessions{tenant="a"}`. Throws if it is not there.
  double operator[](const std::string& series) const;
  bool has(const std::string& series) const { return values_.contains(series); }

 private:
  std::map<std::string, double> values_;
};

}  // namespace sluice::test
