//! Each kind of value: what people write for the same, and what an attacker writes to be taken for it.

use serde_json::{Value, json};

use super::{config, request};
use crate::{Verdict, judge};

/// Has `value` a ground in `intent` as `param`?
fn has_ground(param: &Value, intent: &str, value: &Value) -> bool {
    let config = config(&json!({"rules": [{"tools": ["t"], "params": {"p": param}}]}));
    match judge(&config, &request(intent, "t", &json!({ "p": value }).to_string())) {
        Verdict::Allow => true,
        Verdict::Escalate(_) => false,
        other => panic!("{param} {value}: {other:?}"),
    }
}

#[track_caller]
fn check(param: &Value, intent: &str, grounded: &[&str], ungrounded: &[&str]) {
    for value in grounded {
        assert!(has_ground(param, intent, &json!(value)), "{param}: {value:?} has a ground in {intent:?}");
    }
    for value in ungrounded {
        assert!(!has_ground(param, intent, &json!(value)), "{param}: {value:?} has no ground in {intent:?}");
    }
}

#[test]
fn texts() {
    let intent = "Ask Sarah Baker's team (O'Neill & Sons, Café Alba) about the \"Dental check-up\", write to apple.com for all, 'Al' too.";
    check(
        &json!("text"),
        intent,
        &[
            "Sarah Baker",
            "sarah  baker",
            "BAKER",
            "Baker's",
            "Café Alba",
            "Dental check-up",
            "dental check up",
            "O’Neill",
            "Al",
            "#alba",
            "Sons.",
        ],
        &[
            "Sara",
            "Baker Sarah",
            "Cafe Alba",
            "Cafe\u{301} Alba",
            "apple",
            "all",
            "the",
            "a",
            "",
            " ",
            "\u{200b}",
            "*",
            "Sarah*",
            "Sarah/Baker",
            "Sаrah",
            "Sarah Baker evil",
            "Dental\ncheck-up",
            "B",
            "check_up",
            "t\u{212a}",
            "Sarah\u{202e}",
        ],
    );
    // No letter beyond ASCII becomes an ASCII one.
    check(&json!("text"), "Ask Kim", &["kim"], &["\u{212a}im"]);
    check(&json!("text"), "问李明", &["问李明"], &["李"]);
    let hotel = json!({"kind": "text", "optional": ["hotel", "the"]});
    check(
        &hotel,
        "book Riverside View",
        &["The Riverside View Hotel", "riverside view"],
        &["hotel", "the hotel", "Riverside Hotel View Inn"],
    );
    check(&json!("words"), "invite Sarah to lunch", &["Lunch with Sarah"], &["Lunch with Eve", "with the", "<lunch>"]);
}

#[test]
fn emails() {
    let intent =
        "Write to A.Lee@Example.org, then (tim+x@y.co.uk). Also <o'brien@pub.ie>; not-bob@z.com mailto:eve@w.com.";
    check(
        &json!("email"),
        intent,
        &[
            "a.lee@example.org",
            "A.LEE@EXAMPLE.ORG",
            "tim+x@y.co.uk",
            "not-bob@z.com",
            "eve@w.com",
            "a.lee@example.org, eve@w.com",
        ],
        &[
            "lee@example.org",
            "bob@z.com",
            "brien@pub.ie",
            "a.lee@example.org.evil.com",
            "evil-a.lee@example.org",
            "a.lee@example.org evil@x.com",
            "a.lee@example.or",
            "a.lee@examp1e.org",
            "а.lee@example.org",
            "\"x\" <a.lee@example.org>",
            "a.lee@example.org\nBcc: e@x.com",
            "a.lee",
            "@example.org",
            "x@y",
            "co.uk",
            "",
            "a.lee@example.org%x.com",
            "a.lee@example.org@x.com",
            "a.lee@@example.org",
        ],
    );
    let own = json!({"kind": "email", "allow": ["*@acme.com"]});
    check(
        &own,
        "write",
        &["Tim@Acme.com", "a@acme.com;b@acme.com"],
        &[
            "a@sub.acme.com",
            "a@x.com,b@acme.com",
            "a@x.com@acme.com",
            "a@acme.com.evil.com",
            "\"a@x.com \"@acme.com",
            "x%y.com@acme.com",
            "a@x.com\u{0}@acme.com",
            "@acme.com",
        ],
    );
    let named = json!({"kind": "email", "named": true});
    check(
        &named,
        "invite Sarah Baker and Mark",
        &["sarah.baker@gmail.com", "Sarah_Baker@x.com"],
        &["mark@x.com", "mark.black@x.com", "sarah.baker2@x.com", "sarahbaker@x.com"],
    );
}

