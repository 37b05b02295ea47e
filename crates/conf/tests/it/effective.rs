//! Precedence, references, wildcards, and what the application gets.

use relmgr_conf::{Changes, Key, Origin, Reads, Secret, reload};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::time::Duration;

use crate::Home;

const ALL: &str = r#"
[keys."a.text"]
type = "string"
[keys."a.number"]
type = "integer"
[keys."a.float"]
type = "float"
[keys."a.on"]
type = "boolean"
[keys."a.time"]
type = "duration"
[keys."a.size"]
type = "bytes"
[keys."a.address"]
type = "address"
ip_only = true
[keys."a.ip"]
type = "ip"
[keys."a.url"]
type = "url"
schemes = ["http", "https"]
[keys."a.word"]
type = "enum"
values = ["red", "green"]
[keys."a.list"]
type = "list"
items = "integer"
[keys."a.lists"]
type = "list"
items = { type = "list", items = "integer" }
[keys."a.rules"]
type = "list"
items = { type = "record", fields.kind = { type = "enum", values = ["mail", "log"], required = true }, fields.to = { type = "string", default = "root" } }
[keys."a.pair"]
type = "record"
fields.x = { type = "integer" }
"#;

#[test]
fn every_type_reaches_the_application() {
    let app_conf = r#"
a.text = Live poll
a.number = -1_000
a.float = 1e3
a.on = yes
a.time = 1.5h
a.size = 1.5GB
a.address = "[::1]:8080"
a.ip = 127.0.0.1
a.url = "https://example.com/x#y"
a.word = green
a.list = 1, 2,
a.lists = [1, 2], []
a.rules = [kind = mail, to = "a@b.c"], [kind = log]
a.pair = [x = 5]
"#;
    let expected = json!({"a": {
        "text": "Live poll", "number": -1000, "float": 1000.0, "on": true, "time": "1h30m", "size": 1_610_612_736u64,
        "address": "[::1]:8080", "ip": "127.0.0.1", "url": "https://example.com/x#y", "word": "green",
        "list": [1, 2], "lists": [[1, 2], []],
        "rules": [{"kind": "mail", "to": "a@b.c"}, {"kind": "log", "to": "root"}], "pair": {"x": 5},
    }});
    assert_eq!(Home::new(ALL, app_conf).json(), expected);
}

#[test]
fn one_item_is_a_list_and_brackets_are_too() {
    for (value, expected) in [
        ("5", json!([5])),
        ("5,", json!([5])),
        ("[5]", json!([5])),
        ("[5, 6]", json!([5, 6])),
        ("[]", json!([])),
    ] {
        assert_eq!(Home::new(ALL, &format!("a.list = {value}")).json()["a"]["list"], expected, "{value}");
    }
    for (value, expected) in [("[1, 2]", json!([[1, 2]])), ("[]", json!([])), ("[],", json!([[]]))] {
        assert_eq!(Home::new(ALL, &format!("a.lists = {value}")).json()["a"]["lists"], expected, "{value}");
    }
    assert_eq!(
        Home::new(ALL, "a.rules = [kind = log]").json()["a"]["rules"],
        json!([{"kind": "log", "to": "root"}])
    );
    let faults =
        Home::new(ALL, "a.rules = [kind = log, knd = 1, to = a, to = b], [to = a]\na.lists = 5\n").faults();
    for words in ["did you mean `kind`?", "this pair is there twice", "`kind` is missing", "found one text"] {
        assert!(faults.contains(words), "{words}: {faults}");
    }
}

const LAYERS: &str = r#"
[keys."a"]
type = "string"
default = "schema"
[keys."b"]
type = "string"
default = "schema"
[keys."c"]
type = "string"
default = "schema"
[keys."d"]
type = "string"
default = "schema"
env = "D"
restart = true
[keys."e"]
type = "list"
items = "integer"
env = "E"
[keys."not.set"]
type = "string"
"#;

