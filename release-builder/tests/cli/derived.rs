//! The schema of an application whose settings are derived. Called by the test of `new`, which has compiled one.

use std::path::Path;

use relmgr_conf::Schema;
use relmgr_store::package;
use relmgr_store::repository::BuiltRelease;
use serde_json::Value;

use crate::fixture::{command, fails, succeeds};

const SETTING: &str = "    /// The word before the name.\n    #[conf(min = 1)]\n    pub greeting: String,\n";
const DEFAULT: &str = "            greeting: \"Hello\".into(),\n";

/// The application `hello`, released once and published in its own `packages/`.
pub(crate) fn what_the_settings_type_says_is_what_travels(hello: &Path, target: &Path) {
    let build = ["--profile", "dev", "--target-dir", target.to_str().unwrap(), "--offline"];
    let run = |args: &[&str]| succeeds(command(hello, &[args, &build].concat()));
    let refused = |args: &[&str], words: &[&str]| {
        let stderr = fails(command(hello, &[args, &build].concat()));
        for words in words {
            assert!(stderr.contains(words), "no `{words}` in {stderr}");
        }
    };

    // 1. The schema is the type's, in the release as on the terminal.
    let schema = run(&["conf", "schema"]);
    let travelled = packaged_schema(&hello.join("target/relmgr"));
    assert_eq!(Schema::parse(&travelled).unwrap(), Schema::parse(&schema).unwrap());
    assert!(
        travelled.contains("[keys.\"greeting\"]")
            && travelled.contains("doc = \"The word before the name.\"")
    );

    // 2. An operator's file is written and checked without a node.
    run(&["conf", "new", "--out", "node/app.conf"]);
    run(&["conf", "check", "node/app.conf"]);
    write(hello, "node/app.conf", "greeting = \"\"\ngreting = x\n");
    let place = "node/app.conf:1:12: greeting: expected a text of at least 1 characters";
    refused(&["conf", "check", "node/app.conf"], &[place, "did you mean greeting?"]);

    // 3. A file that says the same travels as it was written; one that does not stops the build.
    write(hello, "conf/schema.toml", &format!("# By hand.\n{travelled}"));
    let version = run(&["release"]);
    assert!(packaged_schema(&hello.join("target/relmgr")).starts_with("# By hand.\n"));
    write(hello, "conf/schema.toml", &travelled.replace("\"Hello\"", "\"Hi\""));
    let difference = "greeting: default is Hi in conf/schema.toml, Hello in the settings type";
    refused(
        &["release"],
        &["conf/schema.toml and the settings type disagree", difference, "remove the file"],
    );
    assert_eq!(std::fs::read_to_string(hello.join("target/relmgr/VERSION")).unwrap(), version);
    std::fs::remove_dir_all(hello.join("conf")).unwrap();

    // 4. What the new code asks of operators, against what nodes run.
    let lib = std::fs::read_to_string(hello.join("src/lib.rs")).unwrap();
    let altered = |setting: &str, default: &str| {
        assert!(lib.contains(SETTING) && lib.contains(DEFAULT), "{lib}");
        write(hello, "src/lib.rs", &lib.replace(SETTING, setting).replace(DEFAULT, default));
    };
    let renamed =
        SETTING.replace("#[conf(", "#[serde(rename = \"word\")]\n    #[conf(renamed_from = \"greeting\", ");
    let required = "    #[conf(required, secret)]\n    pub key: String,\n";
    altered(&format!("{renamed}{required}"), &format!("{DEFAULT}            key: String::new(),\n"));
    let url = format!("file://{}/packages", hello.display());
    let diff = run(&["conf", "diff", "--repository", &url]);
    assert_eq!(
        diff,
        "+ key: a text; REQUIRED: set it before the upgrade\n~ greeting is called word now; the old name is still read\n"
    );
    let diff: Value = serde_json::from_str(&run(&["conf", "diff", "--repository", &url, "--json"])).unwrap();
    assert_eq!(diff["diff"]["renamed"][0]["to"], "word");

    // 5. Defaults that cannot be made end the build, not the builder; so does a schema that no node could read.
    altered(SETTING, "            greeting: panic!(\"no word today\"),\n");
    refused(&["release"], &["does not say what its settings are", "defaults panicked: no word today"]);
    altered(SETTING, "            greeting: std::process::abort(),\n");
    refused(&["release"], &["does not say what its settings are", "signal: 6"]);
    altered(&SETTING.replace("min = 1", "pattern = \"(\""), DEFAULT);
    refused(&["release"], &["the schema that the settings type gives cannot be used", "greeting: pattern:"]);
    altered(
        &SETTING.replace("String", "Vec<relmgr_app::settings::Secret>"),
        "            greeting: vec![],\n",
    );
    let text = std::fs::read_to_string(hello.join("src/lib.rs")).unwrap();
    // Only the settings are of another type: what uses them has to go on compiling.
    write(
        hello,
        "src/lib.rs",
        &text
            .replace("settings.greeting.contains('\\n')", "settings.greeting.is_empty()")
            .replace("format!(\"{}, world\", settings.greeting)", "String::new()"),
    );
    refused(&["conf", "schema"], &["greeting: a secret cannot stand in a list"]);
    write(hello, "src/lib.rs", &lib);
}

fn write(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

/// The schema in the release that was built last.
fn packaged_schema(out: &Path) -> String {
    let built = BuiltRelease::read(out).unwrap();
    let staging = tempfile::tempdir().unwrap();
    let unpacked = staging.path().join("release");
    package::unpack(&built.package, staging.path(), &unpacked, &built.manifest).unwrap();
    std::fs::read_to_string(unpacked.join("conf/schema.toml")).unwrap()
}
