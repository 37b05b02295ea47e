//! Nodes that fetch from a real S3 server: signatures, channels, deltas, and everything that goes wrong on the way.

use std::process::Command;
use std::time::Duration;

use relmgr_testkit::kit::{Done, Node, Release, bin, release};
use relmgr_testkit::s3::{BUCKET, S3Server, SECRET_KEY, aws_cli};

/// A bucket, a key pair, and a node that trusts it.
struct Place {
    server: S3Server,
    keys: tempfile::TempDir,
    node: Node,
}

impl Place {
    fn new(extra: &str) -> Self {
        let (server, keys) = (S3Server::start(), tempfile::tempdir().unwrap());
        let place = Self { node: Node::new("relmgr-faulty", ""), server, keys };
        let made = place.cargo(&["keygen", "--no-password", "--out", &place.key()]).ok();
        place.settle(&format!("trusted_keys = [\"{}\"]\n{extra}", made.stdout.trim()));
        place
    }

    /// The node's settings; `more` goes into `[repository]`.
    fn settle(&self, more: &str) {
        let settings = format!(
            "app = \"relmgr-faulty\"\n[listen]\nhttp = [\"127.0.0.1:0\"]\n[upgrade]\nprobation = \"0s\"\n\
             [repository]\nurl = \"{}\"\nendpoint_url = \"{}\"\n{more}\n",
            self.server.url(),
            self.server.endpoint()
        );
        std::fs::write(self.node.home().join("relmgr.toml"), settings).unwrap();
    }

    fn key(&self) -> String {
        self.keys.path().join("relmgr.key").display().to_string()
    }

    fn start(&mut self) {
        let environment = self.server.environment();
        let environment: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.node.start_with(&environment);
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(bin("cargo-relmgr"));
        command.arg("relmgr").args(args).envs(self.server.environment());
        command.env("RELMGR_REPOSITORY", self.server.url());
        command
    }

    /// `cargo relmgr …` with the bucket's credentials.
    fn cargo(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    fn publish(&self, release: &Release, more: &[&str]) -> Done {
        let (out, key) = (release.out.display().to_string(), self.key());
        let args: Vec<_> = ["publish", &out, "--key", &key].iter().chain(more).copied().collect();
        self.cargo(&args)
    }

    fn object(&self, key: &str) -> std::path::PathBuf {
        self.server.directory().join(key)
    }
}

fn releases() -> (Release, Release) {
    (release("faulty", "", "1.0.0"), release("faulty", "second", "1.0.1"))
}

#[test]
fn a_node_follows_a_signed_channel_in_a_bucket_and_takes_the_delta() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.0"));

    let published = place.publish(&two, &["--json"]).ok().json();
    assert_eq!(published["signed"], true);
    assert!(published["deltas"]["1.0.0"].as_u64().unwrap() > 0, "{published}");
    let upgraded = place.node.relmgr(&["upgrade"]).ok();
    assert!(upgraded.stderr.contains("a delta") && upgraded.stderr.contains("from 1.0.0"), "{upgraded:?}");
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
    let packages = place
        .server
        .requests()
        .iter()
        .filter(|line| line.contains("GET /packages/releases/1.0.1.tar.gz"))
        .count();
    assert_eq!(packages, 0, "the package itself was not needed");
    place.node.relmgr(&["downgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.0"));
    // What the bucket holds can be checked by hand, and the list tells it.
    place.cargo(&["verify"]).ok();
    let list = place.cargo(&["list", "--json"]).ok().json();
    assert_eq!(list["releases"][0]["channels"], serde_json::json!(["VERSION", "default"]));
    // Credentials went nowhere.
    let history = std::fs::read_to_string(place.node.home().join("history.jsonl")).unwrap();
    assert!(!place.node.log().contains(SECRET_KEY) && !history.contains(SECRET_KEY));
}