#[test]
fn later_sources_win_and_every_value_knows_where_it_comes_from() {
    let mut home = Home::new(LAYERS, "b = file\nc = file\nd = file\n");
    home.write("app.conf.d/20-b.conf", "# second\nc = twenty\nd = twenty\n");
    home.write("app.conf.d/10-a.conf", "c = ten\n");
    home.write("app.conf.d/.hidden.conf", "c = hidden\n");
    home.write("app.conf.d/30-off.conf.disabled", "c = disabled\n");
    home.env("D", "as it is, with ${X} and # all");
    home.env("E", "1, 2");
    let effective = home.effective().unwrap();
    assert_eq!(
        effective.to_json(),
        json!({"a": "schema", "b": "file", "c": "twenty", "d": "as it is, with ${X} and # all", "e": [1, 2]})
    );
    let origin = |key: &str| effective.get(&key.parse::<Key>().unwrap()).unwrap().origin.to_string();
    let dir = home.dir.path().display();
    assert_eq!(origin("a"), "default");
    assert_eq!(origin("b"), format!("{dir}/app.conf:1:1"));
    assert_eq!(origin("c"), format!("{dir}/app.conf.d/20-b.conf:2:1"));
    assert_eq!(origin("d"), "$D");
    assert!(matches!(effective.get(&"e".parse().unwrap()).unwrap().origin, Origin::Environment(_)));
    let files: Vec<_> = effective.files().iter().map(|file| file.file_name().unwrap()).collect();
    assert_eq!(files, ["app.conf", "10-a.conf", "20-b.conf"]);
}

#[test]
fn no_file_at_all_gives_the_defaults() {
    let home = Home::empty(LAYERS);
    assert_eq!(home.json(), json!({"a": "schema", "b": "schema", "c": "schema", "d": "schema"}));
}

#[test]
fn an_empty_variable_is_not_set() {
    let mut home = Home::new(LAYERS, "a = ${X:-x}\nb = \"<${Y}>\"\n");
    home.env("D", "");
    home.env("X", "");
    home.env("Y", "y, z");
    assert_eq!(home.json(), json!({"a": "x", "b": "<y, z>", "c": "schema", "d": "schema"}));
    home.env("Y", "");
    assert!(home.faults().contains("the environment variable Y is not set"));
}

#[test]
fn a_variable_s_text_is_one_value_and_never_syntax() {
    let mut home = Home::new(LAYERS, "a = ${X}\nb = file:${DIR}/b\nc = '${X}'\nd = file:///srv/x\n");
    home.env("X", "file:/etc/passwd # \" ${Y}, [1]");
    home.env("DIR", home.dir.path().to_str().unwrap().to_owned().as_str());
    home.write("b", "from the file\n");
    assert_eq!(
        home.json(),
        json!({"a": "file:/etc/passwd # \" ${Y}, [1]", "b": "from the file", "c": "${X}", "d": "file:///srv/x"})
    );
    let effective = home.effective().unwrap();
    assert!(effective.files().contains(&home.path("b")));
    assert_eq!(effective.get(&"a".parse().unwrap()).unwrap().via, ["${X}"]);
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    let mut home = Home::new(&format!("{LAYERS}[keys.n]\ntype = \"integer\"\nenv = \"N\"\n"), "n = 1\n");
    home.env("N", "many");
    home.env("E", "1, x");
    let faults = home.faults();
    assert!(faults.contains("$N: n: expected an integer, found `many`"), "{faults}");
    assert!(faults.contains("$E:1:4: e: expected an integer, found `x`"), "{faults}");
}

const QUEUES: &str = r#"
[keys."queues.$name.size"]
type = "integer"
default = 10
[keys."queues.$name.url"]
type = "url"
required = true
[keys."labels.*"]
type = "string"
"#;

#[test]
fn wildcards_take_any_name_and_fill_in_what_is_missing() {
    let home = Home::new(
        QUEUES,
        "queues.mail.url = amqp://a/\nqueues.\"odd one\".url = amqp://b/\nqueues.mail.size = 5\n",
    );
    let expected = json!({
        "queues": {"mail": {"size": 5, "url": "amqp://a/"}, "odd one": {"size": 10, "url": "amqp://b/"}},
        "labels": {},
    });
    assert_eq!(home.json(), expected);
    assert_eq!(Home::empty(QUEUES).json(), json!({"queues": {}, "labels": {}}));
    let faults = Home::new(QUEUES, "queues.mail.size = 5\nlabels.a = b\n").faults();
    assert!(faults.contains("queues.mail.url: is required and set nowhere"), "{faults}");
}

