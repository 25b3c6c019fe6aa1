#include "json.h"

json_t json_begin(policy_string_t text) { return (json_t){.at = text.ptr, .end = text.ptr + text.len}; }

bool json_wrong(json_t *json, const char *error) {
  if (json->error == NULL) json->error = error;
  return false;
}

// The next character that is no space, without taking it; 0 at the end.
static uint8_t peek(json_t *json) {
  while (json->at < json->end && (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r')) {
    json->at++;
  }
  return json->at < json->end ? *json->at : 0;
}

static bool take(json_t *json, uint8_t character, const char *otherwise) {
  if (json->error != NULL) return false;
  if (peek(json) != character) return json_wrong(json, otherwise);
  json->at++;
  return true;
}

bool json_object(json_t *json) {
  json->first = true;
  return take(json, '{', "an object is expected");
}

bool json_array(json_t *json) {
  json->first = true;
  return take(json, '[', "an array is expected");
}

// Whether one more comes before `close`.
static bool more(json_t *json, uint8_t close) {
  if (json->error != NULL) return false;
  bool first = json->first;
  json->first = false;
  if (peek(json) == close) {
    json->at++;
    return false;
  }
  return first || take(json, ',', "a comma or the end is expected");
}

bool json_key(json_t *json, policy_string_t *key) {
  *key = (policy_string_t){0};
  if (!more(json, '}') || !json_string(json, key)) return false;
  if (take(json, ':', "a colon is expected")) return true;
  policy_string_free(key);
  return false;
}

bool json_item(json_t *json) { return more(json, ']'); }

bool json_end(json_t *json) {
  if (json->error == NULL && peek(json) != 0) json_wrong(json, "something follows the end");
  return json->error == NULL;
}

// The four digits of \uXXXX.
static bool hex4(json_t *json, uint32_t *unit) {
  if (json->end - json->at < 4) return json_wrong(json, "\\u needs four digits");
  *unit = 0;
  for (int i = 0; i < 4; i++) {
    uint8_t digit = *json->at++;
    uint32_t value;
    if (digit >= '0' && digit <= '9') value = digit - '0';
    else if (digit >= 'a' && digit <= 'f') value = digit - 'a' + 10;
    else if (digit >= 'A' && digit <= 'F') value = digit - 'A' + 10;
    else return json_wrong(json, "\\u needs four digits");
    *unit = *unit << 4 | value;
  }
  return true;
}

static void append_character(policy_string_t *text, uint32_t code) {
  uint8_t bytes[4];
  size_t size;
  if (code < 0x80) {
    bytes[0] = code, size = 1;
  } else if (code < 0x800) {
    bytes[0] = 0xc0 | code >> 6, size = 2;
  } else if (code < 0x10000) {
    bytes[0] = 0xe0 | code >> 12, size = 3;
  } else {
    bytes[0] = 0xf0 | code >> 18, size = 4;
  }
  for (size_t i = 1; i < size; i++) bytes[i] = 0x80 | (code >> 6 * (size - 1 - i) & 0x3f);
  gavel_append(text, (policy_string_t){bytes, size});
}

// \uXXXX, or the two of them that stand for one character beyond U+FFFF.
static bool unicode(json_t *json, policy_string_t *text) {
  uint32_t code, low;
  if (!hex4(json, &code)) return false;
  if (code >= 0xdc00 && code <= 0xdfff) return json_wrong(json, "half a character");
  if (code >= 0xd800 && code <= 0xdbff) {
    if (json->end - json->at < 2 || json->at[0] != '\\' || json->at[1] != 'u') return json_wrong(json, "half a character");
    json->at += 2;
    if (!hex4(json, &low)) return false;
    if (low < 0xdc00 || low > 0xdfff) return json_wrong(json, "half a character");
    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
  }
  append_character(text, code);
  return true;
}

static bool escape(json_t *json, policy_string_t *text) {
  static const char known[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
  if (json->at == json->end) return json_wrong(json, "a string does not end");
  uint8_t character = *json->at++;
  if (character == 'u') return unicode(json, text);
  for (size_t i = 0; i < sizeof known - 1; i++) {
    if (character == known[i]) {
      append_character(text, meant[i]);
      return true;
    }
  }
  return json_wrong(json, "an escape that JSON does not have");
}

bool json_string(json_t *json, policy_string_t *value) {
  *value = (policy_string_t){0};
  if (!take(json, '"', "a string is expected")) return false;
  while (json->error == NULL) {
    const uint8_t *from = json->at;
    while (json->at < json->end && *json->at >= 0x20 && *json->at != '"' && *json->at != '\\') json->at++;
    gavel_append(value, (policy_string_t){(uint8_t *)from, json->at - from});
    if (json->at == json->end) {
      json_wrong(json, "a string does not end");
    } else if (*json->at == '"') {
      json->at++;
      return true;
    } else if (*json->at != '\\') {
      json_wrong(json, "a control character in a string");
    } else {
      json->at++;
      escape(json, value);
    }
  }
  policy_string_free(value);
  return false;
}
