//! The commands of both recipes of CI, taken out of the recipes and run in their order: a release is built, published,
//! deployed to staging over ssh, checked and promoted. What is the service's part (variables, secrets, outputs, a
//! workspace, credentials) is done here.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::ec2::{Ec2, GROUP};
use super::fleet::Fleet;
use super::{Done, bin, script, workspace};
use relmgr_testkit::kit::target_dir;
use serde_json::Value;

/// What is not run here: the machine's own packages, and the application's own tests.
fn is_left_out(command: &str) -> bool {
    command == "cargo test --locked" || command.starts_with("apt-get update && apt-get install ")
}

/// Whether it reads what others have published: then it checks who has signed that.
fn fetches(command: &str) -> bool {
    command.contains("get-prev-rel.sh") || command.contains("cargo relmgr promote ")
}

/// Where `cargo relmgr` is installed from.
const SOURCE: &str = "--path /the/source";

/// An application's checkout with upgrade-scripts/ in it, and the home of who runs CI.
struct Checkout<'fleet> {
    fleet: &'fleet Fleet,
    ec2: Ec2,
    root: tempfile::TempDir,
}

impl<'fleet> Checkout<'fleet> {
    fn new(fleet: &'fleet Fleet) -> Self {
        let root = tempfile::tempdir().unwrap();
        let checkout = Self { fleet, ec2: Ec2::start(vec![]), root };
        for directory in ["home", "bin", "shelf"] {
            std::fs::create_dir_all(checkout.path(directory)).unwrap();
        }
        let source = checkout.path("source");
        std::fs::create_dir_all(&source).unwrap();
        let words = "cp -r \"$0\" . && git init --quiet && git add --all && \
                     git -c user.name=t -c user.email=t@example.com commit --quiet --message=one && \
                     chown --recursive 4242 .";
        let made = Command::new("bash").args(["-c", words]).arg(script("")).current_dir(source).output();
        Done::from(made.unwrap()).ok();
        // cargo, but that what it installs lies on the shelf.
        let (shelf, bin) = (checkout.path("shelf"), checkout.path("bin"));
        let install = format!("cp {}/cargo-relmgr {}/", shelf.display(), bin.display());
        checkout.write(
            "bin/cargo",
            &format!(
                "if [ \"$*\" = 'install --locked {SOURCE} cargo-relmgr' ]; then exec {install}; fi\n\
                 if [ \"$1\" = install ]; then echo \"nobody asked for: $*\" >&2; exit 1; fi\nexec {} \"$@\"\n",
                cargo()
            ),
        );
        checkout
    }