#[test]
fn what_is_tampered_with_is_refused_and_the_old_release_serves() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    place.publish(&two, &[]).ok();
    let cases = [
        ("1.0.1.toml", "altered"),
        ("1.0.1.toml.minisig", "1.0.1.toml"),
        ("channels/default.toml.minisig", "channels/default.toml"),
    ];
    for (key, words) in cases {
        let whole = std::fs::read(place.object(key)).unwrap();
        let mut bytes = whole.clone();
        let at = whole.len() * 3 / 5;
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        std::fs::write(place.object(key), bytes).unwrap();
        place.node.relmgr(&["upgrade"]).failed(1, &[words]);
        assert_eq!(place.node.current().as_deref(), Some("1.0.0"), "{key}");
        std::fs::write(place.object(key), whole).unwrap();
    }
    // An altered delta is passed by; the package is as good, until it is altered, too.
    for key in ["1.0.0_1.0.1.delta", "1.0.1.tar.gz"] {
        let mut bytes = std::fs::read(place.object(key)).unwrap();
        let at = bytes.len() / 2;
        bytes[at] ^= 1;
        std::fs::write(place.object(key), bytes).unwrap();
    }
    let refused = place.node.relmgr(&["upgrade"]).failed(1, &["SHA-256 differs"]);
    assert!(refused.stderr.contains("the delta from 1.0.0 is not to be had"), "{refused:?}");
    std::fs::copy(two.out.join("1.0.1.tar.gz"), place.object("1.0.1.tar.gz")).unwrap();
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
}

#[test]
fn the_pointer_leads_no_node_back_and_an_old_document_none_at_all() {
    let (one, two) = releases();
    let mut place = Place::new("");
    for release in [&one, &two] {
        place.publish(release, &[]).ok();
    }
    place.start();
    let old: Vec<_> = ["channels/default.toml", "channels/default.toml.minisig"]
        .map(|key| (key, std::fs::read(place.object(key)).unwrap()))
        .into();
    place.node.relmgr(&["upgrade"]).ok();
    let key = place.key();
    place.cargo(&["promote", "1.0.0", "--key", &key]).failed(1, &["names 1.0.1, which is newer"]);
    place.cargo(&["promote", "1.0.0", "--key", &key, "--going-back"]).ok();
    place.node.relmgr(&["upgrade"]).failed(1, &["relmgr downgrade 1.0.0"]);
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
    // The document of before, validly signed: the node has seen a newer one.
    let new: Vec<_> = old.iter().map(|(key, _)| (*key, std::fs::read(place.object(key)).unwrap())).collect();
    for (key, bytes) in &old {
        std::fs::write(place.object(key), bytes).unwrap();
    }
    place.node.relmgr(&["upgrade"]).failed(1, &["lower than", "rollback attack"]);
    // The next good one is accepted.
    for (key, bytes) in &new {
        std::fs::write(place.object(key), bytes).unwrap();
    }
    place.cargo(&["promote", "1.0.1", "--key", &key]).ok();
    place.node.relmgr(&["upgrade"]).ok();
    // A freshly started supervisor remembers what it has seen.
    place.node.kill_supervisor();
    for (key, bytes) in &old {
        std::fs::write(place.object(key), bytes).unwrap();
    }
    place.start();
    place.node.relmgr(&["upgrade"]).failed(1, &["rollback attack"]);
}

#[test]
fn an_expired_channel_stops_upgrades_and_nothing_else() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    place.publish(&two, &["--expires", "0s"]).ok();
    place.node.relmgr(&["upgrade"]).failed(1, &["expired", "cargo relmgr channel renew"]);
    let status = place.node.relmgr(&["status"]).ok().stdout;
    assert!(status.contains("channel     default, serial"), "{status}");
    // What a person names is fetched all the same, and said.
    let named = place.node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert!(named.stderr.contains("expired"), "{named:?}");
    place.node.relmgr(&["downgrade"]).ok();
    let key = place.key();
    place.cargo(&["channel", "renew", "--key", &key]).ok();
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
}

