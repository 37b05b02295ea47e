//! What people see of the command line before a node runs: help, usage errors, errors without a node.

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

const COMMANDS: [&str; 17] = [
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
    "restart",
    "stop",
    "version",
    "completion",
];

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
    for internal in ["host", "preflight"] {
        assert!(!overview.contains(&format!("\n  {internal} ")), "{internal} is for the supervisor only");
    }
}

#[test]
fn commands_without_a_node_exit_with_4_and_say_how_to_start_one() {
    let home = home();
    let commands: [&[&str]; 13] = [
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
