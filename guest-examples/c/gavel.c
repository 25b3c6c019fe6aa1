// The glue between Gavel and the rule: it holds what every policy in C needs. The rule is in rule.c.

#include "gavel.h"

#include <stdlib.h>
#include <string.h>

void exports_policy_evaluate(policy_request_t *request, policy_verdict_t *verdict) {
  *verdict = rule_evaluate(request);
  policy_request_free(request);
}

void exports_policy_describe(policy_metadata_t *metadata) { *metadata = rule_describe(); }

// The bindings ask for it, to have the policy's world linked in. `gavel policy componentize` adds the world itself.
void __component_type_object_force_link_policy(void) {}

_Noreturn void gavel_fail(const char *message) {
  gavel_log(GAVEL_POLICY_LOG_LEVEL_ERROR, gavel_text(message));
  __builtin_trap();
}

void gavel_log(gavel_policy_log_level_t level, policy_string_t message) { gavel_policy_log_write(level, &message); }

policy_verdict_t gavel_allow(void) { return (policy_verdict_t){.tag = GAVEL_POLICY_TYPES_VERDICT_ALLOW}; }

policy_verdict_t gavel_abstain(void) { return (policy_verdict_t){.tag = GAVEL_POLICY_TYPES_VERDICT_ABSTAIN}; }

policy_verdict_t gavel_deny(policy_string_t reason) {
  return (policy_verdict_t){.tag = GAVEL_POLICY_TYPES_VERDICT_DENY, .val.deny = reason};
}

policy_verdict_t gavel_escalate(policy_string_t reason) {
  return (policy_verdict_t){.tag = GAVEL_POLICY_TYPES_VERDICT_ESCALATE, .val.escalate = reason};
}

policy_string_t gavel_text(const char *literal) {
  return (policy_string_t){.ptr = (uint8_t *)literal, .len = strlen(literal)};
}

policy_string_t gavel_copy(policy_string_t text) {
  policy_string_t copy = {0};
  gavel_append(&copy, text);
  return copy;
}

void gavel_append(policy_string_t *text, policy_string_t more) {
  if (more.len == 0) return;
  text->ptr = realloc(text->ptr, text->len + more.len);
  if (text->ptr == NULL) gavel_fail("out of memory");
  memcpy(text->ptr + text->len, more.ptr, more.len);
  text->len += more.len;
}

void gavel_append_number(policy_string_t *text, uint64_t number) {
  uint8_t digits[20];
  size_t at = sizeof digits;
  do digits[--at] = '0' + number % 10;
  while ((number /= 10) > 0);
  gavel_append(text, (policy_string_t){digits + at, sizeof digits - at});
}

void gavel_push(policy_list_string_t *list, policy_string_t text) {
  list->ptr = realloc(list->ptr, (list->len + 1) * sizeof *list->ptr);
  if (list->ptr == NULL) gavel_fail("out of memory");
  list->ptr[list->len++] = text;
}

bool gavel_same(policy_string_t one, policy_string_t other) {
  return one.len == other.len && (one.len == 0 || memcmp(one.ptr, other.ptr, one.len) == 0);
}

bool gavel_after(policy_string_t text, const char *start, policy_string_t *rest) {
  size_t size = strlen(start);
  if (text.len < size || memcmp(text.ptr, start, size) != 0) return false;
  *rest = (policy_string_t){.ptr = text.ptr + size, .len = text.len - size};
  return true;
}