const CHANGED: &str = r#"
[keys."new.name"]
type = "integer"
was = ["old.name", "older"]
[keys."queues.$name.size"]
type = "integer"
was = ["pools.$name.size"]
[keys."still.here"]
type = "integer"
deprecated = "use new.name"
[removed]
"gone" = "polls have no colour any more"
"#;

#[test]
fn former_names_are_read_with_a_warning() {
    let home = Home::new(CHANGED, "older = 1\npools.a.size = 2\nstill.here = 3\ngone = 4\n");
    let effective = home.effective().unwrap();
    let expected = json!({"new": {"name": 1}, "queues": {"a": {"size": 2}}, "still": {"here": 3}});
    assert_eq!(effective.to_json(), expected);
    let warnings: Vec<_> = effective.warnings().iter().map(|warning| warning.message.as_str()).collect();
    let expected = [
        "is called new.name now",
        "is called queues.a.size now",
        "is deprecated: use new.name",
        "is ignored: polls have no colour any more",
    ];
    assert_eq!(warnings, expected);
    let faults = Home::new(CHANGED, "older = 1\nnew.name = 2\n").faults();
    assert!(faults.contains("app.conf:2:1: new.name: is set twice"), "{faults}");
}

#[derive(Debug, Deserialize, PartialEq)]
struct Author {
    a: Inner,
}

#[derive(Debug, Deserialize, PartialEq)]
struct Inner {
    #[serde(with = "humantime_serde")]
    time: Duration,
    size: u64,
    address: std::net::SocketAddr,
    text: Secret,
    #[serde(default)]
    pair: BTreeMap<String, u8>,
}

#[test]
fn the_author_s_type_is_decoded_or_the_key_is_named() {
    let good = "a.time = 90s\na.size = 16MB\na.address = 127.0.0.1:80\na.text = x\n";
    let author: Author = Home::new(ALL, good).effective().unwrap().decode().unwrap();
    assert_eq!(author.a.time, Duration::from_secs(90));
    assert_eq!(author.a.size, 16 << 20);
    assert_eq!(author.a.text.expose(), "x");

    let home = Home::new(ALL, &format!("{good}a.pair = [x = 500]\n"));
    let faults = home.effective().unwrap().decode::<Author>().unwrap_err().to_string();
    assert!(
        faults.contains("app.conf:5:1: a.pair: the application cannot use it: invalid value"),
        "{faults}"
    );

    let faults =
        Home::new(ALL, "a.time = 90s\n").effective().unwrap().decode::<Author>().unwrap_err().to_string();
    assert!(faults.contains("missing field `size`"), "{faults}");
}

#[test]
fn a_reload_says_what_changed_and_what_waits() {
    let home = Home::new(LAYERS, "a = 1\ne = 1, 2\n");
    let running = home.effective().unwrap();
    home.write("app.conf", "a = 2\nd = 1\nnot.set = x\n");
    let (new, changes) = reload(&home.sources, &running, &mut Reads::default()).unwrap();
    let keys = |names: &[&str]| names.iter().map(|name| name.parse().unwrap()).collect();
    let expected = Changes {
        changed: keys(&["a", "d"]),
        new: keys(&["not.set"]),
        removed: keys(&["e"]),
        pending: keys(&["d"]),
    };
    assert_eq!(changes, expected);
    assert_ne!(new.hash(), running.hash());
    assert!(reload(&home.sources, &new, &mut Reads::default()).unwrap().1.is_empty());
}

const WAITING: &str = r#"
[keys."title"]
type = "string"
[keys."port"]
type = "integer"
default = 80
restart = true
[keys."db.socket"]
type = "string"
restart = true
[keys."db.pool"]
type = "integer"
default = 5
[keys."queues.$name.size"]
type = "integer"
default = 10
restart = true
[keys."queues.$name.retry"]
type = "integer"
default = 3
"#;