    /// Writes a program of the shell's.
    fn write(&self, name: &str, words: &str) {
        std::fs::write(self.path(name), format!("#!/bin/sh\n{words}")).unwrap();
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The machine of a job: with Rust, and without `cargo relmgr`.
    fn new_machine(&self) {
        match std::fs::remove_file(self.path("bin/cargo-relmgr")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
            _ => {}
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// What the application's own manifest would say, to the `cargo relmgr` that is installed from now on: the fixture
    /// with `features`, built as tests build it.
    fn build_of(&self, features: &str, version: &str) {
        let manifest = workspace().join("tests/fixtures/faulty/Cargo.toml");
        let text = format!(
            "if [ \"$2\" = release ]; then\n    shift 2\n    set -- relmgr release --manifest-path {} --profile dev \
             --no-describe --version {version} --features '{features}' \"$@\"\nfi\nexec {} \"$@\"\n",
            manifest.display(),
            bin("cargo-relmgr").display()
        );
        self.write("shelf/cargo-relmgr", &text);
    }

    /// A command as a step runs it, with `environment`, none of relmgr's variables beside it, and the credentials for
    /// the bucket.
    fn command(&self, words: &str, environment: &BTreeMap<String, String>) -> Command {
        let mut command = Command::new("bash");
        let here = std::env::var("HOME").unwrap();
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        command.args(["-e", "-c", words]).current_dir(self.path("source")).stdin(Stdio::null());
        command.envs(self.fleet.server.environment()).env("HOME", self.path("home")).env("PATH", path);
        // Where cargo is at home.
        for (name, place) in [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")] {
            if std::env::var_os(name).is_none() {
                command.env(name, Path::new(&here).join(place));
            }
        }
        command.env("CARGO_TARGET_DIR", target_dir()).env("RUSTUP_TOOLCHAIN", toolchain());
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("RELMGR_"))
        {
            command.env_remove(name);
        }
        if environment.contains_key("SECURITY_GROUP") {
            self.ec2.aware(&mut command);
            command.env("CI_ADDRESS", "192.0.2.7");
        }
        command.envs(environment);
        command
    }

    fn run(&self, words: &str, environment: &BTreeMap<String, String>) -> Done {
        self.command(words, environment).output().unwrap().into()
    }

    /// The public key of somebody who has signed nothing.
    fn stranger(&self) -> String {
        let mut command = Command::new(bin("cargo-relmgr"));
        command.args(["relmgr", "keygen", "--no-password", "--out"]).arg(self.path("stranger.key"));
        Done::from(command.output().unwrap()).ok().stdout.trim().to_owned()
    }

    /// The variables and secrets that people have given to the service.
    fn given(&self) -> BTreeMap<&'static str, String> {
        let read = |path: &Path| std::fs::read_to_string(path).unwrap();
        let (network, host) = (&self.fleet.network, &self.fleet.network.hosts[0]);
        BTreeMap::from([
            ("RELMGR_REPOSITORY", self.fleet.server.url()),
            ("RELMGR_SOURCE", SOURCE.into()),
            ("RELMGR_VERSION", env!("CARGO_PKG_VERSION").into()),
            ("RELMGR_TRUSTED_KEYS", self.fleet.public_key().into()),
            ("RELMGR_KEY", read(&network.directory().join("ci.key"))),
            ("DEPLOY_KEY", read(&network.directory().join("id"))),
            ("KNOWN_HOSTS", read(&network.known_hosts())),
            ("STAGING_HOSTS", host.address.to_string()),
            ("STAGING_URLS", self.fleet.urls().remove(0)),
        ])
    }
}

/// The cargo of this machine.
fn cargo() -> String {
    Done::from(Command::new("which").arg("cargo").output().unwrap()).ok().stdout.trim().to_owned()
}

/// The toolchain of this project, which the fixture is built with.
fn toolchain() -> String {
    let text = std::fs::read_to_string(workspace().join("rust-toolchain.toml")).unwrap();
    let line = text.lines().find(|line| line.starts_with("channel")).unwrap();
    line.split('"').nth(1).unwrap().to_owned()
}

/// What a recipe says.
pub fn recipe(name: &str) -> Value {
    let words = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let parsed = Command::new("/usr/bin/python3").args(["-c", words]).arg(script(name)).output().unwrap();
    Done::from(parsed).ok().json()
}

/// What it says at its top, to who sets it up.
fn header(name: &str) -> String {
    let text = std::fs::read_to_string(script(name)).unwrap();
    text.lines().map_while(|line| line.strip_prefix('#')).collect()
}

/// The names of variables in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.split(|letter: char| !letter.is_ascii_uppercase() && letter != '_').collect()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &str)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name, value.as_str().unwrap()))
}

/// Whether a step's condition holds: that a variable has been given, or that it has not.
fn holds(condition: &str, given: &BTreeMap<&str, String>) -> bool {
    let words: Vec<&str> = condition.split(' ').collect();
    let [variable, comparison, "''"] = words[..] else { panic!("{condition} is not known here") };
    let given = given.contains_key(variable.strip_prefix("vars.").unwrap());
    match comparison {
        "!=" => given,
        "==" => !given,
        _ => panic!("{condition} is not known here"),
    }
}