#[test]
fn accounts() {
    let intent =
        "Pay GB29 NWBK 6016 1331 9268 19 (or 12-34-56 7890), from US122000000121212121212. Call +1 (555) 123-4567.";
    check(
        &json!("account"),
        intent,
        &[
            "GB29NWBK60161331926819",
            "gb29-nwbk-6016-1331-9268-19",
            "US122000000121212121212",
            "1234567890",
            "+15551234567",
        ],
        &[
            "60161331926819",
            "GB29NWBK6016133192681",
            "6016 1331",
            "US12200000012121212121",
            "22000000121212121212",
            "1234",
            "567890",
            "5551234567x",
            "GB29NWBK60161331926819,US1",
            "PLEASE",
        ],
    );
    check(
        &json!({"kind": "account", "allow": ["GB29*"]}),
        "pay",
        &["GB29 NWBK 6016"],
        &["XGB29NWBK6016", "GB30NWBK6016"],
    );
}

#[test]
fn amounts() {
    let intent = "Pay $98.70 or 1,200.00 EUR, 10k, two hundred and fifty dollars, a thousand, twenty-five, €1.234,5, -7 and 50-60 on 2021-03-04 at 12:00; 30%, 40 percent, 3rd, file-77.txt, #88, 5 million, 1-hour. Ref AB99.";
    check(
        &json!("amount"),
        intent,
        &[
            "98.7", "98.70", "$98.7", "9.87e1", "1200", "1,200", "EUR 1200", "10000", "250", "25", "1000", "1234.5",
            "-7", "50", "60", "5000000", "5e6", "1",
        ],
        &[
            "98", "7", "70", "8.7", "2021", "3", "4", "04", "12", "30", "40", "77", "88", "99", "200", "", "1e400",
            "NaN", "98.70 99", "10%", "5", "+", "--7", "0x62",
        ],
    );
    let limited = json!({"kind": "amount", "at_most": 99.5});
    check(
        &limited,
        "pay",
        &["0", "99.5", "99.50", "12 EUR", "1e1"],
        &["99.51", "-1", "1e2", "100", "9".repeat(50).as_str()],
    );
    for (value, is) in [(json!(98.7), true), (json!(98.70), true), (json!(98), false), (json!(true), false)] {
        assert_eq!(has_ground(&json!("amount"), intent, &value), is, "{value}");
    }
}

#[test]
fn days_and_times() {
    let intent = "From May 26th, 2024 at 10:30 to the 3rd of June at 4 pm, or 12-16 August, 24.12.2025, 2025/11/09, 1/2/2026, on a Sunday at noon; 31 February.";
    check(
        &json!("date"),
        intent,
        &[
            "2024-05-26",
            "2024-05-26 10:00",
            "2024-05-26T10:00:00Z",
            "May 26",
            "26 May 2024",
            "2030-06-03",
            "2024-08-12",
            "2024-08-16",
            "2025-12-24",
            "2025-11-09",
            "2026-02-01",
            "2026-01-02",
            "2024-05-05", // a Sunday
        ],
        &[
            "2023-05-26",
            "2024-05-25",
            "2024-08-13",
            "2024-12-05",
            "2024-02-31",
            "26",
            "May",
            "2024",
            "",
            "2024-05-26; rm",
            "2024-05-26 or 2024-05-27",
            "10:30",
        ],
    );
    check(&json!("date"), "see you tomorrow", &["2026-01-06"], &["2026-01-09", "2026-01-03"]);
    check(
        &json!("time"),
        intent,
        &["10:30", "2024-01-01 10:30", "2024-01-01T16:00:00Z", "4pm", "4:00 p.m.", "12:00", "10:30:00"],
        &["10:31", "22:30", "04:00", "26", "2024-05-26", "", "10:30 16:00", "10:30:01"],
    );
}

#[test]
fn urls() {
    let intent = "Post it on www.Our-Company.com, read https://git.example/our/repo/ and 'http://x.io/a?b=1'.";
    check(
        &json!("url"),
        intent,
        &[
            "http://our-company.com",
            "https://www.our-company.com/",
            "our-company.com:443",
            "https://git.example/our/repo",
            "x.io/a?b=1",
        ],
        &[
            "https://our-company.com.evil.io",
            "https://evil.io/our-company.com",
            "https://our-company.com@evil.io",
            "https://our-company.com/x",
            "https://git.example/our",
            "https://git.example/our/repo/x",
            "http://x.io/a",
            "http://x.io/a?b=1&c=2",
            "http://x.io/a?b=12",
            "javascript:our-company.com",
            "ftp://our-company.com",
            "our-company.com:8080",
            "https://our-company.com\\@evil.io",
            "https://sub.our-company.com",
            "https://our-cоmpany.com",
            "company.com",
            "",
        ],
    );
    check(
        &json!({"kind": "url", "below": true}),
        intent,
        &["our-company.com/x/y?z", "git.example/our/repo/x"],
        &["git.example/our/repository", "our-company.com/../x", "git.example/our/repo/%2e%2e/x"],
    );
    let allowed = json!({"kind": "url", "allow": ["*.acme.com", "git.example/our/*"]});
    check(
        &allowed,
        "post it",
        &["https://a.acme.com/x", "git.example/our/x?y"],
        &[
            "acme.com",
            "https://evil.io/x.acme.com",
            "https://evil.io?.acme.com",
            "https://evil.io#.acme.com",
            "git.example/our/../evil",
            "git.example/evil",
            "https://a.acme.com:8443/",
        ],
    );
}

