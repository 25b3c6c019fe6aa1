// What a policy in C++ has of Gavel, over the generated bindings in bindings/policy_cpp.h.

#pragma once

#include <string_view>

#include "bindings/policy_cpp.h"

// The two functions that rule.cpp has.
namespace rule {
policy::Verdict evaluate(const policy::Request &request);
policy::Metadata describe();
}  // namespace rule

// End the policy, which denies the request. The message reaches the log before that. There are no exceptions here.
[[noreturn]] void gavel_fail(std::string_view message);

policy::Verdict allow();
policy::Verdict abstain();
policy::Verdict deny(std::string_view reason);
policy::Verdict escalate(std::string_view reason);
