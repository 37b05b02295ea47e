//! What people see of the command line before a node runs: help, usage errors, errors without a node.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

/// `relmgr` with `arguments`, in a directory and an environment that name no home.
fn relmgr(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relmgr"));
    command.args(arguments).env_remove("RELMGR_HOME").env("COLUMNS", "100").current_dir("/");
    command
}

fn output(command: &mut Command) -> Output {
    command.output().expect("relmgr was built")
}

/// Exit code, stdout and stderr as one text, with `home` called HOME.
fn seen(home: &Path, arguments: &[&str]) -> String {
    let home = home.canonicalize().expect("the test's home");
    let Output { status, stdout, stderr } = output(relmgr(arguments).arg("--home").arg(&home));
    let text = format!(
        "exit: {:?}\n--- stdout\n{}--- stderr\n{}",
        status.code(),
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr)
    );
    text.replace(&home.display().to_string(), "HOME")
}

/// A home with the least settings, in which no node runs.
fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a temporary directory");
    let settings = "app = \"live-poll\"\n[repository]\nurl = \"file:///srv/packages\"\n";
    std::fs::write(home.path().join("relmgr.toml"), settings).expect("relmgr.toml");
    home
}

const COMMANDS: [&str; 23] = [
    "run",
    "upgrade",
    "downgrade",
    "commit",
    "rollback",
    "check",
    "fetch",
    "remove",
    "prune",
    "status",
    "releases",
    "history",
    "ping",
    "reload",
    "conf",
    "state",
    "pull",
    "man",
    "restart",
    "self-upgrade",
    "stop",
    "version",
    "completion",
];

const CONF_COMMANDS: [&str; 8] = ["check", "effective", "new", "diff", "fmt", "set", "get", "unset"];

#[test]
fn help() {
    let help = |arguments: &[&str]| {
        let output = output(&mut relmgr(arguments));
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let overview = help(&["--help"]);
    insta::assert_snapshot!("help", overview);
    for command in COMMANDS {
        assert!(overview.contains(&format!("\n  {command} ")), "{command} is not listed");
        insta::assert_snapshot!(format!("help_{command}"), help(&[command, "--help"]));
    }
    for command in ["save", "load"] {
        insta::assert_snapshot!(format!("help_state_{command}"), help(&["state", command, "--help"]));
    }
    for command in CONF_COMMANDS {
        insta::assert_snapshot!(format!("help_conf_{command}"), help(&["conf", command, "--help"]));
    }
    for internal in ["host", "preflight", "takeover-check"] {
        assert!(!overview.contains(&format!("\n  {internal} ")), "{internal} is for the supervisor only");
    }
}

#[test]
fn commands_without_a_node_exit_with_4_and_say_how_to_start_one() {
    let home = home();
    let commands: [&[&str]; 16] = [
        &["ping"],
        &["status", "--json"],
        &["releases"],
        &["upgrade"],
        &["downgrade"],
        &["commit"],
        &["rollback"],
        &["check"],
        &["fetch"],
        &["remove", "1.2.3"],
        &["prune", "--keep", "3"],
        &["restart"],
        &["self-upgrade"],
        &["reload"],
        &["conf", "diff"],
        &["stop"],
    ];
    let expected = seen(home.path(), &["ping"]);
    insta::assert_snapshot!(expected);
    for arguments in commands {
        assert_eq!(seen(home.path(), arguments), expected, "{arguments:?}");
    }
}

#[test]
fn the_socket_of_a_dead_node_is_no_node() {
    let home = home();
    std::fs::create_dir(home.path().join("run")).unwrap();
    // Bound and dropped: the file stays, nobody listens.
    drop(UnixListener::bind(home.path().join("run/control.sock")).unwrap());
    assert_eq!(seen(home.path(), &["status"]), seen(self::home().path(), &["status"]));
}

#[test]
fn a_directory_that_is_no_home_is_called_so() {
    let directory = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(seen(directory.path(), &["status"]));
    insta::assert_snapshot!(seen(directory.path(), &["run"]));
    assert_eq!(seen(directory.path(), &["history"]), seen(directory.path(), &["status"]));
}

#[test]
fn a_node_without_a_history_says_so() {
    insta::assert_snapshot!(seen(home().path(), &["history"]));
    insta::assert_snapshot!(seen(home().path(), &["history", "--json"]));
}

#[test]
fn settings_that_are_wrong_keep_the_node_from_starting() {
    let home = home();
    let settings = home.path().join("relmgr.toml");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "novelty = 1\n").unwrap();
    insta::assert_snapshot!(seen(home.path(), &["run"]));
}

#[test]
fn a_damaged_state_is_never_taken_for_none() {
    let home = home();
    std::fs::write(home.path().join("state.json"), "{\"format\":1,\"app\":\"live-poll\",").unwrap();
    let text = seen(home.path(), &["run"]);
    assert!(text.starts_with("exit: Some(1)"), "{text}");
    assert!(text.contains("HOME/state.json") && text.contains("restore it from a backup"), "{text}");
}

#[test]
fn usage_errors_exit_with_2_and_name_the_argument() {
    let cases: [(&[&str], &str); 6] = [
        (&["upgrade", "v1"], "is not a version"),
        (&["upgrade", "../../etc"], "is not a version"),
        (&["remove"], "<VERSION>"),
        (&["prune"], "--keep"),
        (&["upgrade", "1.2.3", "--channel", "beta"], "--channel"),
        (&["novelty"], "novelty"),
    ];
    for (arguments, words) in cases {
        let output = output(&mut relmgr(arguments));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        assert!(text.contains(words), "{arguments:?}: {text}");
    }
}

