// The glue between Gavel and the rule: it holds what every policy in C++ needs. The rule is in rule.cpp.

#include "glue.hpp"

namespace exports::policy {
gavel::policy::types::Verdict Evaluate(gavel::policy::types::Request request) { return rule::evaluate(request); }
gavel::policy::types::Metadata Describe() { return rule::describe(); }
}  // namespace exports::policy

// The bindings ask for it, to have the policy's world linked in. `gavel policy componentize` adds the world itself.
extern "C" void __component_type_object_force_link_policy() {}

void gavel_fail(std::string_view message) {
  gavel::policy::log::Write(gavel::policy::log::Level::kError, message);
  __builtin_trap();
}

policy::Verdict allow() { return {policy::Verdict::Allow{}}; }

policy::Verdict abstain() { return {policy::Verdict::Abstain{}}; }

policy::Verdict deny(std::string_view reason) { return {policy::Verdict::Deny{wit::string::from_view(reason)}}; }

policy::Verdict escalate(std::string_view reason) {
  return {policy::Verdict::Escalate{wit::string::from_view(reason)}};
}
