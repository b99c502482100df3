//! What counts as sensitive, and what only looks so. Must never hold a secret that is one.

use super::*;
use proptest::prelude::*;

fn names(text: &str) -> Vec<SensitiveClass> {
    let found = classes(text.as_bytes());
    SensitiveClassIndex::ALL.into_iter().zip(found).filter_map(|(class, is)| is.then_some(class)).collect()
}

/// A line of `letters` of base64.
fn base64(letters: usize) -> String {
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEA".chars().cycle().take(letters).collect()
}

#[test]
fn a_key_is_one_only_with_its_body() {
    let marker = |name: &str| format!("-----BEGIN {name}-----\n");
    let keys = vec![SensitiveClass::PrivateKeys];
    for name in ["PRIVATE KEY", "RSA PRIVATE KEY", "OPENSSH PRIVATE KEY", "PGP PRIVATE KEY BLOCK"] {
        assert_eq!(names(&format!("{}{}\n", marker(name), base64(64))), keys, "{name}");
    }
    let encrypted = format!("{}Proc-Type: 4,ENCRYPTED\n\n{}", marker("EC PRIVATE KEY"), base64(64));
    assert_eq!(names(&encrypted), keys);
    assert_eq!(names(&format!("{}\";\n", marker("PRIVATE KEY"))), []);
    assert_eq!(names(&format!("{}{}\n", marker("CERTIFICATE"), base64(64))), []);
}

#[test]
fn credentials_are_values_not_words_of_a_manual() {
    let credentials = vec![SensitiveClass::Credentials];
    for text in [
        "aws_access_key_id = AKIAIOSFODNN7EXAMPLE",
        "db_password=hunter2xyz",
        "\"api_key\": \"a1b2c3d4e5\"",
        "PASSWORD: s3cret-thing",
        &format!("token ghp_{}", "a1".repeat(18)),
    ] {
        assert_eq!(names(text), credentials, "{text}");
    }
    for text in [
        "passwd:         files systemd",
        "password = os.environ(\"X1Y2Z3\")",
        "password=$PASSWORD1",
        "password: required",
        "the password is kept in a file",
        "AKIASHORT1",
        "XAKIAIOSFODNN7EXAMPLE",
    ] {
        assert_eq!(names(text), [], "{text}");
    }
}

#[test]
fn a_card_counts_and_many_numbers_that_only_look_so_do_not() {
    let cards = vec![SensitiveClass::CardNumbers];
    assert_eq!(names("pan=4111 1111 1111 1111\n"), cards);
    assert_eq!(names("{\"pan\":5555555555554444}"), cards);
    assert_eq!(names("pan=4111111111111112"), []);
    assert_eq!(names("0.4111111111111111 -4111111111111111 x4111111111111111"), []);
    // One of ten numbers that begin so has the right digit by chance: a log full of them holds no card.
    let numbers = (0..1000u64).map(|number| 4_000_000_000_000_000 + number * 7_919_337);
    let log: String = numbers.map(|number| format!("id={number} done\n")).collect();
    assert_eq!(names(&log), []);
}

#[test]
fn people_are_found_where_there_are_many() {
    let list = |of: u32| (0..of).map(|who| format!("person{who}@example.org, ")).collect::<String>();
    assert_eq!(names(&list(20)), [SensitiveClass::EmailAddresses]);
    assert_eq!(names(&list(19)), []);
    assert_eq!(names(&"author@example.org ".repeat(100)), [], "the same one");
    assert_eq!(names("DE89 3704 0044 0532 0130 00"), [SensitiveClass::AccountNumbers]);
    assert_eq!(names("SSN: 536-90-4399"), [SensitiveClass::NationalNumbers]);
    assert_eq!(names("part no. 536-90-4399"), []);
    let many: String = (0..5).map(|last| format!("536-90-439{last}\n")).collect();
    assert_eq!(names(&many), [SensitiveClass::NationalNumbers]);
}

proptest! {
    #[test]
    fn any_bytes_are_read(text in prop::collection::vec(any::<u8>(), 0..2000)) {
        let _ = classes(&text);
    }

    #[test]
    fn words_around_it_hide_no_card(before in "[a-z ,;=\"]{0,40} ", after in "[ ,;\"\n][a-z ,;\"]{0,40}") {
        let text = format!("{before}4111111111111111{after}");
        prop_assert!(names(&text).contains(&SensitiveClass::CardNumbers));
    }
}
