//! What the scanners find and what they pass by. Credentials here are made up, and put together from parts, so that no
//! other scanner takes this file for a leak.

use proptest::prelude::*;

use super::*;

/// The kind and the text of everything in a text, with every kind sought.
fn found(text: &str) -> Vec<(&'static str, String)> {
    found_of(text, "", Kinds::ALL)
}

fn found_of(text: &str, key: &str, kinds: Kinds) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut budget = Budget::new(1 << 22);
    scan(text, key, kinds, &mut budget, &mut |kind, range| {
        all.push((kind.about().name, String::from_utf8_lossy(&text.as_bytes()[range]).into_owned()));
    });
    assert!(!budget.is_exceeded());
    all
}

/// `%` stands for so many characters of a random look.
fn filled(pattern: &str) -> String {
    const RANDOM: &str = "q7Zr2Kd9Xw4Tn8Lc3Vb6Mf1Hs5Jg0PyAeUiOoQtYpRkWzNxBvDl7E3uC9Fa2Gh6Sj4Dk8Lm1Qw5Er0Ty";
    let mut text = pattern.to_owned();
    while let Some((head, rest)) = text.split_once('%') {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        let length: usize = digits.parse().expect("a length");
        text = format!("{head}{}{}", RANDOM.repeat(3)[..length].to_owned(), &rest[digits.len()..]);
    }
    text
}

