//! Type, schema and values together: what the derive macro makes is read by relmgr-conf, and what that makes of an
//! `app.conf` is decoded into the type again.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::time::Duration;

use relmgr_conf::{Effective, KeySpec, Schema, Sources, Type, effective};
use serde::Deserialize;

use super::{ByteSize, Secret, Settings, decode, schema};

/// Everything that settings may be made of.
#[derive(Debug, PartialEq, Deserialize, Settings)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[conf(removed("colour", "there are no colours any more"))]
struct Sink {
    /// What the pages show.
    ///
    /// With a second paragraph: "quotes" and a \ too.
    #[conf(min = 1, max = 40, pattern = "[^<]*", env = "SINK_TITLE")]
    #[serde(default = "title")]
    title: String,
    #[conf(range = 2..=100, example = 50, restart)]
    max_options: u8,
    #[serde(default, alias = "verbosity")]
    level: Level,
    #[conf(min = -0.5, max = 1)]
    #[serde(default)]
    ratio: f64,
    small_ratio: Option<f32>,
    port: Option<NonZeroU16>,
    #[serde(default)]
    ready: bool,
    #[serde(with = "crate::settings::duration", default = "half_an_hour")]
    #[conf(min = "1s", max = "1d")]
    closes_after: Duration,
    #[serde(with = "crate::settings::duration", default)]
    patience: Option<Duration>,
    #[serde(with = "crate::settings::duration", default)]
    steps: Vec<Duration>,
    #[serde(default = "upload")]
    #[conf(max = "1GB")]
    upload: ByteSize,
    #[serde(default)]
    #[conf(type = "bytes")]
    download: u64,
    listen: Option<SocketAddr>,
    peer: Option<IpAddr>,
    #[conf(type = "address", deprecated = "it is found out")]
    upstream: Option<String>,
    #[conf(type = "url", schemes = ["https", "http"])]
    hooks: Vec<Hook>,
    #[serde(default)]
    #[conf(name = "word")]
    weights: HashMap<String, i64>,
    queues: BTreeMap<String, Queue>,
    #[serde(default)]
    rules: Vec<Rule>,
    priv_dir: Option<PathBuf>,
    #[serde(rename = "Repo")]
    #[conf(restart)]
    repo: Repo,
    tls: Option<Tls>,
    limits: Limits,
    #[serde(flatten)]
    common: Common,
    #[serde(skip)]
    _kept: u32,
    r#type: Option<String>,
}

fn title() -> String {
    "Live \"poll\"\n".into()
}

fn half_an_hour() -> Duration {
    Duration::from_secs(1800)
}

fn upload() -> ByteSize {
    ByteSize(16 << 20)
}

/// How much is told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize, Settings)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// All.
    Debug,
    #[default]
    Info,
    #[serde(rename = "warn", alias = "warning")]
    Warning,
    #[serde(skip)]
    #[allow(dead_code, reason = "a word that nobody writes")]
    Never,
}

/// A type of the author's that is read from a text.
#[derive(Debug, PartialEq, Deserialize)]
struct Hook(String);

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Workers(u16);

#[derive(Debug, PartialEq, Deserialize, Settings)]
#[serde(default)]
struct Queue {
    #[conf(min = 1)]
    size: Workers,
    owners: BTreeMap<String, Owner>,
}

