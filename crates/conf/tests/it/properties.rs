//! What is printed is read as the same again; what is formatted means the same; edits do what they say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use relmgr_conf::{Key, Schema, Value, format, get, set, unset};

use crate::Home;

fn segment() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9_-]{1,6}", "[a-z\" .#=\\\\$\\n*é{]{1,6}"]
}

fn key() -> impl Strategy<Value = String> {
    // Two fixed depths, so that no key is the beginning of another.
    segment().prop_map(|name| format!("k.{}", quoted(&name)))
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' | '$' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
    out + "\""
}

/// Texts that the grammar could stumble over.
fn text() -> impl Strategy<Value = String> {
    let tricky = "[a-z \"'#,=\\[\\]{}\\\\$\\n\\t\\r:/.-]{0,12}";
    let known = prop::sample::select(vec![
        "",
        " ",
        "'''",
        "file:/x",
        "file:",
        "file:${X}",
        "${X}",
        "$(x)",
        "[]",
        "a,",
        "true",
        "0",
        "\u{7f}",
        "\u{85}",
        "\u{feff}",
    ]);
    prop_oneof![tricky, any::<String>(), known.prop_map(str::to_owned)]
}

const TYPED: &str = r#"
[keys."s"]
type = "string"
[keys."i"]
type = "integer"
[keys."f"]
type = "float"
[keys."d"]
type = "duration"
[keys."b"]
type = "bytes"
[keys."l"]
type = "list"
items = "string"
[keys."m"]
type = "list"
items = { type = "list", items = "string" }
[keys."k.*"]
type = "string"
"#;

proptest! {
    /// Values reach the effective file and come back from it unchanged.
    #[test]
    fn print_then_parse_is_the_identity(
        s in text(), i in any::<i64>(), f in prop::num::f64::NORMAL | prop::num::f64::ZERO,
        l in prop::collection::vec(text(), 0..4),
        m in prop::collection::vec(prop::collection::vec(text(), 0..3), 0..3),
        seconds in any::<u64>(), bytes in any::<u64>(),
    ) {
        let list = |items: &[String]| Value::List(items.iter().cloned().map(Value::String).collect());
        let values = BTreeMap::from([
            ("s", Value::String(s)),
            ("i", Value::Integer(i)),
            ("f", Value::Float(f)),
            ("d", Value::Duration(std::time::Duration::from_secs(seconds))),
            ("b", Value::Bytes(bytes)),
            ("l", list(&l)),
            ("m", Value::List(m.iter().map(|items| list(items)).collect())),
        ]);
        let app_conf: String = values.iter().map(|(key, value)| format!("{key} = {}\n", value.to_conf())).collect();
        let home = Home::new(TYPED, &app_conf);
        let effective = home.effective().map_err(|faults| TestCaseError::fail(format!("{faults}\n{app_conf}")))?;
        for (key, value) in values {
            prop_assert_eq!(&effective.get(&key.parse().unwrap()).unwrap().value, &value, "{}", app_conf);
        }
        let again = Home::new(TYPED, &effective.to_conf_text());
        prop_assert_eq!(again.json(), effective.to_json());
    }

    #[test]
    fn a_key_prints_as_it_is_read(text in key()) {
        let key: Key = text.parse().unwrap();
        prop_assert_eq!(key.to_string().parse::<Key>().unwrap(), key);
    }

    /// Setting keys one after the other, formatting in between, gives what was set last.
    #[test]
    fn edits_and_formatting_keep_every_value(edits in prop::collection::vec((key(), text()), 1..6)) {
        let schema = Schema::parse(TYPED).unwrap();
        let mut file = String::from("# top\ns = 1  # one\n");
        let mut expected = BTreeMap::new();
        for (key, value) in edits {
            let key: Key = key.parse().unwrap();
            let written = Value::String(value.clone()).to_conf();
            file = set("app.conf", &file, &key, &written, Some(&schema)).unwrap();
            expected.insert(key.segments()[1].to_string(), value);
            let formatted = format("app.conf", &file, None).unwrap();
            prop_assert_eq!(&format("app.conf", &formatted, None).unwrap(), &formatted);
            prop_assert!(formatted.starts_with("# top\ns = 1"));
            prop_assert_eq!(Home::new(TYPED, &file).json(), Home::new(TYPED, &formatted).json());
            prop_assert!(get("app.conf", &file, &key, None).unwrap().is_some());
        }
        let json = Home::new(TYPED, &file).json();
        prop_assert_eq!(json["k"].clone(), serde_json::to_value(&expected).unwrap());
        for name in expected.keys() {
            let key: Key = format!("k.{}", quoted(name)).parse().unwrap();
            file = unset("app.conf", &file, &key, None).unwrap().unwrap();
        }
        prop_assert_eq!(file, "# top\ns = 1  # one\n");
    }

    /// Later files win, whatever they hold: the same as putting the maps of values together in order.
    #[test]
    fn files_are_merged_in_their_order(layers in prop::collection::vec(prop::collection::btree_map(0u8..6, 0u8..9, 0..5), 1..5)) {
        let home = Home::empty(TYPED);
        let mut expected = BTreeMap::new();
        for (index, layer) in layers.iter().enumerate() {
            let file: String = layer.iter().map(|(key, value)| format!("k.n{key} = {value}\n")).collect();
            home.write(&format!("app.conf.d/{index}.conf"), file);
            expected.extend(layer.iter().map(|(key, value)| (format!("n{key}"), value.to_string())));
        }
        prop_assert_eq!(home.json()["k"].clone(), serde_json::to_value(&expected).unwrap());
    }
}
