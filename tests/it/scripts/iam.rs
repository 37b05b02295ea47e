//! The policies of iam/, held against what was asked of the bucket: all of it is allowed, by a statement for its very
//! object, and nothing is allowed that nobody asks.

use std::collections::BTreeSet;
use std::ops::RangeBounds;

use relmgr_testkit::s3::{BUCKET, S3Server};
use serde_json::Value;

/// Allowed and not asked by any story: what a large upload that is broken off asks.
const UNASKED: [&str; 1] = ["s3:AbortMultipartUpload"];

/// One permission that a request needs.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Needed {
    action: &'static str,
    resource: String,
    /// What the condition `s3:prefix` is held against.
    prefix: Option<String>,
}

/// The permissions that the request `line` needs; none where it is for another bucket.
fn needed(server: &S3Server, line: &str) -> Vec<Needed> {
    let (method, uri) = line.split_once(' ').unwrap();
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let Some(key) = path.trim_start_matches('/').strip_prefix(BUCKET) else { return vec![] };
    let key = key.trim_start_matches('/').replace("%2F", "/");
    let bucket = format!("arn:aws:s3:::{BUCKET}");
    let list = |prefix: String| Needed {
        action: "s3:ListBucket",
        resource: bucket.clone(),
        prefix: Some(prefix).filter(|prefix| !prefix.is_empty()),
    };
    if key.is_empty() {
        let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        assert!(method == "GET" && asked("list-type=") == Some("2"), "{line}");
        return vec![list(asked("prefix=").unwrap_or_default().replace("%2F", "/"))];
    }
    let object = |action| Needed { action, resource: format!("{bucket}/{key}"), prefix: None };
    match method {
        // Whether one that is not there is answered with 404 or with 403 is the permission to list, held against the
        // object's own name.
        "GET" | "HEAD" if !server.root().join(BUCKET).join(&key).exists() => {
            vec![object("s3:GetObject"), list(key)]
        }
        "GET" | "HEAD" => vec![object("s3:GetObject")],
        "PUT" | "POST" => vec![object("s3:PutObject")],
        "DELETE" if query.contains("uploadId=") => vec![object("s3:AbortMultipartUpload")],
        "DELETE" => vec![object("s3:DeleteObject")],
        other => panic!("{other} is asked of no bucket"),
    }
}

/// The words of a value that is one or several.
fn words(value: &Value) -> Vec<&str> {
    match value {
        Value::Array(many) => many.iter().map(|one| one.as_str().unwrap()).collect(),
        one => vec![one.as_str().unwrap()],
    }
}

/// Whether `text` is what `pattern` says, whose only `*` is its end.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => !start.contains('*') && text.starts_with(start),
        None => pattern == text,
    }
}

fn allows_one(statement: &Value, needed: &Needed) -> bool {
    let condition = &statement["Condition"];
    let prefix_fits = || {
        let patterns = words(&condition["StringLike"]["s3:prefix"]);
        needed.prefix.as_ref().is_some_and(|prefix| patterns.iter().any(|pattern| fits(pattern, prefix)))
    };
    statement["Effect"] == "Allow"
        && words(&statement["Action"]).contains(&needed.action)
        && words(&statement["Resource"]).iter().any(|pattern| fits(pattern, &needed.resource))
        && (condition.is_null() || prefix_fits())
}

/// Fails unless the requests `those` are what the policy allows, and need all of it.
#[track_caller]
pub fn allows(server: &S3Server, policy: &str, those: impl RangeBounds<usize>) {
    let text = std::fs::read_to_string(super::script("iam").join(policy)).unwrap();
    let text = text.replace("example-app-packages", BUCKET).replace("live-poll", "releases");
    let statements: Value = serde_json::from_str(&text).unwrap();
    let statements = statements["Statement"].as_array().unwrap();
    let requests = server.requests().into_iter().enumerate();
    let requests = requests.filter(|(at, _)| those.contains(at)).map(|(_, line)| line);
    let needed: BTreeSet<Needed> = requests.flat_map(|line| needed(server, &line)).collect();
    for needed in &needed {
        let allowed = statements.iter().any(|statement| allows_one(statement, needed));
        assert!(allowed, "{policy} does not allow {needed:?}");
    }
    for statement in statements {
        for action in words(&statement["Action"]) {
            let asked = needed.iter().any(|needed| needed.action == action && allows_one(statement, needed));
            assert!(
                asked || UNASKED.contains(&action),
                "{policy}: {} allows {action}, which nobody asks",
                statement["Sid"]
            );
        }
    }
}