impl Default for Queue {
    fn default() -> Self {
        Self { size: Workers(4), owners: BTreeMap::new() }
    }
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Owner {
    mail: Option<String>,
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Rule {
    #[serde(rename = "type")]
    kind: Level,
    to: Option<String>,
    #[serde(default)]
    #[conf(max = 9)]
    weight: u32,
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Repo {
    username: String,
    #[conf(env = "REPO_PASSWORD")]
    password: Secret,
    #[conf(secret, type = "url")]
    url: Option<String>,
    #[conf(renamed_from = "size", renamed_from = "Pool.size")]
    #[serde(default = "ten")]
    pool_size: u32,
}

fn ten() -> u32 {
    10
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Tls {
    cert: PathBuf,
    #[serde(default = "modern")]
    suite: String,
}

fn modern() -> String {
    "modern".into()
}

/// Nothing of it has to be set.
#[derive(Debug, PartialEq, Deserialize, Settings)]
struct Limits {
    rate: Option<u32>,
}

#[derive(Debug, PartialEq, Deserialize, Settings)]
#[serde(default = "Common::new", rename_all(deserialize = "SCREAMING_SNAKE_CASE"))]
struct Common {
    node_name: String,
    #[conf(required)]
    region: String,
}

impl Common {
    fn new() -> Self {
        Self { node_name: "here".into(), region: "none".into() }
    }
}

fn text<S: Settings>() -> String {
    schema::<S>().unwrap().unwrap()
}

fn parsed<S: Settings>() -> Schema {
    let text = text::<S>();
    Schema::parse(&text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
}

fn run<S: Settings>(conf: &str) -> Effective {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("app.conf");
    std::fs::write(&path, conf).unwrap();
    let mut sources = Sources::new(Some(parsed::<S>()), path, home.path().join("app.conf.d"));
    sources.env.clear();
    effective(&sources).unwrap_or_else(|faults| panic!("{faults}"))
}

fn decoded<S: Settings>(conf: &str) -> Result<S, String> {
    decode(run::<S>(conf).to_json().to_string().as_bytes())
}

/// What has no default and is no option.
const REQUIRED: &str = "
max-options = 20
hooks = https://example.com/hook,
Repo.username = dbuser
Repo.password = hunter2
REGION = north
";

fn spec(schema: &Schema, name: &str) -> KeySpec {
    let found = schema.keys().find(|(key, _)| key == name);
    found
        .unwrap_or_else(|| panic!("no {name}: {:?}", schema.keys().map(|(key, _)| key).collect::<Vec<_>>()))
        .1
        .clone()
}

#[test]
fn the_schema_is_what_it_was() {
    insta::assert_snapshot!(text::<Sink>());
}

#[test]
fn relmgr_conf_reads_and_writes_the_schema() {
    let schema = parsed::<Sink>();
    assert_eq!(Schema::parse(&schema.to_toml()).unwrap(), schema);
    let title = spec(&schema, "title");
    assert_eq!(title.doc, "What the pages show.\n\nWith a second paragraph: \"quotes\" and a \\ too.");
    assert_eq!(title.default.unwrap().to_json(), super::tests::title());
    let upload = spec(&schema, "upload");
    assert_eq!(upload.default.unwrap().to_json(), 16 << 20);
    let pool = spec(&schema, "Repo.pool_size");
    let was: Vec<_> = pool.was.iter().map(ToString::to_string).collect();
    assert_eq!((was, pool.restart), (vec!["Repo.size".to_owned(), "Pool.size".into()], true));
    assert!(
        matches!(spec(&schema, "rules").ty, Type::List { items, .. } if matches!(&*items, Type::Record(fields) if fields["type"].required && !fields["to"].required))
    );
    assert!(spec(&schema, "Repo.password").secret && spec(&schema, "Repo.url").secret);
    assert!(spec(&schema, "REGION").required && spec(&schema, "REGION").default.is_none());
    assert!(!spec(&schema, "tls.cert").required && spec(&schema, "tls.suite").default.is_none());
    assert!(spec(&schema, "queues.$name.owners.$name2.mail").default.is_none());
}

#[test]
fn defaults_reach_the_type() {
    let sink: Sink = decoded(REQUIRED).unwrap();
    let expected = Sink {
        title: title(),
        max_options: 20,
        level: Level::Info,
        ratio: 0.0,
        small_ratio: None,
        port: None,
        ready: false,
        closes_after: half_an_hour(),
        patience: None,
        steps: vec![],
        upload: upload(),
        download: 0,
        listen: None,
        peer: None,
        upstream: None,
        hooks: vec![Hook("https://example.com/hook".into())],
        weights: HashMap::new(),
        queues: BTreeMap::new(),
        rules: vec![],
        priv_dir: None,
        repo: Repo {
            username: "dbuser".into(),
            password: Secret::new("hunter2".into()),
            url: None,
            pool_size: 10,
        },
        tls: None,
        limits: Limits { rate: None },
        common: Common { node_name: "here".into(), region: "north".into() },
        _kept: 0,
        r#type: None,
    };
    assert_eq!(sink, expected);
}

#[test]
fn what_is_set_reaches_the_type() {
    let conf = format!(
        "{REQUIRED}
        verbosity = warning
        ratio = 0.25
        small-ratio = 0.1
        port = 443
        closes-after = 1h30m1ms
        patience = 1d
        steps = 1s, 2m
        upload = 1.5MB
        download = 2KB
        listen = \"[::1]:80\"
        peer = 10.0.0.1
        upstream = db.example.com:5432
        weights.a = -3
        queues.mail.owners.ann.mail = \"ann@example.com\"
        queues.print.size = 9
        rules = [type = debug, weight = 3], [type = info, to = x]
        tls.cert = /etc/cert.pem
        Pool.size = 20
        colour = red
        NODE_NAME = there
        type = x"
    );
    let effective = run::<Sink>(&conf);
    assert_eq!(effective.warnings().len(), 4, "{:?}", effective.warnings());
    let sink: Sink = decode(effective.to_json().to_string().as_bytes()).unwrap();
    assert_eq!((sink.level, sink.ratio, sink.small_ratio), (Level::Warning, 0.25, Some(0.1)));
    assert_eq!((sink.port, sink.closes_after), (NonZeroU16::new(443), Duration::from_millis(5_400_001)));
    assert_eq!(sink.patience, Some(Duration::from_secs(86_400)));
    assert_eq!(sink.steps, [Duration::from_secs(1), Duration::from_secs(120)]);
    assert_eq!((sink.upload, sink.download), (ByteSize(3 << 19), 2048));
    assert_eq!((sink.listen, sink.peer), ("[::1]:80".parse().ok(), "10.0.0.1".parse().ok()));
    assert_eq!(sink.weights["a"], -3);
    assert_eq!(sink.queues["mail"].size, Workers(4));
    assert_eq!(sink.queues["mail"].owners["ann"].mail.as_deref(), Some("ann@example.com"));
    assert_eq!(sink.queues["print"].size, Workers(9));
    let rules: Vec<_> = sink.rules.iter().map(|rule| (rule.kind, rule.to.as_deref(), rule.weight)).collect();
    assert_eq!(rules, [(Level::Debug, None, 3), (Level::Info, Some("x"), 0)]);
    assert_eq!(sink.tls, Some(Tls { cert: "/etc/cert.pem".into(), suite: "modern".into() }));
    assert_eq!((sink.repo.pool_size, sink.common.node_name.as_str()), (20, "there"));
}

#[test]
fn each_bound_is_held() {
    for line in [
        "title = \"<b>\"",
        "ratio = -0.6",
        "closes-after = 999ms",
        "upload = 2GB",
        "port = 0",
        "level = loud",
        "hooks = ftp://example.com/,",
        "rules = [type = debug, weight = 10],",
        "queues.a.size = 0",
        "weights.a = x",
        "listen = localhost:80",
    ] {
        let key = line.split_once(' ').unwrap().0;
        let others: String =
            REQUIRED.lines().filter(|line| !line.starts_with(key)).map(|line| format!("{line}\n")).collect();
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("app.conf");
        std::fs::write(&path, format!("{others}{line}\n")).unwrap();
        let faults = effective(&Sources::new(Some(parsed::<Sink>()), path, "/nonexistent")).unwrap_err();
        assert_eq!(faults.len(), 1, "{line}: {faults}");
        assert_eq!(faults.iter().next().unwrap().key.as_deref(), Some(key), "{faults}");
    }
}

#[test]
fn a_groups_default_is_its_parents() {
    #[derive(Deserialize, Settings)]
    #[serde(default)]
    struct Outer {
        inner: Inner,
        count: u64,
    }
    #[derive(Deserialize, Settings)]
    #[serde(default)]
    struct Inner {
        name: String,
        #[serde(flatten)]
        more: More,
    }
    #[derive(Default, Deserialize, Settings)]
    struct More {
        on: bool,
    }
    impl Default for Inner {
        fn default() -> Self {
            Self { name: "inner".into(), more: More { on: true } }
        }
    }
    impl Default for Outer {
        fn default() -> Self {
            Self { inner: Inner { name: "outer".into(), ..Inner::default() }, count: 7 }
        }
    }
    let outer: Outer = decoded("").unwrap();
    assert_eq!((outer.inner.name.as_str(), outer.inner.more.on, outer.count), ("outer", true, 7));
    assert_eq!(decoded::<Inner>("").unwrap().name, "inner");
}

#[test]
fn what_no_schema_can_say_is_told() {
    #[derive(Deserialize, Settings)]
    struct Bad {
        #[serde(default = "full")]
        names: BTreeMap<String, u32>,
        #[serde(default = "far")]
        far: u64,
        #[conf(max = 300)]
        small: u8,
        keys: Vec<Secret>,
        #[serde(default = "nan")]
        nan: f64,
        rules: Vec<BadRule>,
        #[serde(rename = "*")]
        star: u8,
    }
    #[derive(Deserialize, Settings)]
    struct BadRule {
        #[conf(env = "X")]
        word: String,
    }
    fn full() -> BTreeMap<String, u32> {
        [("a".to_owned(), 1)].into()
    }
    fn far() -> u64 {
        u64::MAX
    }
    fn nan() -> f64 {
        f64::NAN
    }
    insta::assert_snapshot!(schema::<Bad>().unwrap_err().to_string());
    #[derive(Deserialize, Settings)]
    #[serde(transparent)]
    struct One {
        _one: u8,
    }
    impl Settings for One {
        fn keys() -> Option<super::shape::Shape> {
            Some(<Self as super::Setting>::shape())
        }
    }
    assert!(schema::<One>().unwrap_err().to_string().contains("use a struct with named fields"));
}

#[test]
fn a_schema_that_is_written_by_hand_is_not_made() {
    assert_eq!(schema::<crate::NoSettings>(), Ok(None));
}

#[test]
fn an_error_shows_no_secret() {
    /// Its reader repeats the text.
    #[derive(Debug, Deserialize)]
    #[serde(try_from = "String")]
    struct Fussy;
    impl TryFrom<String> for Fussy {
        type Error = String;
        fn try_from(text: String) -> Result<Self, String> {
            Err(format!("`{text}` and {text:?} will not do"))
        }
    }
    impl std::fmt::Display for Fussy {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("fussy")
        }
    }
    #[derive(Debug, Deserialize, Settings)]
    struct Plain {
        inner: Inner,
    }
    #[derive(Debug, Deserialize, Settings)]
    struct Inner {
        #[conf(secret, type = "string")]
        _word: Option<Fussy>,
    }
    let error = decode::<Plain>(br#"{"inner": {"_word": "hunter\"2"}}"#).unwrap_err();
    assert!(error.contains("`***` and \"***\" will not do"), "{error}");
    assert!(!error.contains("hunter"), "{error}");
    let error = decode::<Plain>(br#"{"inner": {"_word": "hunter2}}"#).unwrap_err();
    assert!(error.contains("no JSON at line 1") && !error.contains("hunter"), "{error}");
}

#[test]
fn durations_and_sizes_are_the_nodes() {
    use proptest::prelude::*;
    #[derive(Debug, PartialEq, Deserialize, Settings)]
    struct Units {
        #[serde(with = "crate::settings::duration")]
        time: Duration,
        size: ByteSize,
    }
    #[derive(Debug, PartialEq, serde::Serialize, Deserialize)]
    struct Back {
        #[serde(with = "crate::settings::duration")]
        times: Vec<Option<Duration>>,
    }
    let mut runner = proptest::test_runner::TestRunner::default();
    let some = (any::<u64>(), 0..1_000_000_000_u32, any::<u64>());
    runner
        .run(&some, |(seconds, nanos, bytes)| {
            let (time, size) = (Duration::new(seconds, nanos), ByteSize(bytes));
            let times = Back { times: vec![Some(time), None] };
            let text = serde_json::to_string(&times).unwrap();
            prop_assert_eq!(serde_json::from_str::<Back>(&text).unwrap(), times);
            // As the operator writes it, by way of the node.
            let conf = format!("time = {}\nsize = {size}", super::units::print_duration(time));
            prop_assert_eq!(decoded::<Units>(&conf).unwrap(), Units { time, size });
            Ok(())
        })
        .unwrap();
}
