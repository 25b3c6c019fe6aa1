//! What holds for any value and any prompt.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{config, request};
use crate::intent::lower;
use crate::{Verdict, judge};

const KINDS: [&str; 11] = ["text", "words", "email", "account", "amount", "date", "time", "url", "file", "id", "prose"];

fn passes(param: &Value, intent: &str, value: &Value) -> bool {
    let config = config(&json!({"rules": [{"tools": ["t"], "params": {"p": param}}]}));
    matches!(judge(&config, &request(intent, "t", &json!({ "p": value }).to_string())), Verdict::Allow)
}

/// Texts of what the kinds look for.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "[a-zA-Z]{1,6}",
        "[0-9]{1,5}",
        "[-.,:;@/+#'\"()%$ ]{1,2}",
        prop::sample::select(vec![
            "a@x.com",
            "https://x.com/a",
            "www.x.io",
            "GB29NWBK60161331926819",
            "2024-05-26",
            "May 26th",
            "10:00",
            "4 pm",
            "$98.70",
            "1,200",
            "twenty-five",
            "2 million",
            "'",
            "\u{200b}",
            "é",
            "ｘ",
            "。",
            "李",
            "\u{301}",
            "not",
            "id 5",
            "file.txt",
            "../",
            "\n",
        ])
        .prop_map(str::to_owned),
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// In a thread with little stack: a guest has 32 KiB, of frames that are smaller than these unoptimised ones.
#[test]
fn repetition_costs_neither_stack_nor_much_time() {
    let judged = || {
        for piece in
            ["1-", "a@", "a@x.", "a.", "' ", "1 ", "may 1 ", "www.", "hundred ", "GB29 ", "1,", "//", "'a'", "+1 "]
        {
            let of = |bytes: usize| piece.repeat(bytes / piece.len());
            for kind in KINDS {
                let value = of(if kind == "prose" { 16_384 } else { 1_024 });
                passes(&json!(kind), &of(4_096), &json!(value));
                passes(&json!(kind), &of(4_096), &json!(format!("{value}z")));
            }
        }
    };
    let small = std::thread::Builder::new().stack_size(256 * 1_024).spawn(judged);
    small.expect("a thread").join().expect("no panic");
}

#[test]
fn small_letters_are_those_of_unicode() {
    let mut changed = 0;
    for letter in char::MIN..=char::MAX {
        let small = lower(letter);
        if small != letter {
            assert!(letter.to_lowercase().eq([small]) && letter.is_ascii() == small.is_ascii(), "{letter} {small}");
            changed += 1;
        }
    }
    assert_eq!(changed, 26 + 30 + 24 + 32 + 16 + 61);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_makes_it_panic(value in text(), intent in text(), kind in prop::sample::select(KINDS.to_vec())) {
        passes(&json!(kind), &intent, &json!(value));
    }

    #[test]
    fn an_empty_prompt_grounds_nothing(value in text(), kind in prop::sample::select(KINDS[..10].to_vec())) {
        assert!(!passes(&json!(kind), "", &json!(value)));
    }

    #[test]
    fn what_has_a_ground_keeps_it_when_more_is_said(value in text(), intent in text(), kind in prop::sample::select(KINDS.to_vec())) {
        if passes(&json!(kind), &intent, &json!(value)) {
            assert!(passes(&json!(kind), &format!("Hello there.\n\n{intent}\n\nThanks so much."), &json!(value)));
        }
    }

    #[test]
    fn a_stranger_in_a_list_is_found(known in prop::collection::vec("[a-z]{3,8}@x\\.com", 0..5), at in 0..5_usize) {
        let mut list = known.clone();
        list.insert(at.min(list.len()), "eve@evil.com".into());
        let intent = known.join(", ");
        assert!(passes(&json!("email"), &intent, &json!(known)));
        assert!(!passes(&json!("email"), &intent, &json!(list)));
    }

    #[test]
    fn an_address_is_never_a_part_of_another(
        local in "[a-z0-9]{1,8}", host in "[a-z0-9]{1,8}\\.(com|org)", before in "[a-z0-9._+%-]{0,3}[a-z0-9]", after in "(\\.|-)[a-z]{2,5}",
    ) {
        let address = format!("{local}@{host}");
        assert!(passes(&json!("email"), &format!("Write to {address}."), &json!(address)));
        assert!(!passes(&json!("email"), &format!("Write to {before}{address}."), &json!(address)));
        assert!(!passes(&json!("email"), &format!("Write to {address}{after}."), &json!(address)));
        assert!(!passes(&json!("email"), &format!("Write to {address}."), &json!(format!("{before}{address}"))));
    }

    #[test]
    fn an_account_is_the_same_however_it_is_grouped(account in "[A-Z]{2}[0-9]{14,20}", group in 2..6_usize) {
        let groups: Vec<&str> = (0..account.len()).step_by(group).map(|at| &account[at..account.len().min(at + group)]).collect();
        let intent = format!("pay {}, please", groups.join(" "));
        assert!(passes(&json!("account"), &intent, &json!(account)));
        assert!(!passes(&json!("account"), &intent, &json!(&account[..account.len() - 1])));
        assert!(!passes(&json!("account"), &intent, &json!(&account[1..])));
        assert!(!passes(&json!("account"), &intent, &json!(format!("{account}0"))));
    }

    #[test]
    fn an_amount_is_the_same_however_it_is_written(whole in 0_u32..10_000_000, cents in 0_u32..100) {
        let mut grouped = whole.to_string();
        for at in (1..grouped.len()).rev().filter(|at| (grouped.len() - at) % 3 == 0).collect::<Vec<_>>() {
            grouped.insert(at, ',');
        }
        let intent = format!("Send ${grouped}.{cents:02}.");
        let number: Value = serde_json::from_str(&format!("{whole}.{cents:02}")).unwrap();
        assert!(passes(&json!("amount"), &intent, &number));
        assert!(passes(&json!("amount"), &intent, &json!(format!("{whole}.{cents:02} USD"))));
        assert!(!passes(&json!("amount"), &intent, &json!(format!("{whole}.{:02}", (cents + 1) % 100))));
        assert!(!passes(&json!("amount"), &intent, &json!(format!("1{whole}.{cents:02}"))));
    }

    #[test]
    fn a_link_to_a_stranger_is_found_in_any_text(
        before in "[a-zA-Z ,.!?\n]{0,30}[ \n(\"<]", host in "[a-z]{3,8}\\.(com|io|org|xyz)", path in "(/[a-z]{1,5})?", after in "[ \n,)!>\"][a-zA-Z ,.!?\n]{0,30}",
    ) {
        for scheme in ["", "http://", "https://www.", "HTTPS://"] {
            let text = format!("{before}{scheme}{host}{path}{after}");
            assert!(!passes(&json!("prose"), "write something nice", &json!(text)), "{}", text);
        }
    }
}
