//! cargo builds the library.
//!
//! The same source gives the same bytes wherever it is checked out, as far as rustc allows:
//! * Paths are remapped: the workspace is `/source`, cargo's home `/cargo`, the target directory `/target`. (What
//!   `env!("CARGO_MANIFEST_DIR")` puts into the library is the real path all the same.)
//! * Symbols are stripped, and the build id is a hash of the content.
//!
//! The flags are the same for every build, so cargo reuses what it has. `--target` is always given: then flags do
//! not reach build scripts and macros, and the developer's own `target/release` stays as it is.
//!
//! None of that is for [`Purpose::Development`]: there cargo is called as the developer calls it, and what is compiled
//! for `cargo test` is not compiled once more.

use std::ffi::OsString;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use cargo_metadata::{Artifact, Message, TargetKind};

use crate::build::cargo_config::{CargoConfig, cargo_home, read_toml};
use crate::build::profile;
use crate::build::project::Project;
use crate::build::toolchain::{Rustc, Toolchain};
use crate::error::Error;
use crate::group::Group;

/// What is handed on to cargo.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct CargoOptions {
    /// Features to activate, separated by spaces or commas
    #[arg(long, short = 'F', value_name = "FEATURES", value_delimiter = ',')]
    pub(crate) features: Vec<String>,
    /// Do not activate the `default` feature
    #[arg(long)]
    pub(crate) no_default_features: bool,
    /// Activate all features
    #[arg(long)]
    pub(crate) all_features: bool,
    /// The profile to build with
    #[arg(long, value_name = "NAME", default_value = "release")]
    pub(crate) profile: String,
    /// Build for this target triple (default: cargo's `build.target`, or this machine's)
    #[arg(long, value_name = "TRIPLE")]
    pub(crate) target: Option<String>,
    /// Where cargo builds (default: the workspace's target directory)
    #[arg(long, value_name = "DIR")]
    pub(crate) target_dir: Option<PathBuf>,
    /// Fail when Cargo.lock would change
    #[arg(long)]
    pub(crate) locked: bool,
    /// Do not use the network
    #[arg(long)]
    pub(crate) offline: bool,
}

impl CargoOptions {
    /// The flags that every cargo command has to get.
    pub(crate) fn lock_flags(&self) -> impl Iterator<Item = String> {
        let flags = [(self.locked, "--locked"), (self.offline, "--offline")];
        flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.to_owned())
    }

    /// The triple to build for. glibc on Linux only.
    ///
    /// # Errors
    /// Another kind of system.
    pub(crate) fn triple(&self, config: &CargoConfig, rustc: &Rustc) -> Result<String, Error> {
        let variable = std::env::var("CARGO_BUILD_TARGET").ok();
        let configured = || config.text(&["build", "target"]).map(str::to_owned);
        let triple =
            self.target.clone().or(variable).or_else(configured).unwrap_or_else(|| rustc.host.clone());
        match triple.contains("-linux-gnu") {
            true => Ok(triple),
            false => Err(Error::Target { triple }),
        }
    }
}

/// What the library is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be shipped.
    Release,
    /// To be tried at once, on this machine.
    Development,
}

/// Where the library is to be built, and with what.
#[derive(Debug)]
pub(crate) struct Compiler<'a> {
    pub(crate) purpose: Purpose,
    pub(crate) project: &'a Project,
    pub(crate) options: &'a CargoOptions,
    pub(crate) toolchain: &'a Toolchain,
    pub(crate) config: &'a CargoConfig,
    pub(crate) rustc: &'a Rustc,
    pub(crate) triple: &'a str,
    /// What cargo runs in where somebody may end it; `None`: it ends with whoever has started us.
    pub(crate) group: Option<&'a Group>,
}

