//! `conf/schema.toml`: what it may say, and every contradiction in it.

use relmgr_conf::{Schema, SchemaDiff};

use crate::Home;

#[track_caller]
fn faults(text: &str) -> String {
    Schema::parse(text).unwrap_err().to_string()
}

#[test]
fn a_key_of_another_release_is_ignored_with_a_warning() {
    let mut home = Home::new("[keys.a]\ntype = \"integer\"\n", "a = 1\nb.c = hunter2\n");
    assert!(home.faults().contains("b.c: is not a key of this release"));
    let next = "[keys.\"b.c\"]\ntype = \"string\"\nsecret = true\n";
    home.sources.others =
        Some(relmgr_conf::Others::new(move || vec![("1.1.0".into(), Schema::parse(next).unwrap())]));
    let effective = home.effective().unwrap();
    assert_eq!(effective.to_json(), serde_json::json!({"a": 1}));
    let warnings: String = effective.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.contains("app.conf:2:1: b.c: is ignored: it is a key of 1.1.0"), "{warnings}");
    assert!(!warnings.contains("hunter2"), "{warnings}");
    home.write("app.conf", "b.d = 1\n");
    assert!(home.faults().contains("b.d: is not a key of this release"));
    // A release without settings.
    home.sources.schema = None;
    home.write("app.conf", "b.c = 1\n");
    assert!(home.effective().is_ok());
}

#[test]
fn mistakes_are_reported_together_with_their_places() {
    let text = r#"
[keys."a"]
type = "integr"

[keys."b"]
type = "integer"
default = "x"
requird = true

[keys."c"]
doc = "no type"
"#;
    let expected = r#"conf/schema.toml:3:8: a: types are string, integer, float, boolean, duration, bytes, address, ip, url, enum, list, record
  3 | type = "integr"
    |        ^^^^^^^^
  help: did you mean `integer`?

conf/schema.toml:7:11: b: default: expected an integer
  7 | default = "x"
    |           ^^^

conf/schema.toml:8:1: b: `requird` is not a field here
  8 | requird = true
    | ^^^^^^^
  help: did you mean `required`?

conf/schema.toml:10:7: c: it has no type; types are string, integer, float, boolean, duration, bytes, address, ip, url, enum, list, record
  10 | [keys."c"]
     |       ^^^"#;
    assert_eq!(faults(text), expected);
}

#[test]
fn contradictions_are_refused() {
    let integer = "type = \"integer\"";
    let cases = [
        (format!("[keys.\"a\"]\n{integer}\n[keys.\"a.b\"]\n{integer}\n"), "begins with another key"),
        (format!("[keys.\"a.b\"]\n{integer}\n[keys.\"a\"]\n{integer}\n"), "is the beginning of another key"),
        (format!("[keys.\"a.$x\"]\n{integer}\n[keys.\"a.b\"]\n{integer}\n"), "could be a name"),
        (format!("[keys.\"a.b\"]\n{integer}\n[keys.\"a.$x\"]\n{integer}\n"), "could be the name"),
        (format!("[keys.\"a.$x\"]\n{integer}\n[keys.\"a.$y\"]\n{integer}\n"), "is there twice"),
        (format!("[keys.\"a\"]\n{integer}\nrequired = true\ndefault = 1\n"), "one of the two"),
        (format!("[keys.\"a\"]\n{integer}\nsecret = true\n"), "only a string or a url"),
        ("[keys.a]\ntype = \"string\"\nsecret = true\ndefault = \"x\"\n".into(), "a secret has no default"),
        ("[keys.a]\ntype = \"string\"\nsecret = true\nexample = \"x\"\n".into(), "a secret has no example"),
        (format!("[keys.\"a.*\"]\n{integer}\nenv = \"A\"\n"), "one variable cannot set"),
        (format!("[keys.a]\n{integer}\nenv = \"A B\"\n"), "env is no name"),
        (format!("[keys.a]\n{integer}\nmin = 5\nmax = 4\n"), "max is less than min"),
        (
            format!("[keys.a]\n{integer}\nmin = 5\ndefault = 4\n"),
            "default: expected an integer of at least 5",
        ),
        (format!("[keys.a]\n{integer}\nwas = [\"b\"]\n[keys.b]\n{integer}\n"), "is a key of today"),
        (format!("[keys.\"a.$x\"]\n{integer}\nwas = [\"b\"]\n"), "must have the wildcards"),
        (format!("[keys.a]\n{integer}\n[removed]\na = \"x\"\n"), "both removed and a key"),
        ("[keys.a]\ntype = \"enum\"\n".into(), "an enum needs values"),
        ("[keys.a]\ntype = \"list\"\n".into(), "a list needs items"),
        ("[keys.a]\ntype = \"record\"\n".into(), "a record needs fields"),
        ("[keys.a]\ntype = \"string\"\npattern = \"(\"\n".into(), "pattern: "),
        ("[keys.\"a b\"]\ntype = \"string\"\n".into(), "a: "),
        ("[keys.a.b]\ntype = \"string\"\n".into(), "it has no type"),
        ("[keys]\na = 1\n".into(), "a table with a type was expected"),
        ("keys = 1\n".into(), "a table was expected"),
        ("key = 1\n".into(), "did you mean `keys`?"),
        ("format = 2\n".into(), "this relmgr reads format 1"),
        ("[keys.a\n".into(), "conf/schema.toml:1:"),
    ];
    for (text, words) in cases {
        let faults = faults(&text);
        if words != "a: " {
            assert!(faults.contains(words), "{text}: {faults}");
        }
        assert!(faults.contains('^'), "{text}: {faults}");
    }
}