#[test]
fn withdrawn_and_unsigned_releases_are_refused() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.publish(&two, &[]).ok();
    place.start();
    let key = place.key();
    place.cargo(&["yank", "1.0.0", "--reason", "loses votes", "--key", &key]).ok();
    place.node.relmgr(&["upgrade", "1.0.0"]).failed(1, &["withdrawn", "loses votes"]);
    // The mark taken away: the channel still says it.
    std::fs::remove_file(place.object("1.0.0.yanked")).unwrap();
    place.node.relmgr(&["upgrade", "1.0.0"]).failed(1, &["withdrawn", "loses votes"]);
    std::fs::remove_file(place.object("1.0.1.toml.minisig")).unwrap();
    place.node.relmgr(&["upgrade"]).failed(1, &["is not signed", "trusted_keys"]);
    assert_eq!(place.node.current(), None);
    // Another key's node.
    let made = place.cargo(&["keygen", "--no-password", "--out", &format!("{key}.second.key")]).ok();
    place.publish(&two, &[]).ok();
    place.node.kill_supervisor();
    place.settle(&format!("trusted_keys = [\"{}\"]", made.stdout.trim()));
    place.start();
    place.node.relmgr(&["upgrade"]).failed(1, &["not trusted"]);
}

/// Spread over the time that something takes, and the same in every run.
fn moments(count: u32, longest: Duration) -> impl Iterator<Item = Duration> {
    (0..count).map(move |at| longest * (at * 37 % count) / count)
}

#[test]
fn a_publish_that_is_killed_anywhere_is_completed_by_the_next() {
    let (one, two) = releases();
    let place = Place::new("");
    let begun = std::time::Instant::now();
    place.publish(&one, &[]).ok();
    let longest = begun.elapsed();
    let (out, key) = (two.out.display().to_string(), place.key());
    let trusted = std::fs::read_to_string(place.keys.path().join("relmgr.pub")).unwrap();
    let trusted = trusted.lines().nth(1).unwrap();
    let mut completed = 0;
    for moment in moments(100, longest) {
        let mut child = place
            .command(&["publish", &out, "--key", &key])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::park_timeout(moment);
        let _ = child.kill();
        child.wait().unwrap();
        // Readers see one release or the other, whole.
        let previous = tempfile::tempdir().unwrap();
        let out = previous.path().display().to_string();
        let seen = place.cargo(&["previous", "--trusted-key", trusted, "--json", "--out", &out]).ok().json();
        assert!(seen["version"] == "1.0.0" || seen["version"] == "1.0.1", "{seen}");
        if seen["version"] == "1.0.1" {
            completed += 1;
            // From the start again.
            let entries = std::fs::read_dir(place.server.directory()).unwrap();
            for entry in entries
                .map(|entry| entry.unwrap().path())
                .filter(|path| path.to_string_lossy().contains("1.0.1"))
            {
                std::fs::remove_file(entry).unwrap();
            }
            place.cargo(&["promote", "1.0.0", "--going-back", "--key", &key]).ok();
        }
    }
    println!("100 publishes were killed within {longest:?}; {completed} had come to their pointer");
    place.publish(&two, &[]).ok();
    place.cargo(&["verify", "--trusted-key", trusted]).ok();
}

#[test]
fn a_fetch_that_is_killed_anywhere_is_gone_on_with() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.publish(&two, &["--no-delta"]).ok();
    place.start();
    place.node.relmgr(&["upgrade", "1.0.0"]).ok();
    let begun = std::time::Instant::now();
    place.node.relmgr(&["fetch", "1.0.1"]).ok();
    let longest = begun.elapsed();
    place.node.relmgr(&["remove", "1.0.1"]).ok();
    let mut installed = 0;
    for moment in moments(100, longest) {
        let mut fetch =
            place.node.command(&["fetch", "1.0.1"]).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::park_timeout(moment);
        place.node.kill_supervisor();
        fetch.wait().unwrap();
        place.start();
        let listed = place.node.relmgr(&["releases", "--json"]).ok().json();
        let there =
            listed["releases"].as_array().unwrap().iter().any(|release| release["version"] == "1.0.1");
        if there {
            installed += 1;
            place.node.relmgr(&["remove", "1.0.1"]).ok();
        }
        assert_eq!(place.node.current().as_deref(), Some("1.0.0"));
    }
    println!("100 fetches were killed within {longest:?}; {installed} had been installed");
    place.node.relmgr(&["upgrade", "1.0.1"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
    let left = std::fs::read_dir(place.node.home().join("releases/.fetch")).unwrap().count();
    assert_eq!(left, 0, "what was fetched is cleared");
}

#[test]
fn the_server_in_trouble_ends_an_upgrade_and_the_next_one_works() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    place.publish(&two, &["--no-delta"]).ok();
    let cases = [
        ("channels/default.toml.minisig", 403, "AccessDenied", "s3:GetObject"),
        ("1.0.1.toml", 400, "ExpiredToken", "renew"),
        ("1.0.1.tar.gz", 403, "RequestTimeTooSkewed", "clock"),
        ("1.0.1.toml", 404, "NoSuchBucket", "the bucket"),
    ];
    for (key, status, code, words) in cases {
        // HEAD and the GET that asks why.
        place.server.answer(key, 2, status, code);
        place.node.relmgr(&["upgrade"]).failed(1, &[words]);
        assert_eq!(place.node.current().as_deref(), Some("1.0.0"));
        place.server.settle();
    }
    // Passing trouble is waited out.
    place.server.answer("1.0.1", 2, 503, "SlowDown");
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
}