/// Runs the jobs of GitHub's recipe for who has `more` variables than others have; how many commands that were.
fn github(checkout: &Checkout, more: BTreeMap<&'static str, String>) -> usize {
    let (workflow, header) = (recipe("github/release.yml"), header("github/release.yml"));
    let (variables, secrets) = header.split_once("Secrets: ").unwrap();
    let listed = BTreeMap::from([("vars", names(variables)), ("secrets", names(secrets))]);
    let mut given = checkout.given();
    given.extend(more);
    let stranger = BTreeMap::from([("RELMGR_TRUSTED_KEYS", checkout.stranger())]);
    let mut outputs = BTreeMap::<String, String>::new();
    let mut ran = 0;
    for job in ["test", "release", "staging", "promote"] {
        let job = &workflow["jobs"][job];
        checkout.new_machine();
        for step in job["steps"].as_array().unwrap() {
            let Some(words) = step["run"].as_str().filter(|words| !is_left_out(words)) else { continue };
            if step["if"].as_str().is_some_and(|condition| !holds(condition, &given)) {
                continue;
            }
            let value = |text: &str, given: &BTreeMap<&str, String>| {
                let Some(name) = text.strip_prefix("${{ ").and_then(|text| text.strip_suffix(" }}")) else {
                    return text.to_owned();
                };
                match name.split_once('.').unwrap() {
                    // What nobody has given is empty.
                    (kind @ ("vars" | "secrets"), name) => {
                        assert!(listed[kind].contains(name), "the recipe does not list {kind}.{name}");
                        given.get(name).cloned().unwrap_or_default()
                    }
                    ("needs", name) => outputs[name.rsplit('.').next().unwrap()].clone(),
                    _ => panic!("{name} is not known here"),
                }
            };
            let environment = |given: &BTreeMap<&str, String>| -> BTreeMap<String, String> {
                object(&workflow["env"])
                    .chain(object(&job["env"]))
                    .chain(object(&step["env"]))
                    .map(|(name, text)| (name.clone(), value(text, given)))
                    .collect()
            };
            if fetches(words) {
                let others = given.iter().chain(&stranger).map(|(name, value)| (*name, value.clone()));
                let others: BTreeMap<&str, String> = others.collect();
                let refused = checkout.run(words, &environment(&others));
                assert_ne!(refused.code, 0, "it does not check who has signed: {words}: {refused:?}");
            }
            let mut environment = environment(&given);
            let output = checkout.path("output");
            std::fs::write(&output, "").unwrap();
            environment.insert("GITHUB_OUTPUT".into(), output.display().to_string());
            checkout.run(words, &environment).ok();
            let written = std::fs::read_to_string(output).unwrap();
            let written = written.lines().filter_map(|line| line.split_once('='));
            outputs.extend(written.map(|(name, value)| (name.to_owned(), value.to_owned())));
            ran += 1;
        }
    }
    ran
}

/// Runs the jobs of CircleCI's recipe; how many commands that were.
fn circleci(checkout: &Checkout) -> usize {
    let (config, header) = (recipe("circleci/config.yml"), header("circleci/config.yml"));
    let contexts: BTreeMap<&str, BTreeSet<&str>> = header
        .split("context `")
        .skip(1)
        .map(|text| text.split_once('`').unwrap())
        .map(|(name, text)| (name, names(text)))
        .collect();
    let given = checkout.given();
    // What is for who names one is left out.
    assert_eq!(config["parameters"]["security-group"]["default"], "");
    let mut ran = 0;
    for job in ["test", "release", "staging", "promote"] {
        checkout.new_machine();
        // A context is a whole environment; a job without one has nothing.
        let runs = config["workflows"]["release"]["jobs"].as_array().unwrap();
        let context = runs.iter().find_map(|run| run[job]["context"].as_str());
        let listed = context.map(|name| contexts[name].clone()).unwrap_or_default();
        let steps = config["jobs"][job]["steps"].as_array().unwrap().iter();
        let steps = steps.flat_map(|step| match step["unless"]["steps"].as_array() {
            Some(steps) => steps.as_slice(),
            None => std::slice::from_ref(step),
        });
        for step in steps {
            let Some(words) = step["run"].as_str().filter(|words| !is_left_out(words)) else { continue };
            // The workspace lies where the recipe has it.
            let words = words.replace("/tmp/release", &checkout.path("workspace").display().to_string());
            let environment = given.iter().filter(|(name, _)| listed.contains(**name));
            let environment = environment.map(|(name, value)| ((*name).to_owned(), value.clone()));
            checkout.run(&words, &environment.collect()).ok();
            ran += 1;
        }
    }
    ran
}

