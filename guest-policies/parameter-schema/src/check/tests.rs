//! The essential cases of the official test suite of JSON Schema, keyword by keyword: a schema, values that fit it, and
//! values that do not with the keyword that says so.

use super::*;
use crate::read::read;

/// `None` when the value fits.
fn misfit(schema: &str, value: &str) -> Option<Misfit> {
    let json = Json::parse(schema).unwrap_or_else(|wrong| panic!("{schema}: {wrong}"));
    let schema = read(&json).unwrap_or_else(|refused| panic!("{schema}: {refused:?}"));
    check(&schema, &Json::parse(value).unwrap_or_else(|wrong| panic!("{value}: {wrong}"))).err()
}

/// A schema, values that fit, and values with the keyword that refuses them.
type Case = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

fn all(cases: &[Case]) {
    for (schema, fits, others) in cases {
        for value in *fits {
            assert_eq!(misfit(schema, value), None, "{schema} {value}");
        }
        for (value, keyword) in *others {
            let misfit = misfit(schema, value).unwrap_or_else(|| panic!("{value} fits {schema}"));
            assert_eq!(misfit.keyword, *keyword, "{schema} {value}: {}", misfit.why);
        }
    }
}

#[test]
fn types() {
    all(&[
        ("true", &["1", "null", "{}"], &[]),
        ("false", &[], &[("1", "false"), ("{}", "false")]),
        ("{}", &["1", "[]"], &[]),
        (
            r#"{"type":"integer"}"#,
            &["1", "1.0", "-0", "1e3", "10e-1"],
            &[("1.1", "type"), ("\"1\"", "type"), ("true", "type"), ("1e-1", "type")],
        ),
        (r#"{"type":"number"}"#, &["1", "1.1"], &[("\"1\"", "type"), ("null", "type")]),
        (r#"{"type":"string"}"#, &["\"\"", "\"1\""], &[("1", "type"), ("[]", "type")]),
        (r#"{"type":"object"}"#, &["{}"], &[("[]", "type"), ("null", "type")]),
        (r#"{"type":"array"}"#, &["[]"], &[("{}", "type")]),
        (r#"{"type":"boolean"}"#, &["true", "false"], &[("0", "type"), ("\"\"", "type")]),
        (r#"{"type":"null"}"#, &["null"], &[("0", "type"), ("false", "type")]),
        (r#"{"type":["integer","string"]}"#, &["1", "\"a\""], &[("1.5", "type"), ("null", "type")]),
    ]);
}

#[test]
fn choices() {
    all(&[
        (r#"{"enum":[1,2,3]}"#, &["1", "2.0"], &[("4", "enum"), ("\"1\"", "enum")]),
        (
            r#"{"enum":[6,"foo",[],true,{"foo":12}]}"#,
            &["[]", r#"{"foo":12.0}"#],
            &[("null", "enum"), (r#"{"foo":false}"#, "enum"), (r#"{"foo":12,"boo":42}"#, "enum")],
        ),
        (r#"{"enum":[false]}"#, &["false"], &[("0", "enum"), ("0.0", "enum"), ("[false]", "enum")]),
        (r#"{"enum":[[0]]}"#, &["[0]", "[0.0]"], &[("[false]", "enum"), ("0", "enum")]),
        (r#"{"const":2}"#, &["2", "2.0"], &[("5", "const"), ("\"a\"", "const")]),
        (
            r#"{"const":{"a":1,"b":[2]}}"#,
            &[r#"{"b":[2],"a":1}"#],
            &[("{}", "const"), (r#"{"a":1,"b":[2,3]}"#, "const")],
        ),
        (r#"{"const":null}"#, &["null"], &[("0", "const")]),
        (r#"{"const":9007199254740992}"#, &["9007199254740992"], &[("9007199254740993", "const")]),
        (r#"{"const":"a\u0000b"}"#, &[r#""a\u0000b""#], &[(r#""ab""#, "const")]),
    ]);
}

#[test]
fn numbers() {
    all(&[
        (r#"{"minimum":1.1}"#, &["2.6", "1.1", "\"x\""], &[("0.6", "minimum")]),
        (r#"{"minimum":-2}"#, &["-1", "0", "-2", "-2.0"], &[("-2.0001", "minimum"), ("-3", "minimum")]),
        (r#"{"maximum":300}"#, &["299.97", "300", "300.00"], &[("300.5", "maximum"), ("1e3", "maximum")]),
        (r#"{"exclusiveMinimum":1.1}"#, &["1.2"], &[("1.1", "exclusiveMinimum"), ("0.6", "exclusiveMinimum")]),
        (r#"{"exclusiveMaximum":3.0}"#, &["2.2"], &[("3.0", "exclusiveMaximum"), ("3.5", "exclusiveMaximum")]),
        (r#"{"multipleOf":2}"#, &["10", "0", "-4", "\"x\""], &[("7", "multipleOf")]),
        (r#"{"multipleOf":1.5}"#, &["0", "4.5"], &[("35", "multipleOf")]),
        (r#"{"multipleOf":0.0001}"#, &["0.0075"], &[("0.00751", "multipleOf")]),
        (r#"{"multipleOf":0.01}"#, &["19.99", "4.35", "1.1"], &[("19.999", "multipleOf")]),
        (r#"{"type":"integer","multipleOf":0.123456789}"#, &[], &[("1e308", "multipleOf")]),
        (r#"{"maximum":18446744073709551600}"#, &["18446744073709551600"], &[("18446744073709551601", "maximum")]),
        (
            r#"{"exclusiveMaximum":972783798187987123879878123.18878137}"#,
            &["972783798187987123879878123.18878136"],
            &[("972783798187987123879878123.188781371", "exclusiveMaximum")],
        ),
    ]);
}

#[test]
fn texts() {
    all(&[
        (
            r#"{"minLength":2}"#,
            &["\"foo\"", "\"fo\"", "1"],
            &[("\"f\"", "minLength"), (r#""\ud83d\udca9""#, "minLength")],
        ),
        (r#"{"maxLength":2}"#, &["\"f\"", "\"fo\"", r#""\ud83d\udca9\ud83d\udca9""#], &[("\"foo\"", "maxLength")]),
        (r#"{"minLength":2.0}"#, &["\"fo\""], &[("\"f\"", "minLength")]),
        (r#"{"pattern":"^a*$"}"#, &["\"aaa\"", "true", "123", "{}"], &[("\"abc\"", "pattern")]),
        (r#"{"pattern":"a+"}"#, &["\"xxaayy\""], &[("\"xx\"", "pattern")]),
        (r#"{"format":"date"}"#, &["\"1963-06-19\"", "12"], &[("\"06/19/1963\"", "format")]),
        (
            r#"{"format":"uuid"}"#,
            &["\"2EB8AA08-AA98-11EA-B4AA-73B441D16380\""],
            &[("\"2eb8aa08-aa98-11ea-b4aa-73b441d1638\"", "format")],
        ),
    ]);
}

#[test]
fn lists() {
    all(&[
        (r#"{"items":{"type":"integer"}}"#, &["[1,2,3]", "[]", "{\"foo\":1}"], &[("[1,\"x\"]", "type")]),
        (r#"{"items":false}"#, &["[]"], &[("[1]", "false")]),
        (
            r#"{"prefixItems":[{"type":"integer"},{"type":"string"}]}"#,
            &["[1,\"foo\"]", "[1]", "[1,\"foo\",true]", "[]"],
            &[("[\"foo\",1]", "type")],
        ),
        (
            r#"{"prefixItems":[{"type":"string"}],"items":{"type":"integer"}}"#,
            &["[\"x\",2,3]", "[\"x\"]"],
            &[("[\"x\",\"y\"]", "type"), ("[1]", "type")],
        ),
        (r#"{"prefixItems":[true,false]}"#, &["[1]", "[]"], &[("[1,2]", "false")]),
        (r#"{"prefixItems":[{}],"items":false}"#, &["[1]"], &[("[1,2]", "false")]),
        (r#"{"minItems":1}"#, &["[1]", "[1,2]", "\"\""], &[("[]", "minItems")]),
        (r#"{"maxItems":2}"#, &["[1]", "[1,2]", "\"foobar\""], &[("[1,2,3]", "maxItems")]),
        (
            r#"{"uniqueItems":true}"#,
            &[
                "[1,2]",
                "[1,true]",
                "[0,false]",
                r#"[{"a":1},{"a":2}]"#,
                r#"["1",1]"#,
                "[[1],[true]]",
                "[{},[]]",
                r#"["a\"","a"]"#,
            ],
            &[
                ("[1,1]", "uniqueItems"),
                ("[1.0,1.00,1]", "uniqueItems"),
                (r#"[{"a":1,"b":2},{"b":2,"a":1}]"#, "uniqueItems"),
                ("[[\"foo\"],[\"foo\"]]", "uniqueItems"),
            ],
        ),
        (r#"{"uniqueItems":false}"#, &["[1,1]"], &[]),
    ]);
}

#[test]
fn objects() {
    all(&[
        (
            r#"{"properties":{"foo":{"type":"integer"},"bar":{"type":"string"}}}"#,
            &[r#"{"foo":1,"bar":"baz"}"#, r#"{"quux":[]}"#, "[]", "12"],
            &[(r#"{"foo":1,"bar":{}}"#, "type"), (r#"{"foo":[]}"#, "type")],
        ),
        (
            r#"{"properties":{"foo":{"type":"array","maxItems":3},"bar":{"type":"array"}},
                "patternProperties":{"f.o":{"minItems":2}},"additionalProperties":{"type":"integer"}}"#,
            &[r#"{"foo":[1,2]}"#, r#"{"bar":[]}"#, r#"{"fxo":[1,2]}"#, r#"{"quux":3}"#],
            &[
                (r#"{"foo":[1,2,3,4]}"#, "maxItems"),
                (r#"{"foo":[]}"#, "minItems"),
                (r#"{"fxo":[]}"#, "minItems"),
                (r#"{"quux":"foo"}"#, "type"),
            ],
        ),
        (r#"{"properties":{"foo":true,"bar":false}}"#, &["{}", r#"{"foo":1}"#], &[(r#"{"bar":2}"#, "false")]),
        (
            r#"{"properties":{"foo":{}},"patternProperties":{"^v":{}},"additionalProperties":false}"#,
            &[r#"{"foo":1}"#, r#"{"foo":1,"vroom":2}"#, "[1]", "\"foobar\""],
            &[(r#"{"foo":1,"quux":"boom"}"#, "additionalProperties")],
        ),
        (r#"{"additionalProperties":{"type":"boolean"}}"#, &[r#"{"foo":true}"#], &[(r#"{"foo":1}"#, "type")]),
        (
            r#"{"properties":{"foo":{}},"required":["foo"]}"#,
            &[r#"{"foo":1}"#, "[]", "\"\""],
            &[(r#"{"bar":1}"#, "required"), ("{}", "required")],
        ),
        (
            r#"{"required":["foo\nbar","__proto__"]}"#,
            &[r#"{"foo\nbar":1,"__proto__":1}"#],
            &[(r#"{"foo\nbar":1}"#, "required")],
        ),
        (
            r#"{"minProperties":1,"maxProperties":2}"#,
            &[r#"{"a":1}"#, r#"{"a":1,"b":2}"#, "[]"],
            &[("{}", "minProperties"), (r#"{"a":1,"b":2,"c":3}"#, "maxProperties")],
        ),
        (
            r#"{"patternProperties":{"a*":{"type":"integer"},"aaa*":{"maximum":20}}}"#,
            &[r#"{"a":21}"#, r#"{"aaaa":18}"#],
            &[(r#"{"aaaa":31}"#, "maximum"), (r#"{"aaa":"bar"}"#, "type")],
        ),
    ]);
}

#[test]
fn combinations() {
    all(&[
        (
            r#"{"allOf":[{"properties":{"bar":{"type":"integer"}},
                "required":["bar"]},{"properties":{"foo":{"type":"string"}},"required":["foo"]}]}"#,
            &[r#"{"foo":"baz","bar":2}"#],
            &[
                (r#"{"foo":"baz"}"#, "required"),
                (r#"{"bar":2}"#, "required"),
                (r#"{"foo":"baz","bar":"quux"}"#, "type"),
            ],
        ),
        (r#"{"allOf":[true,false]}"#, &[], &[("1", "false")]),
        (r#"{"anyOf":[{"type":"integer"},{"minimum":2}]}"#, &["1", "2.5", "3"], &[("1.5", "anyOf")]),
        (r#"{"anyOf":[false,false]}"#, &[], &[("1", "anyOf")]),
        (
            r#"{"anyOf":[{"properties":{"bar":{"type":"integer"}},
                "required":["bar"]},{"properties":{"foo":{"type":"string"}},"required":["foo"]}]}"#,
            &[r#"{"bar":2}"#, r#"{"foo":"baz","bar":"x"}"#],
            &[(r#"{"foo":2,"bar":"quux"}"#, "anyOf")],
        ),
        (r#"{"oneOf":[{"type":"integer"},{"minimum":2}]}"#, &["1", "2.5"], &[("3", "oneOf"), ("1.5", "oneOf")]),
        (r#"{"oneOf":[true,true,false]}"#, &[], &[("1", "oneOf")]),
        (
            r#"{"oneOf":[{"required":["a"]},{"required":["b"]}]}"#,
            &[r#"{"a":1}"#, r#"{"b":1}"#],
            &[(r#"{"a":1,"b":1}"#, "oneOf"), ("{}", "oneOf")],
        ),
        (r#"{"not":{"type":"integer"}}"#, &["\"foo\""], &[("1", "not")]),
        (r#"{"not":{"not":{"type":"integer"}}}"#, &["1"], &[("\"x\"", "not")]),
        (r#"{"properties":{"foo":{"not":{}}}}"#, &[r#"{"bar":1}"#], &[(r#"{"foo":1}"#, "not")]),
        (
            r#"{"allOf":[{"multipleOf":2}],"anyOf":[{"multipleOf":3}],"oneOf":[{"multipleOf":5}]}"#,
            &["30"],
            &[("15", "multipleOf"), ("10", "anyOf"), ("6", "oneOf")],
        ),
    ]);
}

#[test]
fn references() {
    all(&[
        (
            r##"{"properties":{"foo":{"$ref":"#"}},"additionalProperties":false}"##,
            &[r#"{"foo":false}"#, r#"{"foo":{"foo":{}}}"#],
            &[(r#"{"bar":1}"#, "additionalProperties"), (r#"{"foo":{"bar":1}}"#, "additionalProperties")],
        ),
        (
            r##"{"$defs":{"a":{"type":"integer"},"b":{"$ref":"#/$defs/a"},"c":{"$ref":"#/$defs/b"}},
                "$ref":"#/$defs/c"}"##,
            &["5"],
            &[("\"a\"", "type")],
        ),
        (
            r##"{"$defs":{"reffed":{"type":"array"}},"properties":{"foo":{"$ref":"#/$defs/reffed","maxItems":2}}}"##,
            &[r#"{"foo":[]}"#],
            &[(r#"{"foo":[1,2,3]}"#, "maxItems"), (r#"{"foo":"x"}"#, "type")],
        ),
        (
            r##"{"$defs":{"node":{"type":"object","required":["value"],"properties":{"value":{"type":"number"},
                "children":{"type":"array","items":{"$ref":"#/$defs/node"}}}}},"$ref":"#/$defs/node"}"##,
            &[r#"{"value":1,"children":[{"value":2},{"value":3,"children":[]}]}"#],
            &[(r#"{"value":1,"children":[{"value":"x"}]}"#, "type"), (r#"{"value":1,"children":[{}]}"#, "required")],
        ),
        (r#"{"properties":{"$ref":{"type":"string"}}}"#, &[r#"{"$ref":"a"}"#], &[(r#"{"$ref":2}"#, "type")]),
    ]);
}

#[test]
fn places_and_words() {
    for (schema, value, at, why) in [
        (
            r#"{"properties":{"a/b":{"items":{"maximum":3}}}}"#,
            r#"{"a/b":[1,4]}"#,
            "/a~1b/1",
            "expected at most 3, found 4",
        ),
        (
            r#"{"properties":{"a":{"allOf":[{"properties":{"b":{"type":"string"}}},{"required":["c"]}]}}}"#,
            r#"{"a":{"b":"x"}}"#,
            "/a",
            "expected the property 'c', found none",
        ),
        (
            r#"{"items":{"anyOf":[{"type":"null"},{"properties":{"x":{"minimum":1}}}]}}"#,
            r#"[null,{"x":0}]"#,
            "/1",
            "fits none of 2 schemas; the closest: '/1/x': minimum: expected at least 1, found 0",
        ),
        (
            r#"{"prefixItems":[{"properties":{"y":{"properties":{"z":true}}}},{"type":"null"}]}"#,
            r#"[{"y":{"z":1}},2]"#,
            "/1",
            "expected null, found number",
        ),
        (r#"{"enum":["a",1,null]}"#, "\"b\"", "", "expected one of 'a', 1, null, found 'b'"),
        (r#"{"type":["string","null"]}"#, "{}", "", "expected null or string, found object"),
        (r#"{"maxLength":3}"#, "\"secret\"", "", "expected at most 3 characters, found 6"),
        (r#"{"minItems":1}"#, "[]", "", "expected at least 1 item, found 0"),
        (r#"{"pattern":"^x"}"#, "\"secret\"", "", "expected a match of ^x, found a text of 6 characters"),
        (r#"{"maximum":5}"#, "1111111111111111111111111", "", "expected at most 5, found a number of 25 digits"),
        (r#"{"uniqueItems":true}"#, "[1,2,1]", "", "items 0 and 2 are equal"),
    ] {
        let misfit = misfit(schema, value).expect(schema);
        assert_eq!((&*misfit.at, &*misfit.why), (at, why), "{schema} {value}");
    }
}

#[test]
fn a_value_that_should_be_short_is_not_repeated() {
    let long = format!("\"{}\"", "q".repeat(500));
    for schema in [
        r#"{"enum":["a"]}"#,
        r#"{"const":1}"#,
        r#"{"maxLength":3}"#,
        r#"{"format":"uuid"}"#,
        r#"{"type":"null"}"#,
        r#"{"not":{}}"#,
    ] {
        let misfit = misfit(schema, &long).expect(schema);
        assert!(!misfit.why.contains("qq"), "{}", misfit.why);
    }
}

/// The stack of the sandbox is 32 KiB, and frames of an optimized build are a fraction of those here.
#[test]
fn the_stack_is_bounded() {
    let deepest = || {
        let nots = r##"{"items":{"not":{"$ref":"#"}},"uniqueItems":true,"enum":[1]}"##;
        let any = r##"{"anyOf":[{"items":{"$ref":"#"},"minItems":1,"uniqueItems":true},{"const":[]}]}"##;
        for schema in [nots, any, r##"{"items":{"$ref":"#"},"uniqueItems":true}"##] {
            let _ = misfit(schema, &format!("{}{}", "[".repeat(64), "]".repeat(64)));
        }
    };
    std::thread::Builder::new().stack_size(512 << 10).spawn(deepest).expect("a thread").join().expect("no overflow");
}

/// Alternatives in a circle would take two to the depth of the value.
#[test]
fn work_and_depth_are_bounded() {
    let bomb = r##"{"anyOf":[{"items":{"$ref":"#"},"minItems":1},{"items":{"$ref":"#"},"maxItems":1,"minItems":1}]}"##;
    for depth in [15, 40] {
        let value = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let misfit = misfit(bomb, &value).expect("too deep, or no fit");
        assert_eq!(misfit.is_given_up, depth == 40, "{}", misfit.why);
    }
    let not = r##"{"items":{"not":{"$ref":"#"}}}"##;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(misfit(not, &deep(60)).expect("too deep").why.contains("nested deeper than 16"));
    // Without alternatives a value may be as deep as it can be read.
    assert_eq!(misfit(r##"{"items":{"$ref":"#"}}"##, &deep(64)), None);
    let wide = format!("[{}]", vec!["[1,2,3,4,5,6,7,8,9]"; 20_000].join(","));
    let six = r#"{"items":{"items":{"allOf":[{},{},{},{},{},{}]}}}"#;
    assert!(misfit(six, &wide).expect("too much").why.contains("more than 1000000 steps"));
}
