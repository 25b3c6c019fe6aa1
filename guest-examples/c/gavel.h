// What a policy in C has of Gavel, over the generated bindings in bindings/policy.h.
//
// A policy_string_t is a text: an address and a length, not ended by a zero byte, always UTF-8.

#ifndef GAVEL_H
#define GAVEL_H

#include "bindings/policy.h"

// The two functions that rule.c has. The request is freed by the caller; what they return is freed by Gavel, so each
// text in it must be allocated: gavel_copy(), gavel_append().
policy_verdict_t rule_evaluate(const policy_request_t *request);
policy_metadata_t rule_describe(void);

// End the policy, which denies the request. The message reaches the log before that.
_Noreturn void gavel_fail(const char *message);

void gavel_log(gavel_policy_log_level_t level, policy_string_t message);

policy_verdict_t gavel_allow(void);
policy_verdict_t gavel_abstain(void);
policy_verdict_t gavel_deny(policy_string_t reason);
policy_verdict_t gavel_escalate(policy_string_t reason);

// A text that stays where it is.
policy_string_t gavel_text(const char *literal);
// A text of one's own.
policy_string_t gavel_copy(policy_string_t text);
// Add `more` to a text of one's own, or to an empty one ({0}).
void gavel_append(policy_string_t *text, policy_string_t more);
void gavel_append_number(policy_string_t *text, uint64_t number);
// Add a text of one's own to a list of one's own; the list frees it.
void gavel_push(policy_list_string_t *list, policy_string_t text);

bool gavel_same(policy_string_t one, policy_string_t other);
// What `text` has after `start`, if it begins so.
bool gavel_after(policy_string_t text, const char *start, policy_string_t *rest);

#endif
