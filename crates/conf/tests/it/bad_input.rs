//! Whatever an operator can get wrong: named, placed, and never applied in part.

use std::os::unix::fs::PermissionsExt;

use crate::Home;

const SCHEMA: &str = r#"
[keys."poll.max_options"]
type = "integer"
default = 20
min = 2
max = 100

[keys."poll.title"]
type = "string"
default = "Live poll"

[keys."log.level"]
type = "enum"
values = ["debug", "info", "warn"]
default = "info"

[keys."http.listen"]
type = "address"

[keys."cache.ttl"]
type = "duration"

[keys."db.password"]
type = "string"
required = true
secret = true
env = "DB_PASSWORD"

[keys."queues.$name.size"]
type = "integer"
"#;

/// The faults of one `app.conf` whose password is set.
#[track_caller]
fn faults(app_conf: &str) -> String {
    Home::new(SCHEMA, &format!("db.password = 'x'\n{app_conf}")).faults()
}

#[test]
fn everything_is_said_at_once() {
    let app_conf = "\
poll.max_options = 500
poll.titel = Vote
log.level = inf   # the level
cache.ttl = 30
http.listen = example.com
poll.title = a#b
poll.max_options = 7
";
    let expected = r#"app.conf:6:15: poll.title: a `#` within a text without quotes
  6 | poll.title = a#b
    |               ^
  help: put the whole value in quotes, or a blank before the `#` if a comment begins there

app.conf:2:1: poll.titel: is not a key of this release
  2 | poll.titel = ***
    | ^^^^^^^^^^
  help: did you mean poll.title?

app.conf:7:1: poll.max_options: is set twice
  7 | poll.max_options = 7
    | ^^^^^^^^^^^^^^^^
  app.conf:1:1: it is set here first
  1 | poll.max_options = 500
    | ^^^^^^^^^^^^^^^^
  help: a file of app.conf.d may override app.conf

app.conf:4:13: cache.ttl: expected a duration such as 30s or 1h30m, found `30`: it has no unit
  4 | cache.ttl = 30
    |             ^^

app.conf:5:15: http.listen: expected a host and port such as example.com:8080, found `example.com`: it has no port
  5 | http.listen = example.com
    |               ^^^^^^^^^^^

app.conf:3:13: log.level: expected one of debug, info, warn, found `inf`
  3 | log.level = inf   # the level
    |             ^^^
  help: did you mean `info`?

app.conf:1:20: poll.max_options: expected an integer from 2 to 100, found `500`
  1 | poll.max_options = 500
    |                    ^^^

app.conf: db.password: is required and set nowhere: expected a text
  help: add `db.password = …`, or set the environment variable DB_PASSWORD"#;
    assert_eq!(Home::new(SCHEMA, app_conf).faults(), expected);
}

#[test]
fn wrong_types_are_named() {
    for (line, words) in [
        ("poll.max_options = 12abc", "expected an integer from 2 to 100, found `12abc`"),
        ("poll.max_options = 007", "a leading zero has more than one reading"),
        ("poll.max_options = 0x10", "found `0x10`"),
        ("poll.max_options = 1_0_", "found `1_0_`"),
        ("poll.max_options = 99999999999999999999", "it is more than 64 bits hold"),
        ("poll.max_options = 5, 6", "found a list of 2"),
        ("poll.title = a, b", "put all of it in quotes"),
        ("poll.title = [k = v]", "expected a text, found pairs"),
        ("log.level = Info", "did you mean `info`?"),
        ("http.listen = :8080", "0.0.0.0 stands for every IPv4 address"),
        ("http.listen = ::1:8080", "stands in brackets"),
        ("http.listen = 127.0.0.1:99999", "its port is no number up to 65535"),
        ("http.listen = 127.0.0.999:80", "neither a name nor an IP address"),
        ("cache.ttl = -1s", "it is negative"),
        ("cache.ttl = 1 h", "blanks and signs do not belong in it"),
        ("poll = 5", "is a group of keys and has no value itself"),
        ("queues = 5", "is a group of keys"),
        ("queues.mail = 5", "a key of it is queues.$name.size"),
        ("poll.title.x = 5", "poll.title is a value and has no keys below it"),
        ("queues.mail.sise = 5", "did you mean queues.mail.size?"),
        ("max_options = 5", "did you mean poll.max_options?"),
        ("cache.ttl = ${TTL}", "the environment variable TTL is not set"),
        ("cache.ttl = file:/nowhere/ttl", "the file /nowhere/ttl does not exist"),
        ("cache.ttl = file:/etc", "the file /etc is a directory"),
    ] {
        let faults = faults(line);
        assert!(faults.starts_with("app.conf:2:") && faults.contains(words), "{line}: {faults}");
        assert!(!faults.contains("\n\n"), "one mistake is one fault: {faults}");
    }
}

