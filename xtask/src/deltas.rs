//! `cargo xtask bench deltas`: what deltas of this workspace's own libraries cost, beside zstd with the base as prefix.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail, ensure};
use relmgr_testkit::kit;

use crate::run::{cargo, run};

/// One application, and what is changed in it.
struct Subject {
    name: &'static str,
    /// Its directory in the workspace.
    directory: &'static str,
    profile: &'static str,
    /// What both releases have and the workspace has not: a file, a text in it, what stands there instead.
    both: &'static [(&'static str, &'static str, &'static str)],
    changes: &'static [Change],
}

struct Change {
    name: &'static str,
    /// A file of the workspace, a text in it, and what stands there instead.
    edits: &'static [(&'static str, &'static str, &'static str)],
    /// cargo's arguments before the build, for the *older* of the two releases.
    older: &'static [&'static str],
    /// The edits make the older release rather than the newer one.
    backwards: bool,
}

const NOTHING: Change = Change { name: "no change", edits: &[], older: &[], backwards: false };

const KITCHEN_LINE: Change = Change {
    name: "one line of logic",
    edits: &[(
        "tests/fixtures/kitchen/src/lib.rs",
        "Duration::from_millis(10)",
        "Duration::from_millis(10 + u64::from(std::process::id() % 3))",
    )],
    older: &[],
    backwards: false,
};

/// Makes a large library of the kitchen: of all crates that the workspace knows this one has the most code.
const S3_CLIENT: &[(&str, &str, &str)] = &[
    (
        "tests/fixtures/kitchen/Cargo.toml",
        "axum.workspace = true",
        "aws-sdk-s3.workspace = true\naxum.workspace = true",
    ),
    (
        "tests/fixtures/kitchen/src/lib.rs",
        ".route(\"/greeting\", get(greeting))",
        ".route(\"/greeting\", get(greeting)).route(\"/s3\", get(s3))",
    ),
    (
        "tests/fixtures/kitchen/src/lib.rs",
        "async fn greeting(",
        "async fn s3() -> Answer<String> {\n\
         let latest = aws_sdk_s3::config::BehaviorVersion::latest();\n\
         let client = aws_sdk_s3::Client::from_conf(aws_sdk_s3::Config::builder().behavior_version(latest).build());\n\
         let got = client.get_object().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         let put = client.put_object().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         let head = client.head_object().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         let listed = client.list_objects_v2().bucket(\"b\").send().await.map_err(failed)?;\n\
         let begun = client.create_multipart_upload().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         let part = client.upload_part().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         let done = client.complete_multipart_upload().bucket(\"b\").key(\"k\").send().await.map_err(failed)?;\n\
         Ok(format!(\"{got:?} {put:?} {head:?} {listed:?} {begun:?} {part:?} {done:?}\"))\n}\n\n\
         async fn greeting(",
    ),
];

const SUBJECTS: &[Subject] = &[
    Subject {
        name: "live-poll",
        directory: "example-app",
        profile: "release",
        both: &[],
        changes: &[
            NOTHING,
            Change {
                name: "one line of logic",
                edits: &[(
                    "example-app/src/polls.rs",
                    "txn.add(&self.votes, &(id, option.ok_or(PollError::NoOption)?), 1)?;",
                    "txn.add(&self.votes, &(id, option.ok_or(PollError::NoOption)?), if id > 1_000_000 { 2 } else { 1 })?;",
                )],
                older: &[],
                backwards: false,
            },
            Change {
                name: "a new route",
                edits: &[
                    (
                        "example-app/src/api.rs",
                        ".route(\"/polls/{id}\", get(results))",
                        ".route(\"/polls/{id}\", get(results)).route(\"/polls/{id}/leader\", get(leader))",
                    ),
                    (
                        "example-app/src/api.rs",
                        "/// What a client did wrong:",
                        "async fn leader(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Result<String, Fault> {\n\
                         let results = shared.polls.results(id, Utc::now())?;\n\
                         let leader = results.options.into_iter().max_by_key(|option| option.votes);\n\
                         Ok(leader.map(|option| option.text).unwrap_or_default())\n}\n\n\
                         /// What a client did wrong:",
                    ),
                ],
                older: &[],
                backwards: false,
            },
            Change {
                name: "tokio 1.52.3 to the locked 1.54",
                edits: &[("Cargo.toml", "tokio = { version = \"1.54\"", "tokio = { version = \"1.52\"")],
                older: &["update", "--package", "tokio", "--precise", "1.52.3"],
                backwards: true,
            },
        ],
    },
    Subject {
        name: "kitchen",
        directory: "tests/fixtures/kitchen",
        profile: "release",
        both: &[],
        changes: &[NOTHING, KITCHEN_LINE],
    },
    Subject {
        name: "kitchen, dev profile",
        directory: "tests/fixtures/kitchen",
        profile: "dev",
        both: &[],
        changes: &[KITCHEN_LINE],
    },
    Subject {
        name: "kitchen with an S3 client, dev profile",
        directory: "tests/fixtures/kitchen",
        profile: "dev",
        both: S3_CLIENT,
        changes: &[KITCHEN_LINE],
    },
];

