//! Bytes that nobody meant: whatever is read, there is a result or a report, never a panic.

use proptest::prelude::*;
use relmgr_conf::{Key, Schema, check, documented, format, set};

use crate::Home;

const SCHEMA: &str = r#"
[keys."a.b"]
type = "integer"
[keys."a.c"]
type = "list"
items = { type = "record", fields.k = { type = "duration" } }
[keys."q.$n.x"]
type = "string"
secret = true
"#;

/// Pieces that the grammar gives a meaning, so that random texts get further than their first character.
fn pieces() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "a.b", "a.c", "q.x.x", " = ", "=", ".", ",", "[", "]", "k = ", "1s", "\"", "'", "'''", "\\", "\\u{",
        "}", "${", "X", ":-", "$(", "#", " #", "\n", "\r\n", "\r", "\t", "include ", "file:/", "{", "é",
        "\u{feff}", "漢", "\0", "*", "$n", "0",
    ]);
    let piece = prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<char>().prop_map(String::from)];
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_or_refused(text in pieces()) {
        let schema = Schema::parse(SCHEMA).unwrap();
        if let Ok(formatted) = format("app.conf", &text, Some(&schema)) {
            prop_assert_eq!(format("app.conf", &formatted, None).unwrap(), formatted);
        }
        let _ = set("app.conf", &text, &"a.b".parse().unwrap(), "5", Some(&schema));
        let _ = set("app.conf", "", &"a.b".parse().unwrap(), &text, None);
        let _ = text.parse::<Key>();
    }

    #[test]
    fn any_schema_is_read_or_refused(text in pieces(), at in 0..SCHEMA.len()) {
        for text in [text.clone(), format!("{}{text}{}", &SCHEMA[..at], &SCHEMA[at..])] {
            match Schema::parse(&text) {
                Ok(schema) => {
                    let _ = documented(&schema);
                    prop_assert_eq!(Schema::parse(&schema.to_toml()).unwrap().to_toml(), schema.to_toml());
                }
                Err(faults) => prop_assert!(!faults.to_string().is_empty()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_file_is_read_or_refused(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        pieces().prop_map(String::into_bytes),
    ]) {
        let home = Home::empty(SCHEMA);
        home.write("app.conf", &bytes);
        let report = match home.effective() {
            Ok(effective) => effective.to_conf_text(),
            Err(faults) => faults.to_string(),
        };
        prop_assert!(!report.is_empty());
        let _ = check(&home.sources);
    }
}
