//! What cannot run here as such (the recipes of CI services, cloud-init), and what tools say of the rest.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use serde_json::Value;

use super::pipeline::recipe;
use super::{Done, script, workspace};
use relmgr_testkit::kit::target_dir;

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn shellcheck_has_nothing_to_say_and_every_script_explains_itself() {
    let shell =
        |path: &PathBuf| read(path).starts_with("#!") && read(path).lines().next().unwrap().contains("sh");
    let scripts: Vec<PathBuf> = files(&script("")).into_iter().filter(shell).collect();
    assert!(scripts.len() >= 13, "{scripts:?}");
    let mut command = Command::new("shellcheck");
    command.args(&scripts).args([".ci/run", "runtime/src/supervisor/wrapper.sh"]);
    command.args(["crates/testkit/src/hosts/boot.sh"]).current_dir(workspace());
    let done = command.output();
    let done = done.unwrap_or_else(|error| panic!("shellcheck is missing ({error}): `cargo xtask setup`"));
    let done = Done::from(done);
    assert_eq!((done.code, done.stdout.as_str()), (0, ""), "{}", done.stdout);
    for path in scripts.iter().filter(|path| path.parent() == Some(&script(""))) {
        let help = Done::from(Command::new(path).arg("--help").output().unwrap());
        assert!(help.stdout.contains("Usage: ") || help.stderr.contains("Usage: "), "{}", path.display());
    }
}

/// `check-jsonschema`, installed below the target directory; the schemas of CI services travel in it.
fn check(schema: &str, path: &Path) -> Done {
    let directory = target_dir().join("check-jsonschema");
    let lock = std::fs::File::create(target_dir().join("check-jsonschema.lock")).unwrap();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive).map_err(|(_, error)| error).unwrap();
    if !directory.join("bin/check-jsonschema").exists() {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--target"]).arg(&directory).arg("check-jsonschema");
        Done::from(pip.output().unwrap()).ok();
    }
    let mut command = Command::new("python3");
    command.args(["-m", "check_jsonschema", "--builtin-schema", schema]).arg(path);
    command.env("PYTHONPATH", directory).output().unwrap().into()
}

#[test]
fn the_recipes_of_ci_fit_their_schemas_and_call_scripts_that_are_there() {
    let recipes = [
        ("vendor.github-workflows", "github/release.yml", ["jobs:", "jobz:"]),
        ("vendor.circle-ci", "circleci/config.yml", ["version: 2.1", "version: 9.9"]),
    ];
    for (schema, recipe, [right, wrong]) in recipes {
        let path = script(recipe);
        check(schema, &path).ok();
        let wrong = read(&path).replacen(right, wrong, 1);
        let place = tempfile::tempdir().unwrap();
        std::fs::write(place.path().join("wrong.yml"), wrong).unwrap();
        assert_ne!(
            check(schema, &place.path().join("wrong.yml")).code,
            0,
            "{schema} holds nothing to account"
        );
        let text = read(&path);
        let called = text.split("upgrade-scripts/").skip(1);
        let called: Vec<&str> = called
            .filter_map(|rest| rest.split([' ', '\n', ')']).next())
            .filter(|name| name.ends_with(".sh"))
            .collect();
        assert!(called.len() >= 6, "{called:?}");
        for name in called {
            use std::os::unix::fs::PermissionsExt;
            let found =
                std::fs::metadata(script(name)).unwrap_or_else(|error| panic!("{recipe}: {name}: {error}"));
            assert!(found.permissions().mode() & 0o111 != 0, "{name} cannot be run");
        }
    }
}

#[test]
fn policies_are_json_and_give_no_more_than_they_say() {
    for path in files(&script("iam")) {
        let policy: Value = serde_json::from_str(&read(&path)).unwrap();
        for statement in policy["Statement"].as_array().unwrap() {
            let actions = statement["Action"].to_string();
            assert!(!actions.contains('*') && !actions.contains("Delete"), "{}: {actions}", path.display());
            // Only what EC2 lets nobody narrow down.
            let narrow = statement["Resource"] != "*" || actions == "\"ec2:DescribeInstances\"";
            assert!(narrow, "{}", path.display());
        }
    }
}

/// What GitHub says of a job that asks for a token: its environment's name where it has one, else its branch's.
fn subjects(workflow: &Value, job: &Value) -> Vec<String> {
    let repository = "repo:example/live-poll";
    let environment = &job["environment"];
    if let Some(name) = environment["name"].as_str().or_else(|| environment.as_str()) {
        return vec![format!("{repository}:environment:{name}")];
    }
    // YAML reads `on` as a truth.
    let branches = workflow["true"]["push"]["branches"].as_array().unwrap();
    let subject = |branch: &Value| format!("{repository}:ref:refs/heads/{}", branch.as_str().unwrap());
    branches.iter().map(subject).collect()
}

#[test]
fn the_jobs_of_githubs_recipe_may_take_the_role_and_nobody_else_may() {
    let workflow = recipe("github/release.yml");
    let mut taking = BTreeSet::new();
    for (name, job) in workflow["jobs"].as_object().unwrap() {
        let action = |step: &Value| step["uses"].as_str().unwrap_or_default().to_owned();
        let steps = job["steps"].as_array().unwrap().iter();
        let takes = steps.map(action).any(|uses| uses.starts_with("aws-actions/configure-aws-credentials@"));
        // Only those can that may ask for a token.
        assert_eq!(takes, job["permissions"]["id-token"] == "write", "{name}");
        if takes {
            taking.extend(subjects(&workflow, job));
        }
    }
    let policy: Value = serde_json::from_str(&read(&script("iam/github-trust.json"))).unwrap();
    let [statement] = policy["Statement"].as_array().unwrap().as_slice() else { panic!("{policy}") };
    let allowed = &statement["Condition"]["StringEquals"]["token.actions.githubusercontent.com:sub"];
    let allowed = allowed.as_array().unwrap().iter().map(|subject| subject.as_str().unwrap().to_owned());
    assert_eq!(allowed.collect::<BTreeSet<_>>(), taking);
}

/// The files that cloud-init's example writes are ones that a node reads, and the units are those of the package.
#[test]
fn cloud_inits_example_writes_what_a_node_reads() {
    let path = script("cloud-init/user-data.yml");
    assert!(read(&path).starts_with("#cloud-config\n"));
    let data = recipe("cloud-init/user-data.yml");
    let content = |path: &str| {
        let files = data["write_files"].as_array().unwrap();
        files.iter().find(|file| file["path"] == path).unwrap()["content"].as_str().unwrap().to_owned()
    };
    let settings = content("/var/lib/relmgr/relmgr.toml");
    relmgr_model::settings::Settings::parse(&settings).unwrap();
    assert!(content("/var/lib/relmgr/app.conf").contains(" = "));
    // One command, each part of which is carried out only where the one before it was.
    let [Value::String(command)] = data["runcmd"].as_array().unwrap().as_slice() else {
        panic!("{}", data["runcmd"])
    };
    let parts: Vec<&str> = command.split(" && ").collect();
    let begins = |at: usize, words: &str| assert!(parts[at].starts_with(words), "{words}: {command}");
    begins(0, "curl --fail ");
    begins(1, "echo '");
    assert!(parts[1].ends_with("' | sha256sum --check"), "{command}");
    begins(2, "dpkg --install ");
    assert_eq!(parts[3..], ["systemctl enable --now relmgr.service"]);
}