/// Prints the table.
pub fn main(rounds: usize) -> anyhow::Result<()> {
    run(cargo(&["build", "--release", "--package", "relmgr-store", "--example", "delta"]))?;
    let bench = Bench::new(rounds)?;
    println!("\nDeltas, medians of {rounds}; each step in a process of its own; sizes in KiB, memory in MiB");
    println!(
        "zstd: `-19 --patch-from` of the two libraries; the last columns of each half are ms and peak memory\n"
    );
    println!(
        "| library | change | library, KiB | package | delta | % of package | make | | apply | | zstd | % of package | make | | apply | |"
    );
    println!(
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |"
    );
    for subject in SUBJECTS {
        for change in subject.changes {
            // One that cannot be built, such as without a network, leaves the others.
            match bench.measure(subject, change) {
                Ok(row) => println!("{row}"),
                Err(error) => eprintln!("{}, {}: left out: {error:#}", subject.name, change.name),
            }
        }
    }
    Ok(())
}

/// Where the sources are changed and built, outside of what people edit.
struct Bench {
    rounds: usize,
    root: PathBuf,
    tool: PathBuf,
    zstd: bool,
}

/// One process: milliseconds, and KiB at its peak.
struct Cost {
    ms: f64,
    kib: f64,
}

impl std::fmt::Display for Cost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.0} ms | {:.0} MiB", self.ms, self.kib / 1024.0)
    }
}

impl Bench {
    fn new(rounds: usize) -> anyhow::Result<Self> {
        let zstd = Command::new("zstd").arg("--version").stdout(Stdio::null()).status();
        Ok(Self {
            rounds: rounds.max(1),
            root: kit::target_dir().join("relmgr-deltas"),
            tool: kit::target_dir().join("release/examples/delta"),
            zstd: zstd.is_ok_and(|status| status.success()),
        })
    }

    fn measure(&self, subject: &Subject, change: &Change) -> anyhow::Result<String> {
        // Both releases are built at the same path: a library holds the paths of its sources.
        let sources = self.root.join("workspace");
        let older = self.build(subject, &sources, change, change.backwards, "1.0.0")?;
        let newer = self.build(subject, &sources, change, !change.backwards, "1.0.1")?;
        let package = size(&self.root.join("out-1.0.1/1.0.1.tar.gz"))?;
        let library = |release: &Path| {
            let mut entries = std::fs::read_dir(release.join("lib"))?;
            let entry = entries.next().context("a release without a library")??;
            anyhow::Ok(entry.path())
        };
        let (old, new) = (library(&older)?, library(&newer)?);
        let (delta, dest) = (self.root.join("delta"), self.root.join("dest"));
        let tool = self.tool.to_str().context("a path that is not UTF-8")?;
        let [older, newer, delta, dest, old, new] = [&older, &newer, &delta, &dest, &old, &new]
            .map(|path| path.to_str().expect("below the target directory"));
        let make = self.cost(&[tool, "make", older, newer, delta], None)?;
        let apply = self.cost(&[tool, "apply", delta, older, newer, dest], Some(Path::new(dest)))?;
        let name = format!("{} | {}", subject.name, change.name);
        let sizes = |bytes: u64| {
            format!("{:.1} | {:.1} %", bytes as f64 / 1024.0, bytes as f64 * 100.0 / package as f64)
        };
        let ours = format!("{} | {make} | {apply}", sizes(size(Path::new(delta))?));
        let theirs = if self.zstd { self.zstd(old, new, &sizes)? } else { " | | | | | ".into() };
        let [library, package] = [size(Path::new(new))?, package].map(|bytes| bytes / 1024);
        Ok(format!("| {name} | {library} | {package} | {ours} | {theirs} |"))
    }

