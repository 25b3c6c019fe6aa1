// A small strict reader of JSON: objects, arrays and strings, in the order in which they stand.
//
//   Json json(text);
//   json.object();
//   while (auto key = json.key()) {
//     json.array();
//     while (json.item()) values.push_back(json.string());
//   }
//   json.end();
//   if (!json.error().empty()) ...
//
// After the first error everything answers that nothing is there, and error() keeps saying what it was.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

class Json {
 public:
  explicit Json(std::string_view text) : left_(text) {}

  // Go into an object or an array.
  void object() { begin('{', "an object is expected"); }
  void array() { begin('[', "an array is expected"); }
  // Go on to the next; none when there is no more, and then one is out of the object or array.
  std::optional<std::string> key();
  bool item() { return more(']'); }
  std::string string();
  // Nothing must follow.
  void end();

  // Say that what was read is not what was wanted. The first error stays.
  void wrong(std::string_view error);
  // Empty if there is none.
  std::string_view error() const { return error_; }

 private:
  char peek();
  bool take(char character, std::string_view otherwise);
  void begin(char character, std::string_view otherwise);
  bool more(char close);
  void escape(std::string &text);
  void unicode(std::string &text);
  uint32_t hex4();

  std::string_view left_;
  std::string_view error_;
  bool first_ = true;  // the next key or item is the first, so no comma comes before it
};