const SCHEMA: &str = r#"
[keys."poll.title"]
type = "string"
default = "Live poll"
doc = "What the page shows."
[keys."poll.max"]
type = "integer"
max = 100
default = 20
[keys."Repo.password"]
type = "string"
secret = true
required = true
restart = true
"#;

/// A home without a node in which two releases lie; the second one is the one that served.
fn home_with_releases() -> tempfile::TempDir {
    let home = home();
    let newer = SCHEMA.replace("poll.max", "poll.limit").replace("Live poll", "Poll");
    for (version, schema) in [("1.0.0", SCHEMA), ("1.1.0", &newer)] {
        let directory = home.path().join("releases").join(version).join("conf");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("schema.toml"), schema).unwrap();
    }
    std::os::unix::fs::symlink("1.0.0", home.path().join("releases/current")).unwrap();
    home
}

const APP_CONF: &str = "# mine\npoll.max   =  5   # five\nRepo.password = \"hunter2-hunter2\"\n";

#[test]
fn conf_works_without_a_node() {
    let home = home_with_releases();
    std::fs::write(home.path().join("app.conf"), APP_CONF).unwrap();
    let conf = |arguments: &[&str]| {
        let all: Vec<_> = std::iter::once(&"conf").chain(arguments).copied().collect();
        let text = seen(home.path(), &all);
        assert!(!text.contains("hunter2"), "{text}");
        format!("$ relmgr {}\n{text}\n", all.join(" "))
    };
    let session: String = [
        &["check"] as &[&str],
        &["check", "--json"],
        &["effective", "--show-origin"],
        &["effective", "--json"],
        &["get", "poll.max"],
        &["get", "Repo.password"],
        &["get", "poll.title"],
        &["set", "poll.title", "a, b"],
        &["set", "poll.max", "7"],
        &["set", "poll.max", "7"],
        &["set", "poll.max", "700"],
        &["set", "poll.maxx", "7"],
        &["fmt", "--check"],
        &["fmt"],
        &["unset", "poll.title"],
        &["unset", "poll.title"],
        &["diff", "1.1.0"],
        &["diff", "1.1.0", "1.0.0", "--json"],
        &["check", "--release", "1.1.0"],
        &["check", "--release", "9.9.9"],
        &["check", "/nonexistent"],
        &["new", "--release", "1.0.0"],
    ]
    .map(conf)
    .concat();
    insta::assert_snapshot!(session);
    let text = std::fs::read_to_string(home.path().join("app.conf")).unwrap();
    assert_eq!(text, "# mine\npoll.max = 7  # five\nRepo.password = \"hunter2-hunter2\"\n");
}

#[test]
fn conf_says_what_is_missing() {
    insta::assert_snapshot!(seen(home().path(), &["conf", "check"]));
    let directory = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(seen(directory.path(), &["conf", "check"]));
    let session = ["set", "get", "unset"].map(|command| {
        let value: &[&str] = if command == "set" { &["5"] } else { &[] };
        seen(home().path(), &[&["conf", command, "poll.max"], value].concat())
    });
    insta::assert_snapshot!(session.concat());
}

#[test]
fn an_edit_keeps_mode_and_symlink_and_takes_secrets_from_stdin() {
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    let home = home_with_releases();
    let (path, real) = (home.path().join("app.conf"), home.path().join("real.conf"));
    std::fs::write(&real, "poll.max = 5\n").unwrap();
    std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
    std::os::unix::fs::symlink("real.conf", &path).unwrap();
    let mut set = relmgr(&["conf", "set", "Repo.password", "-", "--home"]);
    let set = set.arg(home.path()).stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut child = set.spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hunter2, hunter2\n").unwrap();
    assert!(child.wait().unwrap().success());
    assert!(std::fs::symlink_metadata(&path).unwrap().is_symlink());
    assert_eq!(
        std::fs::read_to_string(&real).unwrap(),
        "poll.max = 5\nRepo.password = \"hunter2, hunter2\"\n"
    );
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o640);
}

#[test]
fn a_file_that_is_none_is_not_edited() {
    let home = home_with_releases();
    std::fs::create_dir(home.path().join("app.conf")).unwrap();
    insta::assert_snapshot!(seen(home.path(), &["conf", "set", "poll.max", "5"]));
    std::fs::remove_dir(home.path().join("app.conf")).unwrap();
    for (content, words) in [
        (b"\xff\xfe" as &[u8], "is no text in UTF-8"),
        (&vec![b'#'; 5 << 20], "is larger than 4194304 bytes"),
    ] {
        std::fs::write(home.path().join("app.conf"), content).unwrap();
        let text = seen(home.path(), &["conf", "set", "poll.max", "5"]);
        assert!(text.starts_with("exit: Some(1)") && text.contains(words), "{text}");
        assert_eq!(std::fs::read(home.path().join("app.conf")).unwrap(), content);
    }
}

#[test]
fn the_version_needs_no_node() {
    let output = output(&mut relmgr(&["version", "--json"]));
    let versions: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["relmgr"], env!("CARGO_PKG_VERSION"));
    assert_eq!(versions["current"], serde_json::Value::Null);
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = String::from_utf8(output(&mut relmgr(&["completion", shell])).stdout).unwrap();
        for command in COMMANDS {
            assert!(script.contains(command), "{shell} does not complete {command}");
        }
    }
}

#[test]
fn the_host_is_the_supervisors_to_start() {
    let output = output(&mut relmgr(&["host"]));
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("relmgr run"));
}