#[test]
fn what_waits_for_a_restart_stays_as_it_is() {
    let home = Home::new(WAITING, "title = a\nqueues.mail.size = 5\n");
    let running = home.effective().unwrap();
    let applied = |text: &str| {
        home.write("app.conf", text);
        home.effective().unwrap().without_restart(&running).to_json()
    };
    let mail = json!({"size": 5, "retry": 3});
    let before = json!({"title": "a", "port": 80, "db": {"pool": 5}, "queues": {"mail": mail}});
    assert_eq!(applied("title = a\nport = 81\nqueues.mail.size = 6\n"), before);
    // A key beside one that waits applies, a group that comes or goes waits as a whole.
    let mixed = "title = b\nport = 81\ndb.socket = x\ndb.pool = 6\nqueues.sms.retry = 1\n";
    let expected = json!({"title": "b", "port": 80, "db": {"pool": 6}, "queues": {"mail": mail}});
    assert_eq!(applied(mixed), expected);
    let retried = json!({"size": 5, "retry": 9});
    let expected = json!({"title": "a", "port": 80, "db": {"pool": 5}, "queues": {"mail": retried}});
    assert_eq!(applied("title = a\nqueues.mail.size = 7\nqueues.mail.retry = 9\n"), expected);
    home.write("app.conf", "queues.mail.size = 7\n");
    let desired = home.effective().unwrap();
    let waits = desired.changes_since(&desired.without_restart(&running));
    assert_eq!(waits.changed, ["queues.mail.size".parse::<Key>().unwrap()]);
    assert!(waits.new.is_empty() && waits.removed.is_empty(), "{waits:?}");
}

#[test]
fn what_was_looked_at_is_known_also_when_it_is_wrong() {
    let home = Home::new(WAITING, "include conf.d/*.conf\ninclude more.conf\ntitle = file:/nowhere/title\n");
    home.write("conf.d/a.conf", "port = x\n");
    let mut reads = Reads::default();
    let running = relmgr_conf::Effective::default();
    assert!(reload(&home.sources, &running, &mut reads).is_err());
    assert_eq!(reads.patterns, [home.path("conf.d/*.conf")]);
    for path in
        [home.path("app.conf"), home.path("conf.d/a.conf"), home.path("more.conf"), "/nowhere/title".into()]
    {
        assert!(reads.files.contains(&path), "{path:?} in {reads:?}");
    }
}

#[test]
fn a_directory_that_vanished_does_not_take_its_settings_with_it() {
    let home = Home::empty(WAITING);
    home.write("app.conf.d/a.conf", "title = a\n");
    let running = home.effective().unwrap();
    std::fs::remove_dir_all(home.path("app.conf.d")).unwrap();
    let faults = reload(&home.sources, &running, &mut Reads::default()).unwrap_err().to_string();
    assert!(faults.contains("app.conf.d: was there and has vanished"), "{faults}");
    std::fs::create_dir(home.path("app.conf.d")).unwrap();
    assert!(reload(&home.sources, &running, &mut Reads::default()).is_ok());
}

#[test]
fn the_applied_file_is_an_app_conf_of_the_same_values() {
    let app_conf = "a = \"x # y\"\nb = ${B:-two words}\ne = 7,\n";
    let home = Home::new(LAYERS, app_conf);
    let effective = home.effective().unwrap();
    let applied = effective.to_conf_text();
    let again = Home::new(LAYERS, &applied);
    assert_eq!(again.json(), effective.to_json());
    assert_eq!(again.effective().unwrap().hash(), effective.hash());
    assert!(applied.contains("app.conf:2:1, ${B}\n"), "{applied}");
    assert!(applied.contains("d = schema  # default\n"), "{applied}");
}

#[test]
fn a_check_away_from_the_node_leaves_references_alone() {
    let mut home = Home::new(LAYERS, "a = ${NOT_SET}\nb = file:/nowhere\nd = x\n");
    home.env("E", "no number");
    assert!(home.effective().is_err());
    assert_eq!(relmgr_conf::check(&home.sources), Ok(vec![]));
    home.write("app.conf", "x = 1\n");
    assert!(relmgr_conf::check(&home.sources).is_err());
}