#[test]
fn the_commands_of_both_recipes_take_a_push_to_staging_and_promote_it() {
    let fleet = Fleet::serving(1);
    let named = || {
        let listed = fleet.run(bin("cargo-relmgr"), &["relmgr", "list", "--json"]).ok().json();
        let releases = listed["releases"].as_array().unwrap().clone();
        let of = |channel: &str| {
            let named = |release: &&Value| release["channels"].as_array().unwrap().contains(&channel.into());
            releases.iter().find(named).map_or(String::new(), |one| one["version"].as_str().unwrap().into())
        };
        [of("staging"), of("default")]
    };
    let checkout = Checkout::new(&fleet);
    checkout.build_of("second", "1.0.5");
    assert_eq!(github(&checkout, BTreeMap::from([("SECURITY_GROUP", GROUP.into())])), 9);
    assert_eq!((checkout.ec2.opened(), checkout.ec2.open()), (vec!["192.0.2.7/32".into()], BTreeSet::new()));
    assert_eq!((fleet.versions(), named()), (vec!["1.0.5".into()], ["1.0.5".into(), "1.0.5".into()]));
    checkout.build_of("", "1.0.6");
    assert_eq!(circleci(&checkout), 9);
    assert_eq!((fleet.versions(), named()), (vec!["1.0.6".into()], ["1.0.6".into(), "1.0.6".into()]));
    // Under its name only: no channel names it.
    checkout.build_of("", "1.0.7");
    let given = checkout.given().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    checkout.new_machine();
    let words = "upgrade-scripts/ci/setup.sh >&2 && upgrade-scripts/build-release.sh --no-channel";
    let built = checkout.run(words, &given).ok();
    assert_eq!((built.stdout.as_str(), named()), ("1.0.7\n", ["1.0.6".into(), "1.0.6".into()]));
    fleet.deploy(&["-v", "1.0.7", "www1"]).ok();
    keys(&checkout);
    tools(&checkout);
}

/// `ci/ssh-key.sh`: once more it changes nothing, and what is no key is said.
fn keys(checkout: &Checkout) {
    let config = checkout.path("home/.ssh/config");
    let text = std::fs::read_to_string(&config).unwrap();
    assert_eq!(text.matches("Host *").count(), 1, "{text}");
    let given = |key: &str| {
        let given = checkout.given();
        let mut environment = BTreeMap::from([("KNOWN_HOSTS".to_owned(), given["KNOWN_HOSTS"].clone())]);
        environment.insert("DEPLOY_KEY".into(), key.into());
        environment
    };
    let mode = std::fs::metadata(checkout.path("home/.ssh/id_deploy")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = checkout.run("upgrade-scripts/ci/ssh-key.sh", &given("no key"));
    refused.failed(1, &["DEPLOY_KEY is no key without a password"]);
    let unset = checkout.run("upgrade-scripts/ci/ssh-key.sh", &BTreeMap::new());
    assert_ne!(unset.code, 0, "{unset:?}");
    assert!(unset.stderr.contains("DEPLOY_KEY: is not set"), "{unset:?}");
}

/// `ci/setup.sh`: another version than the one that was asked for, no way to get one, no checkout of git.
fn tools(checkout: &Checkout) {
    let setup = "upgrade-scripts/ci/setup.sh";
    let version = |version: &str| BTreeMap::from([("RELMGR_VERSION".to_owned(), version.to_owned())]);
    checkout.run(setup, &version(env!("CARGO_PKG_VERSION"))).ok();
    checkout.run(setup, &version("9.9.9")).failed(1, &["this is not cargo-relmgr 9.9.9"]);
    // A machine with cargo alone.
    let alone = checkout.path("alone");
    std::fs::create_dir(&alone).unwrap();
    std::os::unix::fs::symlink(cargo(), alone.join("cargo")).unwrap();
    let on_it = |words: &str| {
        let mut bare = checkout.command(words, &BTreeMap::new());
        bare.env("PATH", format!("{}:/usr/bin:/bin", alone.display())).env("CARGO_HOME", &alone);
        Done::from(bare.output().unwrap())
    };
    on_it("upgrade-scripts/ci/setup.sh --rust-only").ok();
    on_it("upgrade-scripts/ci/setup.sh --rust").failed(2, &["Usage: setup.sh"]);
    let bare = on_it(setup);
    assert_ne!(bare.code, 0, "{bare:?}");
    assert!(bare.stderr.contains("RELMGR_SOURCE: is not set"), "{bare:?}");
    std::fs::remove_dir_all(checkout.path("source/.git")).unwrap();
    checkout.run(setup, &BTreeMap::new()).failed(1, &["is no checkout: install git before it is made"]);
}
