#include "storage/testing/fault_plan.h"

namespace sluice::storage {
namespace {

bool is_for(Fault fault, IoOp op) {
  switch (fault) {
    case Fault::io_error:
    case Fault::stall:
    case Fault::vanish:
      return true;
    case Fault::short_transfer:
      return op == IoOp::read || op == IoOp::write;
    case Fault::lost:
      return op != IoOp::read;
    case Fault::no_space:
    case Fault::torn_write:
    case Fault::flip_write:
      return op == IoOp::write;
    case Fault::flip_read:
      return op == IoOp::read;
  }
  return false;
}

bool matches(const FaultRule& rule, const IoRequest& request, std::string_view path) {
  if (!is_for(rule.fault, request.op)) return false;
  if (rule.op && *rule.op != request.op) return false;
  if (path.find(rule.path_part) == std::string_view::npos) return false;
  if (request.op == IoOp::sync) return true;
  return request.offset < rule.to_offset && request.offset + request.length > rule.from_offset;
}

}  // namespace

Injection FaultPlan::decide(const IoRequest& request, std::string_view path) {
  Injection injection;
  injection.random = random_();
  if (vanished_) injection.fault = Fault::vanish;
  for (CountedRule& counted : rules_) {
    if (!fires(counted, request, path) || injection.fault) continue;
    injection.fault = counted.rule.fault;
    injection.delay = counted.rule.delay;
  }
  if (!injection.fault) return injection;
  if (*injection.fault == Fault::vanish) vanished_ = true;
  ++counts_[static_cast<std::size_t>(*injection.fault)];
  return injection;
}

bool FaultPlan::fires(CountedRule& counted, const IoRequest& request, std::string_view path) {
  const FaultRule& rule = counted.rule;
  if (!matches(rule, request, path)) return false;
  ++counted.matched;
  if (counted.matched < rule.first || counted.matched - rule.first >= rule.count) return false;
  constexpr double kDraws = 18446744073709551616.0;  // 2^64
  return rule.probability >= 1 || static_cast<double>(random_()) < rule.probability * kDraws;
}

}  // namespace sluice::storage