impl Compiler<'_> {
    /// Builds the library and answers where it lies. cargo's own words go to stderr.
    ///
    /// # Errors
    /// A profile that aborts on a panic; a build that fails.
    pub(crate) fn compile(&self) -> Result<PathBuf, Error> {
        let target_directory = self.target_directory()?;
        let inherited = inherited_flags(self.config);
        self.refuse_abort(&inherited)?;
        let mut cargo = self.toolchain.cargo();
        cargo.args(["build", "--lib", "--message-format", "json-render-diagnostics"]);
        cargo.arg("--package").arg(&self.project.package.repr);
        cargo.args(["--profile", &self.options.profile]);
        cargo.arg("--target-dir").arg(&target_directory);
        cargo.args(self.options.features.iter().flat_map(|feature| ["--features", feature]));
        let switches = [
            (self.options.no_default_features, "--no-default-features"),
            (self.options.all_features, "--all-features"),
        ];
        cargo.args(switches.iter().filter(|(on, _)| *on).map(|(_, flag)| flag));
        cargo.args(self.options.lock_flags());
        match self.purpose {
            Purpose::Release => self.reproducibly(&mut cargo, &inherited, &target_directory),
            Purpose::Development => {
                cargo.args(self.options.target.iter().flat_map(|triple| ["--target", triple]));
            }
        }
        self.run(cargo)
    }

    /// Has cargo make the same bytes of the same source, stripped.
    fn reproducibly(
        &self,
        cargo: &mut std::process::Command,
        inherited: &InheritedFlags,
        target_directory: &Path,
    ) {
        let mut flags = inherited.flags.clone();
        flags.extend(self.own_flags(target_directory));
        cargo.args(["--target", self.triple]);
        cargo.args(["--config", &format!("profile.{}.strip = \"symbols\"", self.options.profile)]);
        if inherited.from_environment {
            cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        } else {
            // Not through the environment: that would replace what `target.*.rustflags` says.
            cargo.arg("--config").arg(format!(
                "target.{}.rustflags = {}",
                self.triple,
                toml::Value::from(flags)
            ));
        }
    }

    fn run(&self, mut cargo: std::process::Command) -> Result<PathBuf, Error> {
        let failed = |source| Error::Run { program: "cargo".into(), source };
        cargo.stdin(Stdio::null()).stdout(Stdio::piped());
        let child = match self.group {
            Some(group) => group.spawn(&mut cargo),
            None => cargo.spawn(),
        };
        let mut child = child.map_err(failed)?;
        let mut library = None;
        if let Some(stdout) = child.stdout.take() {
            for message in Message::parse_stream(BufReader::new(stdout)) {
                if let Message::CompilerArtifact(artifact) = message.map_err(failed)? {
                    library = self.library_of(&artifact).or(library);
                }
            }
        }
        let status = match self.group {
            Some(group) => group.wait(&mut child),
            None => child.wait(),
        };
        let status = status.map_err(failed)?;
        if !status.success() {
            return Err(Error::Build { package: self.project.name.clone(), status });
        }
        library.ok_or_else(|| Error::NoArtifact { library: self.project.library.clone() })
    }

    fn library_of(&self, artifact: &Artifact) -> Option<PathBuf> {
        let ours =
            artifact.package_id == self.project.package && artifact.target.kind.contains(&TargetKind::CDyLib);
        let file = artifact.filenames.iter().find(|name| name.extension() == Some("so"));
        file.filter(|_| ours).map(PathBuf::from)
    }

    /// A panic that aborts could not be caught at the border: one bad request would end the host.
    fn refuse_abort(&self, inherited: &InheritedFlags) -> Result<(), Error> {
        let profile = &self.options.profile;
        let manifest = read_toml(&self.project.workspace_root().join("Cargo.toml"))?;
        let environment = |name: &str| std::env::var(name).ok();
        let place = profile::aborts_on_panic(profile, &manifest, self.config, environment);
        let for_target = get_flags(self.config, self.triple);
        let in_flags =
            || profile::flags_abort_on_panic(&inherited.flags) || profile::flags_abort_on_panic(&for_target);
        let place = place.or_else(|| in_flags().then(|| "the compiler flags (rustflags)".to_owned()));
        place.map_or(Ok(()), |place| Err(Error::PanicAbort { profile: profile.clone(), place }))
    }

    /// Where cargo builds, absolute.
    ///
    /// # Errors
    /// The working directory is gone.
    pub(crate) fn target_directory(&self) -> Result<PathBuf, Error> {
        match &self.options.target_dir {
            // cargo runs in the package's directory, the developer stands elsewhere.
            Some(path) => {
                std::path::absolute(path).map_err(|source| Error::Read { path: path.clone(), source })
            }
            None => Ok(self.project.metadata.target_directory.clone().into()),
        }
    }

    /// The flags that make the bytes independent of the place. Of several prefixes that fit, rustc takes the last.
    fn own_flags(&self, target_directory: &Path) -> Vec<String> {
        let mut places: Vec<(PathBuf, String)> = Vec::new();
        places.extend(cargo_home().map(|home| (home, "/cargo".into())));
        places
            .push((self.rustc.sysroot.join("lib/rustlib/src/rust"), format!("/rustc/{}", self.rustc.commit)));
        let root = self.project.workspace_root();
        let mut outside: Vec<_> =
            self.project.metadata.packages.iter().filter(|package| package.source.is_none()).collect();
        outside.sort_by(|a, b| a.id.cmp(&b.id));
        let outside =
            outside.iter().filter_map(|package| Some((package.manifest_path.parent()?, &package.name)));
        let outside = outside.filter(|(directory, _)| !directory.starts_with(root));
        places.extend(outside.map(|(directory, name)| (directory.into(), format!("/path/{name}"))));
        places.push((root.into(), "/source".into()));
        places.push((target_directory.into(), "/target".into()));
        let remap = |(from, to): (PathBuf, String)| {
            let mut flag = OsString::from("--remap-path-prefix=");
            flag.push(from);
            flag.push("=");
            flag.push(to);
            // cargo takes its configuration as text: a path that is none stays as it is.
            flag.into_string().ok()
        };
        let mut flags: Vec<String> = places.into_iter().filter_map(remap).collect();
        flags.push("-Clink-arg=-Wl,--build-id=sha1".into());
        flags
    }
}

/// Flags that the developer set.
struct InheritedFlags {
    flags: Vec<String>,
    from_environment: bool,
}

/// As cargo has it, the first place that says anything: `CARGO_ENCODED_RUSTFLAGS`, `RUSTFLAGS`, the configuration
/// for targets (which cargo joins with ours by itself), the configuration for all.
fn inherited_flags(config: &CargoConfig) -> InheritedFlags {
    let split = |text: String| text.split_whitespace().map(str::to_owned).collect();
    if let Ok(text) = std::env::var("CARGO_ENCODED_RUSTFLAGS") {
        let flags = text.split('\x1f').filter(|flag| !flag.is_empty()).map(str::to_owned).collect();
        return InheritedFlags { flags, from_environment: true };
    }
    if let Ok(text) = std::env::var("RUSTFLAGS") {
        return InheritedFlags { flags: split(text), from_environment: true };
    }
    let flags = match std::env::var("CARGO_BUILD_RUSTFLAGS") {
        Ok(text) => split(text),
        Err(_) => config.build_rustflags(),
    };
    InheritedFlags { flags, from_environment: false }
}

/// The flags that the configuration has for the triple itself.
fn get_flags(config: &CargoConfig, triple: &str) -> Vec<String> {
    let value = config.get(&["target", triple, "rustflags"]);
    let list = value.and_then(toml::Value::as_array).into_iter().flatten().filter_map(toml::Value::as_str);
    list.chain(value.and_then(toml::Value::as_str)).map(str::to_owned).collect()
}