    fn zstd(&self, old: &str, new: &str, sizes: &dyn Fn(u64) -> String) -> anyhow::Result<String> {
        let (patch, dest) = (self.root.join("patch.zst"), self.root.join("dest"));
        let prefix = format!("--patch-from={old}");
        let [out, made] = [&patch, &dest].map(|path| path.to_str().expect("below the target directory"));
        // A window that holds both files: 27 bits are 128 MiB.
        let make = self.cost(&["zstd", "-q", "-f", "-19", "--long=27", &prefix, new, "-o", out], None)?;
        let apply =
            self.cost(&["zstd", "-q", "-f", "-d", "--long=27", &prefix, out, "-o", made], Some(&dest))?;
        Ok(format!("{} | {make} | {apply}", sizes(size(&patch)?)))
    }

    /// The median of `rounds` runs of `command`; `made` is removed before each.
    fn cost(&self, command: &[&str], made: Option<&Path>) -> anyhow::Result<Cost> {
        let mut costs = vec![];
        for _ in 0..self.rounds {
            if let Some(path) = made {
                remove(path)?;
            }
            let output = Command::new(&self.tool).arg("measure").args(command).output()?;
            ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = String::from_utf8(output.stdout)?;
            let (ms, kib) = text.trim().split_once(' ').context("the measure's own words")?;
            costs.push(Cost { ms: ms.parse()?, kib: kib.parse()? });
        }
        costs.sort_by(|one, two| one.ms.total_cmp(&two.ms));
        Ok(costs.swap_remove(costs.len() / 2))
    }

    /// Builds `subject`, with the change or without it, and unpacks it; the directory.
    fn build(
        &self,
        subject: &Subject,
        sources: &Path,
        change: &Change,
        edited: bool,
        version: &str,
    ) -> anyhow::Result<PathBuf> {
        copy_sources(sources)?;
        edit(sources, subject.both)?;
        if edited {
            edit(sources, change.edits)?;
            if !change.older.is_empty() {
                let mut command = cargo(change.older);
                command.current_dir(sources);
                run(command)?;
            }
        }
        let out = self.root.join(format!("out-{version}"));
        remove(&out)?;
        std::fs::create_dir_all(&out)?;
        let mut command = Command::new(kit::bin("cargo-relmgr"));
        command.args(["relmgr", "release", "--profile", subject.profile, "--version", version]);
        command.arg("--manifest-path").arg(sources.join(subject.directory).join("Cargo.toml"));
        command.arg("--out").arg(&out).env("CARGO_TARGET_DIR", self.root.join("target"));
        run(command)?;
        let directory = self.root.join(version);
        remove(&directory)?;
        let mut unpack = Command::new(&self.tool);
        unpack.arg("unpack").arg(out.join(format!("{version}.tar.gz"))).arg(&directory);
        run(unpack)?;
        Ok(directory)
    }
}

fn edit(sources: &Path, edits: &[(&str, &str, &str)]) -> anyhow::Result<()> {
    for (file, from, to) in edits {
        let path = sources.join(file);
        let text = std::fs::read_to_string(&path)?;
        ensure!(text.contains(from), "{file} no longer has `{from}`: correct the benchmark");
        std::fs::write(&path, text.replacen(from, to, 1))?;
    }
    Ok(())
}

fn size(path: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(path).with_context(|| path.display().to_string())?.len())
}

/// Removes a file or a directory, if there is one.
fn remove(path: &Path) -> anyhow::Result<()> {
    match path.symlink_metadata() {
        Ok(data) if data.is_dir() => Ok(std::fs::remove_dir_all(path)?),
        Ok(_) => Ok(std::fs::remove_file(path)?),
        Err(_) => Ok(()),
    }
}

/// Makes `sources` what the workspace has under version control. A file that is the same stays untouched, so that
/// cargo builds again only what changed.
fn copy_sources(sources: &Path) -> anyhow::Result<()> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(kit::workspace()).output()?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    }
    for name in String::from_utf8(listed.stdout)?.split_terminator('\0') {
        let (from, to) = (kit::workspace().join(name), sources.join(name));
        let content = std::fs::read(&from).with_context(|| from.display().to_string())?;
        if std::fs::read(&to).is_ok_and(|old| old == content) {
            continue;
        }
        std::fs::create_dir_all(to.parent().context("a file in no directory")?)?;
        std::fs::write(&to, content)?;
    }
    Ok(())
}