#[test]
fn tokens_are_known_by_their_prefix() {
    for (kind, pattern) in [
        ("github-token", "ghp_%36"),
        ("github-token", "gho_%36"),
        ("github-token", "ghs_%36"),
        ("github-token", "github_pat_%22_%59"),
        ("gitlab-token", "glpat-%20"),
        ("slack-token", "xoxb-%40"),
        ("slack-token", "xapp-1-%40"),
        ("slack-token", "hooks.slack.com/services/T%9/B%9/%24"),
        ("stripe-key", "sk_live_%24"),
        ("stripe-key", "rk_live_%24"),
        ("stripe-key", "whsec_%32"),
        ("google-key", "AIza%35"),
        ("google-key", "GOCSPX-%28"),
        ("openai-key", "sk-%48"),
        ("openai-key", "sk-proj-%64"),
        ("anthropic-key", "sk-ant-api03-%80"),
        ("npm-token", "npm_%36"),
        ("pypi-token", "pypi-%80"),
        ("vendor-token", "hf_%34"),
        ("vendor-token", "SG.%22.%43"),
        ("vendor-token", "hvs.%30"),
    ] {
        let token = filled(pattern);
        for text in [token.clone(), format!("use {token}, please"), format!("(\"{token}\")"), format!("a_{token}\n")] {
            let all = found(&text);
            assert_eq!(all.len(), 1, "{text}: {all:?}");
            assert!(all[0].0 == kind && token.starts_with(&all[0].1), "{text}: {all:?}");
        }
        // A part of a word is none, and neither is a short one.
        assert_eq!(found(&format!("x{token}")).iter().filter(|(is, _)| *is == kind).count(), 0, "x{token}");
        assert_eq!(found(&token[..token.len().min(14)]), [], "{token}");
    }
    for text in [
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        "sk-learn-the-basics-of-machine-learning",
        "sk-",
        "glpat-",
        "xoxb-your-token",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn aws_keys() {
    let (id, secret) =
        (["AKIA", "Q7ZR2KD9XW4TN8LC"].concat(), ["wJq7/Zr2Kd9Xw4Tn8Lc3", "Vb6Mf1Hs5Jg0Py+AeUiO"].concat());
    assert_eq!(
        found(&format!("{id} {secret}")),
        [("aws-access-key-id", id.clone()), ("aws-secret-access-key", secret.clone())]
    );
    for name in ["aws_secret_access_key = ", "\"SecretAccessKey\": \"", "AWS_SECRET_ACCESS_KEY="] {
        assert_eq!(found(&format!("{name}{secret}")), [("aws-secret-access-key", secret.clone())], "{name}");
    }
    for text in ["AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7", "AKIAIOSFODNN7ABCDEFGHIJKLM", &secret] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn private_keys() {
    let dashes = "-----";
    let block = |label: &str| {
        format!("{dashes}BEGIN {label}{dashes}\n{}\n{}\n{dashes}END {label}{dashes}", filled("%64"), filled("%40"))
    };
    for label in ["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
        assert_eq!(found(&format!("x {} y", block(label))), [("private-key", block(label))]);
        assert_eq!(found(&block(label).replace('\n', "\\n")).len(), 1, "{label}");
        assert_eq!(found(&format!("{dashes}BEGIN {label}{dashes}\n")).len(), 1, "the rest is in the next text");
    }
    assert_eq!(found(&block("CERTIFICATE")), []);
    assert_eq!(found(&format!("Look for {dashes}BEGIN PRIVATE KEY{dashes} in the file, and remove it.")), []);
}

#[test]
fn signed_tokens() {
    let token =
        ["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", ".eyJzdWIiOiIxMjM0NTY3ODkwIn0", ".q7Zr2Kd9Xw4Tn8Lc3Vb6"].concat();
    assert_eq!(found(&format!("Bearer {token}.")), [("jwt", format!("{token}."))]);
    assert_eq!(found(&format!("jwt {token}")), [("jwt", token)]);
    for text in
        ["eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9", "eyJub25lIjoxfQ.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc", "eyJ.eyJ.eyJ"]
    {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn passwords_in_urls() {
    for (text, password) in [
        ("postgres://app:Tr0ub4dor@db.local:5432/x", "Tr0ub4dor"),
        ("see https://bob:s3cr3t@host.net/ now", "s3cr3t"),
        ("redis://:hunter2@cache", "hunter2"),
        ("amqp://u:a@b@mq", "a@b"),
    ] {
        assert_eq!(found_of(text, "", Kinds::ALL).first(), Some(&("url-credentials", password.to_owned())), "{text}");
    }
    for text in [
        "https://host.net:8080/a@b",
        "postgres://app:${DB_PASSWORD}@db",
        "https://user:password@host",
        "https://user@host/x",
    ] {
        assert!(found(text).iter().all(|(kind, _)| *kind != "url-credentials"), "{text}: {:?}", found(text));
    }
}

#[test]
fn assignments_of_credentials() {
    for text in [
        "password=Tr0ub4dor&3",
        "PASSWORD: 'Tr0ub4dor 3'",
        "db_password = \"k9#fLq2!vX\"",
        "export API_KEY=7f3kd93kfls02ks9",
        "{\\\"token\\\": \\\"7f3kd93kfls02ks9\\\"}",
        "Authorization: Bearer 7f3kd93kfls02ks9",
        "client_secret => 7f3kd93kfls02ks9",
        "https://x.net/?access_token=7f3kd93kfls02ks9&x=1",
        "config['secret'] = '7f3kd93kfls02ks9'",
    ] {
        let all = found(text);
        let expected = !text.contains("or 3");
        assert_eq!(all.iter().any(|(kind, _)| *kind == "credential-assignment"), expected, "{text}: {all:?}");
    }
    for text in [
        "password=${DB_PASSWORD}",
        "password=$DB_PASSWORD",
        "password: <your-password>",
        "password=xxxxxxxxxxxx",
        "password=************",
        "token={{ secrets.TOKEN_2 }}",
        "password: required",
        "token: authentication",
        "password = getPassword(user1)",
        "api_key = os.environ['API_KEY_2']",
        "if token == expected123token456",
        "max_tokens: 4096000000",
        "next_page_token=CAEQ7f3kd93kfls02ks9",
        "password_file=/run/secrets/x1y2z3",
        "secret: short1",
        "passwords are stored elsewhere, see page 12345",
        "credentials: ~/.aws/credentials2",
        "api_key=changeme12345",
        "api_key=your-api-key-0123",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn the_name_of_a_field_is_a_name_of_an_assignment() {
    let keyed = |key: &str, value: &str| {
        keyed(key, value, &mut Budget::new(1_000)).map(|(kind, range)| (kind, &value[range]).0)
    };
    assert_eq!(keyed("password", "Tr0ub4dor&3"), Some(Kind::CredentialAssignment));
    assert_eq!(keyed("Authorization", "Basic 7f3kd93kfls02ks9"), Some(Kind::CredentialAssignment));
    assert_eq!(keyed("path", "Tr0ub4dor&3"), None);
    assert_eq!(keyed("token", "see chapter 3 of the manual"), None);
}

#[test]
fn cards() {
    for text in [
        "4111111111111111",
        "4111 1111 1111 1111",
        "4111-1111-1111-1111",
        "4111.1111.1111.1111",
        "5555555555554444",
        "2221000000000009",
        "378282246310005",
        "3782 822463 10005",
        "6011111111111117",
        "30569309025904",
        "3056 930902 5904",
        "3530111333300000",
        "4222222222222",
        "6304000000000000",
    ] {
        for around in [text.to_owned(), format!("card: {text}, 12/27"), format!("({text})"), format!("{text}.")] {
            assert_eq!(found(&around), [("credit-card", text.to_owned())], "{around}");
        }
    }
    for text in [
        "4111111111111112",
        "411111111111111",
        "94111111111111111",
        "4111 1111 1111 1112",
        "4111 1111-1111 1111",
        "a4111111111111111",
        "4111111111111111b",
        "0.4111111111111111",
        "1-4111-1111-1111-1111",
        "4111-1111-1111-1111-1",
        "1234567812345670",
        "550e8400-e29b-41d4-a716-446655440000",
        "1700000000000",
        "id_4111111111111111",
    ] {
        assert!(found(text).iter().all(|(kind, _)| *kind != "credit-card"), "{text}");
    }
}

#[test]
fn ibans() {
    for text in [
        "DE89370400440532013000",
        "DE89 3704 0044 0532 0130 00",
        "GB29NWBK60161331926819",
        "gb29 nwbk 6016 1331 9268 19",
        "FR1420041010050500013M02606",
        "NO9386011117947",
        "MT84MALT011000012345MTLCAST001S",
        "CH9300762011623852957",
        "NL91ABNA0417164300",
        "BR1800360305000010009795493C1",
        "SA0380000000608010167519",
    ] {
        assert_eq!(found(&format!("to {text}.")), [("iban", text.to_owned())], "{text}");
    }
    for text in [
        "DE89370400440532013001",
        "DE8937040044053201300",
        "XX89370400440532013000",
        "DE893704004405320130001",
        "xDE89370400440532013000",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn social_security_numbers() {
    for (text, number) in [
        ("536-22-1234", "536-22-1234"),
        ("is 536 22 1234.", "536 22 1234"),
        ("SSN: 536221234", "536221234"),
        ("social security number 536221234", "536221234"),
    ] {
        assert_eq!(found(text), [("us-ssn", number.to_owned())], "{text}");
    }
    assert_eq!(found_of("536221234", "ssn", Kinds::ALL).len(), 1);
    for text in [
        "000-22-1234",
        "666-22-1234",
        "936-22-1234",
        "536-00-1234",
        "536-22-0000",
        "078-05-1120",
        "123-45-6789",
        "536221234",
        "1-536-22-1234",
        "536-22-1234-1",
        "536-22 1234",
        "2024-12-1234",
        "53-622-1234",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn mail_addresses() {
    for (text, address) in [
        ("bob@example.com", "bob@example.com"),
        ("write to <b.o-b+x@mail.example.co.uk>.", "b.o-b+x@mail.example.co.uk"),
        ("mailto:bob@example.com?subject=x", "bob@example.com"),
        ("'bob@example.com', x", "bob@example.com"),
        ("bob@bücher.de", "bob@bücher.de"),
    ] {
        assert_eq!(found(text), [("email", address.to_owned())], "{text}");
    }
    for text in ["@bob", "bob@", "bob@host", "a @ b.com", "x@1.2", "@@@@", "user@.com", "a@b..com"] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn telephones() {
    for text in [
        "+491711234567",
        "+49 171 1234567",
        "+49 (0)30 1234567",
        "+1-212-555-0123",
        "+1 (212) 555-0123",
        "(212) 555-0123",
        "212-555-0123",
        "212.555.0123",
        "020 7946 0958",
        "0171 1234567",
        "030/1234567",
        "030 / 1234567",
        "01 23 45 67 89",
        "01.23.45.67.89",
        "0049 171 1234567",
    ] {
        assert_eq!(found(&format!("call {text}, now")), [("phone", text.to_owned())], "{text}");
    }
    for text in [
        "2024-01-05",
        "05.01.2024",
        "01.02.2024 12:30",
        "01-02-2024",
        "2024-01-05T10:00:00Z",
        "12:30:45",
        "1704448800",
        "07911123456",
        "order 0012345",
        "550e8400-e29b-41d4-a716-446655440000",
        "1.212.555",
        "+1",
        "+12 apples",
        "a+123456789",
        "3.14159265",
        "0.123 4567",
        "1+2025551234",
        "version 1.2.3",
        "1 234 567 890",
    ] {
        assert!(found(text).iter().all(|(kind, _)| *kind != "phone"), "{text}: {:?}", found(text));
    }
}

#[test]
fn addresses_of_machines() {
    for (text, kind, address) in [
        ("ping 10.1.2.3.", "ipv4", "10.1.2.3"),
        ("http://192.168.0.1:80/", "ipv4", "192.168.0.1"),
        ("2001:db8:85a3::8a2e:370:7334", "ipv6", "2001:db8:85a3::8a2e:370:7334"),
        ("[fe80::1:2]", "ipv6", "fe80::1:2"),
    ] {
        assert_eq!(found(text), [(kind, address.to_owned())], "{text}");
    }
    for text in [
        "127.0.0.1",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.2.3.4",
        "std::io::x",
        "12:30:45",
        "::",
        "a::b",
        "v-1.2.3.4",
    ] {
        assert_eq!(found(text), [], "{text}");
    }
}

#[test]
fn a_kind_that_is_not_sought_is_not_found() {
    let text = "bob@example.com 4111111111111111 password=Tr0ub4dor&3";
    assert_eq!(found(text).len(), 3);
    assert_eq!(found_of(text, "", Kinds::default()), []);
}

/// Texts that are made to be looked at again and again: what they cost is bounded by the budget, and all end in time.
#[test]
fn no_text_costs_more_than_its_length_times_a_constant() {
    let units = [
        "a",
        "@",
        "a@",
        "a@b.",
        "=",
        "token=",
        "token:",
        "a=",
        "-",
        "-----BEGIN ",
        "eyJ-",
        "eyJ.",
        "sk-",
        "sk-q7Zr2Kd-",
        "1",
        "1 ",
        "1.",
        "1111 ",
        "4111 ",
        "111-",
        "+1 ",
        "(212) ",
        "DE89",
        "DE89 ",
        "0 ",
        "01 ",
        "://",
        "a://b:",
        "AKIA",
        "x/",
        "%41",
        "::",
        "a:",
        "ghp_",
        "xoxb-1-",
        "token=a;",
    ];
    for unit in units {
        let text = unit.repeat((1 << 20) / unit.len());
        let started = std::time::Instant::now();
        let mut budget = Budget::new(8 << 20);
        scan(&text, "", Kinds::ALL, &mut budget, &mut |_, _| ());
        // Unoptimized, on a busy machine: quadratic would be minutes.
        assert!(started.elapsed().as_secs() < 5, "{unit}: {:?}", started.elapsed());
    }
}

proptest! {
    #[test]
    fn any_text_is_looked_through(text in "\\PC{0,200}") {
        let mut last = 0;
        scan(&text, "token", Kinds::ALL, &mut Budget::new(10_000), &mut |_, range| {
            assert!(range.start >= last && range.end <= text.len() && !range.is_empty());
            last = range.end;
        });
    }

    #[test]
    fn any_text_of_signs_is_looked_through(text in "[a-zA0-9@=:+(). /_%-]{0,80}", limit in 0_usize..100) {
        scan(&text, "", Kinds::ALL, &mut Budget::new(limit), &mut |_, range| assert!(range.end <= text.len()));
    }
}