/// `aws args…` with the bucket's credentials.
fn aws(place: &Place, args: &[&str]) -> Done {
    aws_cli().args(args).envs(place.server.environment()).output().unwrap().into()
}

#[test]
fn peoples_own_scripts_read_and_write_the_same_bucket() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    let url = |key: &str| format!("s3://{BUCKET}/releases/{key}");
    // What scripts have always asked.
    let version = aws(&place, &["s3", "cp", &url("VERSION"), "-"]).ok();
    assert_eq!(version.stdout, "1.0.0\n");
    let home = tempfile::tempdir().unwrap();
    let latest = home.path().join("latest.tar.gz");
    aws(&place, &["s3", "cp", &url("latest.tar.gz"), latest.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(&latest).unwrap(), std::fs::read(one.out.join("1.0.0.tar.gz")).unwrap());
    // What they have always written: three objects, no manifest beside them.
    let package = two.out.join("1.0.1.tar.gz");
    for key in ["1.0.1.tar.gz", "latest.tar.gz"] {
        aws(&place, &["s3", "cp", package.to_str().unwrap(), &url(key)]).ok();
    }
    let pointer = home.path().join("VERSION");
    std::fs::write(&pointer, "1.0.1").unwrap();
    aws(&place, &["s3", "cp", pointer.to_str().unwrap(), &url("VERSION")]).ok();
    // A node that trusts keys goes by its channel …
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.0"));
    place.node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["is not signed"]);
    // … and one that allows unsigned releases by the file, and the manifest inside the package.
    place.node.kill_supervisor();
    place.settle("allow_unsigned = true");
    place.start();
    place.node.relmgr(&["upgrade"]).ok();
    assert_eq!(place.node.current().as_deref(), Some("1.0.1"));
}

#[test]
fn a_full_disk_ends_a_fetch_or_an_unpack_and_room_mends_it() {
    let (one, two) = releases();
    let mut place = Place::new("");
    place.publish(&one, &[]).ok();
    place.publish(&two, &["--no-delta"]).ok();
    place.start();
    place.node.relmgr(&["upgrade", "1.0.0"]).ok();
    let package = std::fs::metadata(two.out.join("1.0.1.tar.gz")).unwrap().len();
    for (directory, size) in [(".fetch", package / 2), (".staging", package)] {
        let full = place.node.home().join("releases").join(directory);
        let options = format!("size={size}");
        nix::mount::mount(
            Some("full"),
            &full,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            Some(options.as_str()),
        )
        .expect("the tests mount file systems: run them as root");
        let refused = place.node.relmgr(&["upgrade", "1.0.1"]).failed(1, &["cannot be written"]);
        assert!(refused.stderr.contains("No space left on device"), "{directory}: {refused:?}");
        assert_eq!(place.node.current().as_deref(), Some("1.0.0"));
        assert_eq!(std::fs::read_dir(&full).unwrap().count(), 0, "{directory}: something is left");
        nix::mount::umount(&full).unwrap();
    }
    place.node.relmgr(&["upgrade", "1.0.1"]).ok();
}