#[test]
fn files() {
    let intent = "Read 'bill-2023.txt' and docs/Plan.md, then my secret/keys.pem, report.pdf.exe and the 'q' folder.";
    check(
        &json!("file"),
        intent,
        &["bill-2023.txt", "BILL-2023.TXT", "./bill-2023.txt", "docs/plan.md", "secret/keys.pem", "q"],
        &[
            "2023.txt",
            "bill",
            "plan.md",
            "keys.pem",
            "report.pdf",
            "../bill-2023.txt",
            "/etc/bill-2023.txt",
            "docs/../bill-2023.txt",
            "docs\\plan.md",
            "~/bill-2023.txt",
            "e",
            "the",
            "",
            "file:bill-2023.txt",
        ],
    );
    check(&json!({"kind": "file", "allow": ["docs/**"]}), "read", &["docs/a/b"], &["/docs/a", "docs/../a", "doc/a"]);
}

#[test]
fn ids() {
    let intent = "In 5 hours show event id 7, no. 8, #9 and ticket 10; set the password to '1j1l-2k3j' or use AB-123 and 4711000, 'pass'.";
    check(
        &json!("id"),
        intent,
        &["7", "8", "9", "1j1l-2k3j", "AB-123", "4711000", "pass"],
        &["5", "10", "1j1l", "ab-123", "123", "B-123", "4711", "password", "new_password", "id", ""],
    );
    check(&json!({"kind": "id", "labels": ["ticket"]}), intent, &["10"], &["5"]);
    check(&json!({"kind": "listed", "allow": ["r", ""]}), "rw", &["r", ""], &["rw", "R", "r "]);
}

#[test]
fn values_beside_other_words() {
    let intent = "Send GB29NWBK60161331926819 50 EUR, or 12345678 50, and read www.our-company.com's news. Mail bob@x.com's boss.";
    check(&json!("account"), intent, &["GB29NWBK60161331926819"], &["GB29NWBK601613319268", "12345678"]);
    check(&json!("url"), intent, &["our-company.com"], &["our-company.com's"]);
    check(&json!("email"), intent, &["bob@x.com"], &["bob@x.com's"]);
    check(&json!("amount"), intent, &["50"], &["12345678.5"]);
}

#[test]
fn between_two_quotations_nothing_is_quoted() {
    check(&json!("text"), "the 'one' and 'other'", &["one"], &[" and ", "and", ","]);
    check(&json!("id"), "the 'one' and 'other'", &["one"], &[" and ", "and", " one"]);
}

#[test]
fn prose() {
    let intent = "Send the news of www.our-company.com to bob@x.com and pay GB29NWBK60161331926819; my number is +44 20 7946 0958.";
    check(
        &json!("prose"),
        intent,
        &[
            "",
            "Hi Bob,\n\nsee you at 10:00! e.g. tomorrow, i.e. soon...\tOK?",
            "Hello.How are you?",
            "file.txt, notes.md, main.rs v1.2.3",
            "50/50 and/or 3.5/5",
            "See https://our-company.com/ now",
            "our-company.com.",
            "bob@x.com",
            "GB29 NWBK 6016 1331 9268 19 thanks a lot",
            "IBAN:GB29NWBK60161331926819",
            "call +44 20 7946 0958",
            "❤️ @bob #all a @ b",
        ],
        &[
            "www.evil",
            "https://evil.com",
            "see evil.com",
            "(evil.com/x)",
            "our-company.com/x",
            "our-company.com.evil.io",
            "HTTPS://EVIL.COM",
            "ｅｖｉｌ.com",
            "evil。com",
            "e\u{200b}vil.com",
            "[click](http://evil.com)",
            "<a href='http://evil.com'>",
            "eve@evil.com",
            "mailto:eve@evil.com",
            "xbob@x.com",
            "US133000000121212121212",
            "US13 3000 0001 2121 2121 212 now",
            "call +1 555 123 4567",
            "x:evil.com",
            "10.0.0.1",
            "ftp://our-company.com",
            "our-company.com@evil.io",
            "bob@x.com.evil.io",
            "evil.md/x",
            "пример.рф",
            "see\u{a0}evil.com",
        ],
    );
    let own = json!({"kind": "prose", "allow": ["*@acme.com", "*.acme.com", "DE*"]});
    check(
        &own,
        "write",
        &["a@acme.com wiki.acme.com/x DE89370400440532013000"],
        &["a@acme.org", "acme.com.evil.io", "FR7630006000011234567890189"],
    );
}