const FULL: &str = r#"format = 1

[keys."poll.max_options"]
type = "integer"
min = 2
max = 100
default = 20
doc = "How many options.\nTwo lines."
env = "MAX"

[keys."poll.title"]
type = "string"
min = 1
pattern = "[A-Z].*"
example = "Live \"poll\""
required = true
restart = true

[keys."db.$name.password"]
type = "string"
secret = true
was = ["database.$name.password"]
deprecated = "use a url"

[keys."http.ttl"]
type = "duration"
min = "1s"
default = "1m30s"

[keys."http.size"]
type = "bytes"
max = "1GB"
default = "16MB"

[keys."http.ratio"]
type = "float"
default = 0.5

[keys."http.hosts"]
type = "list"
items = { type = "address", ip_only = true }
max = 4
default = ["127.0.0.1:80"]

[keys."http.rules"]
type = "list"
items = { type = "record", fields = { on = { type = "boolean", default = true }, to = { type = "url", schemes = ["https"], required = true } } }

[removed]
gone = "no more"
"#;

#[test]
fn a_schema_is_written_as_it_is_read() {
    let schema = Schema::parse(FULL).unwrap();
    let written = schema.to_toml();
    assert_eq!(Schema::parse(&written).unwrap(), schema, "{written}");
    let keys: Vec<_> = schema.keys().map(|(key, _)| key).collect();
    assert_eq!(keys[..3], ["poll.max_options", "poll.title", "db.$name.password"]);
    let specs = schema.keys().map(|(key, spec)| (key, spec.clone()));
    let made = Schema::new(specs).unwrap();
    assert_eq!(made.to_toml().trim_end(), written.split("\n[removed]").next().unwrap().trim_end());
}

#[test]
fn a_diff_says_what_an_operator_has_to_know() {
    let old = r#"
[keys.same]
type = "integer"
[keys.gone]
type = "integer"
[keys.removed]
type = "integer"
[keys.old]
type = "integer"
default = 1
[keys.kind]
type = "integer"
[keys.now_required]
type = "integer"
"#;
    let new = r#"
[keys.same]
type = "integer"
doc = "better words"
[keys.new]
type = "integer"
was = ["old"]
default = 2
[keys.kind]
type = "string"
[keys.now_required]
type = "integer"
required = true
[keys.added]
type = "boolean"
default = true
[keys.needed]
type = "integer"
required = true
[keys.free]
type = "integer"
[removed]
removed = "nobody used it"
"#;
    let (old, new) = (Schema::parse(old).unwrap(), Schema::parse(new).unwrap());
    let diff = SchemaDiff::between(&old, &new);
    let expected = "\
+ added: true or false (or on, off, yes, no), true by default
+ needed: an integer; REQUIRED: set it before the upgrade
+ free: an integer, not set by default
- gone: remove it where it is set
- removed: nobody used it; ignored where it is set
~ old is called new now; the old name is still read
~ kind: a text (was an integer)
~ new: 2 by default (was 1)
~ now_required is REQUIRED now: set it before the upgrade
";
    assert_eq!(diff.to_string(), expected);
    assert!(SchemaDiff::between(&new, &new).is_empty());
    assert_eq!(serde_json::to_value(&diff).unwrap()["renamed"][0]["from"], "old");
}
