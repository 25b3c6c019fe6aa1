// A small strict reader of JSON: objects, arrays and strings, in the order in which they stand.
//
//   json_t json = json_begin(text);
//   json_object(&json);
//   while (json_key(&json, &key)) {
//     json_array(&json);
//     while (json_item(&json)) json_string(&json, &value);
//   }
//   json_end(&json);
//   if (json.error) ...
//
// After the first error everything answers false and `error` keeps saying what it was.

#ifndef JSON_H
#define JSON_H

#include "gavel.h"

typedef struct {
  const uint8_t *at, *end;
  const char *error;  // the first one, or NULL
  bool first;         // the next key or item is the first, so no comma comes before it
} json_t;

json_t json_begin(policy_string_t text);
// Go into an object or an array.
bool json_object(json_t *json);
bool json_array(json_t *json);
// Go on to the next; false when there is none, and then one is out of the object or array.
bool json_key(json_t *json, policy_string_t *key);
bool json_item(json_t *json);
// `value`, like `key` above, is a text of one's own; when the answer is false it is empty.
bool json_string(json_t *json, policy_string_t *value);
// Nothing must follow.
bool json_end(json_t *json);
// Say that what was read is not what was wanted.
bool json_wrong(json_t *json, const char *error);

#endif
