//! Wrong uses, each with the words that the developer reads.

use syn::DeriveInput;

use crate::expand::expand;

/// The errors for `code`.
#[track_caller]
fn refused(code: &str) -> String {
    let input: DeriveInput = syn::parse_str(code).unwrap();
    match expand(&input) {
        Ok(expanded) => panic!("{code} was taken: {expanded}"),
        Err(errors) => errors.into_iter().map(|error| error.to_string()).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn wrong_uses_are_told() {
    for (code, words) in [
        ("union U { a: u8 }", "a union cannot be read"),
        ("struct U;", "has no keys"),
        ("struct P(u8, u8);", "values without names cannot be keys"),
        ("struct P();", "values without names cannot be keys"),
        ("struct G<T> { a: T }", "settings have no parameters"),
        ("struct G<'a> { a: &'a str }", "settings have no parameters"),
        ("enum E { A(u8) }", "a word holds nothing"),
        ("enum E { A { a: u8 } }", "a word holds nothing"),
        ("enum E {}", "it has no words"),
        ("enum E { #[serde(skip)] A }", "it has no words"),
        ("enum E { A, #[serde(other)] B }", "takes any word"),
        ("#[serde(untagged)] enum E { A }", "serde's `untagged` has no place in settings"),
        ("#[serde(tag = \"t\", content = \"c\")] enum E { A }", "serde's `tag`"),
        ("#[serde(try_from = \"String\")] struct S { a: u8 }", "#[conf(type = \"string\")]"),
        ("#[serde(from = \"String\")] struct S(u8);", "serde's `from` reads another type"),
        ("#[serde(remote = \"X\")] struct S { a: u8 }", "describes another type"),
        ("enum E { #[conf(secret)] A }", "a word has no attributes"),
        ("#[conf(restart)] enum E { A }", "an enum has no keys"),
        ("#[conf(restart)] struct S { a: u8 }", "`restart` is no attribute of a struct"),
        ("#[conf(removed(\"a\", \"gone\"))] struct S(u8);", "one value has no keys"),
        ("struct S(#[conf(min = 1)] u8);", "put it on the fields of this type"),
        (
            "struct S { #[conf(requird)] a: u8 }",
            "`requird` is no attribute here; there are example, env, required",
        ),
        ("struct S { #[conf(removed(\"a\", \"b\"))] a: u8 }", "`removed` belongs to the struct"),
        ("struct S { #[conf(min = 9, max = 2)] a: u8 }", "the most is less than the least"),
        ("struct S { #[conf(range = 9..=2)] a: u8 }", "the most is less than the least"),
        ("struct S { #[conf(range = 1..2)] a: u8 }", "write ..= before the most"),
        ("struct S { #[conf(range = 1)] a: u8 }", "a range was expected"),
        ("struct S { #[conf(range = ..)] a: u8 }", "allows everything"),
        ("struct S { #[conf(min = LEAST)] a: u8 }", "a text, a number, true, false"),
        ("struct S { #[conf(example = -\"x\")] a: u8 }", "a text, a number, true, false"),
        ("struct S { #[conf(secret, example = \"x\")] a: String }", "a secret has no example"),
        ("struct S { #[conf(type = \"text\")] a: X }", "string, url, address, ip, bytes"),
        ("struct S { #[conf(name = \"$q\")] a: X }", "without the `$`"),
        ("struct S { #[conf(env = 1)] a: u8 }", "expected string literal"),
        ("struct S { #[serde(default)] #[conf(required)] a: u8 }", "required and has a default"),
        ("struct S { #[serde(skip)] #[conf(secret)] a: u8 }", "serde skips the field"),
        ("struct S { #[serde(flatten)] #[conf(restart)] a: X }", "a flattened struct is no key"),
        ("struct S { a: Duration }", "#[serde(with = \"relmgr_app::settings::duration\")]"),
        ("struct S { a: HashMap<String, Vec<std::time::Duration>> }", "a duration comes as a text"),
        ("struct S { #[serde(with = \"m\")] a: X }", "cannot be seen from here"),
        ("struct S { #[serde(deserialize_with = \"f\")] a: u8 }", "cannot be seen from here"),
        ("struct S { #[serde(with = \"m\")] a: Option<Duration> }", "add `default` to #[serde(…)]"),
    ] {
        let errors = refused(code);
        assert!(errors.contains(words), "{code}: {errors}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let errors = refused("struct S { a: Duration, #[conf(x)] b: u8, #[serde(with = \"m\")] c: X }");
    assert_eq!(errors.lines().count(), 3, "{errors}");
}

#[test]
fn what_serde_alone_cares_for_is_left_to_it() {
    let code = r#"
        #[serde(deny_unknown_fields, rename_all(serialize = "lowercase"), bound = "", crate = "x", expecting = "y")]
        struct S {
            #[serde(skip_serializing_if = "f", serialize_with = "g", rename(serialize = "x"), borrow = "'a")]
            a: u8,
            #[serde(rename(serialize = "x", deserialize = "b-b"))]
            b: u8,
            #[serde(with = "humantime_serde")]
            c: Duration,
        }"#;
    let expanded = expand(&syn::parse_str(code).unwrap()).unwrap().to_string();
    for name in ["name : \"a\"", "name : \"b-b\"", "name : \"c\""] {
        assert!(expanded.contains(name), "{name}: {expanded}");
    }
}

#[test]
fn wrong_uses_in_a_state_are_told() {
    let refused = |code: &str| {
        let input: DeriveInput = syn::parse_str(code).unwrap();
        match crate::state::state(&input) {
            Ok(expanded) => panic!("{code} was taken: {expanded}"),
            Err(error) => error.to_string(),
        }
    };
    for (code, words) in [
        ("struct S { a: u8 }", "#[state(version = 1)]"),
        ("#[state(versoin = 1)] struct S { a: u8 }", "there is `version = 1`"),
        ("#[state(version = 1)] struct S<T> { a: T }", "a state has no parameters"),
        ("#[state(version = 1)] union S { a: u8 }", "a union cannot be written"),
        ("#[state(version = 1)] struct S { #[state(opaqe)] a: u8 }", "there is `opaque`"),
        ("#[state(version = 1)] struct S { #[serde(flatten)] a: T }", "serde's `flatten`"),
        ("#[state(version = 1)] #[serde(untagged)] enum S { A }", "serde's `untagged`"),
        ("#[state(version = 1)] #[serde(tag = \"t\", content = \"c\")] enum S { A }", "serde's `tag`"),
        (
            "#[state(version = 1)] struct S { #[serde(default, skip_serializing_if = \"f\")] a: u8 }",
            "serde's `skip_serializing_if`",
        ),
    ] {
        let told = refused(code);
        assert!(told.contains(words), "{code}: {told}");
    }
}