#[test]
fn a_release_without_a_schema_has_no_settings() {
    let home = Home::new("", "# nothing\npoll.title = x\n");
    let expected = "\
app.conf:2:1: poll.title: the release has no conf/schema.toml, so it has no settings
  2 | poll.title = ***
    | ^^^^^^^^^^
  help: remove the line, or run a release that has this key";
    assert_eq!(home.faults(), expected);
    assert_eq!(Home::new("", "# nothing\n").json(), serde_json::json!({}));
}

#[test]
fn a_file_that_is_no_text_is_never_taken_as_empty() {
    let home = Home::new("", "");
    for (bytes, words) in [
        (b"a = 1\n\xff\xfe".as_slice(), "app.conf:2:1: is no text file: a byte that is not UTF-8"),
        (b"a = 1\nb = \xc3(", "app.conf:2:5: is no text file"),
        (b"a = \0\n", "app.conf:1:5: is no text file: a NUL byte"),
        (b"\x7fELF\x02\x01\x01\0\0", "app.conf:1:8: is no text file"),
    ] {
        home.write("app.conf", bytes);
        assert!(home.faults().starts_with(words), "{}", home.faults());
    }
}

#[test]
fn a_file_of_100_mb_is_refused_before_it_is_read() {
    let home = Home::empty(SCHEMA);
    let file = std::fs::File::create(home.path("app.conf")).unwrap();
    file.set_len(100 * 1024 * 1024).unwrap();
    assert!(home.faults().contains("app.conf: is larger than 4194304 bytes"));
}

#[test]
fn what_stands_in_the_place_of_a_file_is_named() {
    let home = Home::empty(SCHEMA);
    std::fs::create_dir(home.path("app.conf")).unwrap();
    assert!(home.faults().contains("app.conf: is a directory; a file was expected"));

    let home = Home::empty(SCHEMA);
    std::os::unix::net::UnixListener::bind(home.path("app.conf")).unwrap();
    assert!(home.faults().contains("app.conf: cannot be read"));

    let home = Home::empty(SCHEMA);
    std::os::unix::fs::symlink("/dev/zero", home.path("app.conf")).unwrap();
    assert!(home.faults().contains("app.conf: is not a regular file"));

    let home = Home::empty(SCHEMA);
    std::os::unix::fs::symlink("app.conf", home.path("app.conf")).unwrap();
    assert!(home.faults().contains("app.conf: cannot be read"));

    let home = Home::new(SCHEMA, "db.password = x");
    home.write("app.conf.d", "a file");
    assert!(home.faults().contains("app.conf.d: the directory cannot be read"));
}

#[test]
fn a_file_that_may_not_be_read_is_never_taken_as_empty() {
    let home = Home::new(SCHEMA, "db.password = x");
    std::fs::set_permissions(home.path("app.conf"), std::fs::Permissions::from_mode(0o000)).unwrap();
    // Root may read everything; what is tested here is everybody else.
    if std::fs::read(home.path("app.conf")).is_err() {
        assert!(home.faults().contains("app.conf: cannot be read: Permission denied"));
    }
}

#[test]
fn a_file_that_vanished_does_not_take_the_settings_with_it() {
    let home = Home::new(SCHEMA, "db.password = x\npoll.title = Vote\n");
    let running = home.effective().unwrap();
    std::fs::remove_file(home.path("app.conf")).unwrap();
    let mut sources = home.sources.clone();
    sources.env.insert("DB_PASSWORD".into(), "x".into());
    let faults =
        relmgr_conf::reload(&sources, &running, &mut relmgr_conf::Reads::default()).unwrap_err().to_string();
    assert!(faults.contains("was there and has vanished; the running values stay"), "{faults}");
    // At a start it is as good as an empty one.
    assert!(relmgr_conf::effective(&sources).is_ok());
}

#[test]
fn a_broken_value_is_not_missing_as_well() {
    let faults = Home::new(SCHEMA, "db.password = a#b\n").faults();
    assert!(!faults.contains("is required"), "{faults}");
}
