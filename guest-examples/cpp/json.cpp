#include "json.hpp"

#include <utility>

void Json::wrong(std::string_view error) {
  if (error_.empty()) error_ = error;
}

// The next character that is no space, without taking it; 0 at the end.
char Json::peek() {
  while (!left_.empty() && std::string_view(" \t\n\r").contains(left_.front())) left_.remove_prefix(1);
  return left_.empty() ? '\0' : left_.front();
}

bool Json::take(char character, std::string_view otherwise) {
  if (!error_.empty()) return false;
  if (peek() != character) {
    wrong(otherwise);
    return false;
  }
  left_.remove_prefix(1);
  return true;
}

void Json::begin(char character, std::string_view otherwise) {
  first_ = true;
  take(character, otherwise);
}

// Whether one more comes before `close`.
bool Json::more(char close) {
  if (!error_.empty()) return false;
  bool first = std::exchange(first_, false);
  if (peek() == close) {
    left_.remove_prefix(1);
    return false;
  }
  return first || take(',', "a comma or the end is expected");
}

std::optional<std::string> Json::key() {
  if (!more('}')) return std::nullopt;
  std::string key = string();
  if (!take(':', "a colon is expected")) return std::nullopt;
  return key;
}

void Json::end() {
  if (peek() != '\0') wrong("something follows the end");
}

std::string Json::string() {
  std::string text;
  if (!take('"', "a string is expected")) return text;
  while (error_.empty()) {
    if (left_.empty()) {
      wrong("a string does not end");
      break;
    }
    char character = left_.front();
    left_.remove_prefix(1);
    if (character == '"') return text;
    if (character == '\\') {
      escape(text);
    } else if (static_cast<unsigned char>(character) < 0x20) {
      wrong("a control character in a string");
    } else {
      text += character;
    }
  }
  return {};
}

void Json::escape(std::string &text) {
  constexpr std::string_view known = "\"\\/bfnrt", meant = "\"\\/\b\f\n\r\t";
  if (left_.empty()) return wrong("a string does not end");
  char character = left_.front();
  left_.remove_prefix(1);
  if (character == 'u') return unicode(text);
  size_t index = known.find(character);
  if (index == known.npos) return wrong("an escape that JSON does not have");
  text += meant[index];
}

// \uXXXX, or the two of them that stand for one character beyond U+FFFF.
void Json::unicode(std::string &text) {
  uint32_t code = hex4();
  if (code >= 0xdc00 && code <= 0xdfff) return wrong("half a character");
  if (code >= 0xd800 && code <= 0xdbff) {
    if (!left_.starts_with("\\u")) return wrong("half a character");
    left_.remove_prefix(2);
    uint32_t low = hex4();
    if (low < 0xdc00 || low > 0xdfff) return wrong("half a character");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  // UTF-8: the first byte says how many follow, each of those has six bits.
  int following = code < 0x80 ? 0 : code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  constexpr uint8_t first[] = {0x00, 0xc0, 0xe0, 0xf0};
  text += static_cast<char>(first[following] | code >> 6 * following);
  while (following-- > 0) text += static_cast<char>(0x80 | (code >> 6 * following & 0x3f));
}

// The four digits of \uXXXX.
uint32_t Json::hex4() {
  constexpr std::string_view digits = "0123456789abcdefABCDEF";
  uint32_t unit = 0;
  for (int i = 0; i < 4; i++) {
    size_t digit = left_.empty() ? digits.npos : digits.find(left_.front());
    if (digit == digits.npos) {
      wrong("\\u needs four digits");
      return 0;
    }
    unit = unit << 4 | static_cast<uint32_t>(digit < 16 ? digit : digit - 6);
    left_.remove_prefix(1);
  }
  return unit;
}
