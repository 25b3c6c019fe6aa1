// The rule. This is the file to edit.
//
// Whatever goes wrong in here denies the request: an error of the configuration because it says so below, gavel_fail()
// and every trap because Gavel takes it so.

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "glue.hpp"
#include "json.hpp"

namespace {

using gavel::policy::log::Level;

constexpr std::string_view kInjected = "ignore all previous instructions";
constexpr std::string_view kApproval = "approved-by:";

constexpr std::string_view kConfigSchema = R"({
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "properties": {
    "guarded": {
      "description": "Patterns of the names of tools that need an approval; * stands for any text.",
      "type": "array",
      "items": {"type": "string"}
    },
    "approvers": {
      "description": "Who may approve, as evidence names them: approved-by:human:alice.",
      "type": "array",
      "items": {"type": "string"}
    }
  },
  "required": ["guarded", "approvers"],
  "additionalProperties": false
})";

// What the operator configures.
struct Config {
  std::vector<std::string> guarded;    // patterns of tools' names, where `*` stands for any text
  std::vector<std::string> approvers;  // who may approve, for example `human:alice`
  std::string wrong;                   // why it cannot be read; empty if it can
};

Config read_config(std::string_view text) {
  Config config;
  bool guarded = false, approvers = false;
  Json json(text);
  json.object();
  while (auto key = json.key()) {
    bool *seen = *key == "guarded" ? &guarded : *key == "approvers" ? &approvers : nullptr;
    if (seen == nullptr || *seen) {
      json.wrong("a key that is not known, or twice");
      break;
    }
    *seen = true;
    auto &texts = seen == &guarded ? config.guarded : config.approvers;
    json.array();
    while (json.item()) {
      texts.push_back(json.string());
      if (texts.back().empty() && config.wrong.empty()) {
        config.wrong = *key + "[" + std::to_string(texts.size() - 1) + "] is empty";
      }
    }
  }
  json.end();
  if (!guarded || !approvers) json.wrong("guarded and approvers must both be there");
  if (!json.error().empty()) config.wrong = json.error();
  return config;
}

// Only ASCII letters are alike.
bool contains_ignoring_case(std::string_view text, std::string_view words) {
  auto lower = [](char letter) { return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + 32) : letter; };
  return !std::ranges::search(text, words, {}, lower).empty();
}

// Whether `name` fits `pattern`, where `*` stands for any text.
bool fits(std::string_view pattern, std::string_view name) {
  size_t star = pattern.find('*');
  if (star == pattern.npos) return name == pattern;
  if (!name.starts_with(pattern.substr(0, star))) return false;
  name.remove_prefix(star);
  pattern.remove_prefix(star + 1);
  while ((star = pattern.find('*')) != pattern.npos) {
    size_t found = name.find(pattern.substr(0, star));
    if (found == name.npos) return false;
    name.remove_prefix(found + star);
    pattern.remove_prefix(star + 1);
  }
  return name.ends_with(pattern);
}

// Who of the approvers approved; empty if nobody did.
std::string_view approval(const wit::vector<wit::string> &evidence, const std::vector<std::string> &approvers) {
  for (const wit::string &entry : evidence.get_const_view()) {
    std::string_view name = entry.get_view();
    if (!name.starts_with(kApproval)) continue;
    name.remove_prefix(kApproval.size());
    if (std::ranges::contains(approvers, name)) return name;
  }
  return {};
}

std::string joined(const std::vector<std::string> &texts) {
  std::string all;
  for (const std::string &text : texts) all += (all.empty() ? "" : ", ") + text;
  return all;
}

}  // namespace

policy::Metadata rule::describe() {
  return {
      .name = wit::string::from_view("guarded-tools"),
      .version = wit::string::from_view("0.1.0"),
      .description = wit::string::from_view("Lets guarded tools run only with the approval of a human."),
      .config_schema = wit::string::from_view(kConfigSchema),
  };
}

policy::Verdict rule::evaluate(const policy::Request &request) {
  if (contains_ignoring_case(request.intent.get_view(), kInjected)) {
    return deny("the intent reads like an injected instruction");
  }
  Config config = read_config(gavel::policy::config::Get().get_view());
  if (!config.wrong.empty()) {
    return deny("the configuration cannot be read: " + config.wrong);
  }
  if (!request.tool_call) {
    return abstain();
  }
  std::string tool = request.tool_call->name.to_string();
  if (std::ranges::none_of(config.guarded, [&](const std::string &pattern) { return fits(pattern, tool); })) {
    return allow();
  }
  std::string_view approver = approval(request.evidence, config.approvers);
  if (!approver.empty()) {
    gavel::policy::log::Write(Level::kInfo, "tool '" + tool + "' passes: " + std::string(approver) + " approved");
    return allow();
  }
  return escalate("tool '" + tool + "' is guarded: evidence 'approved-by:...' of one of " + joined(config.approvers) +
                  " is needed");
}
