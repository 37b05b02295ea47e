//! What people and builders write.

use relmgr_conf::{Key, Schema, Sources, check, documented, effective, format, set};
use relmgr_model::manifest::{Digest, GlibcVersion, Manifest, Needs, Probe};

use crate::scene;

/// A schema with every kind of type.
const SCHEMA: &str = r#"
[keys."a.b"]
type = "integer"
[keys."a.c"]
type = "list"
items = { type = "record", fields.k = { type = "duration" } }
[keys."q.$n.x"]
type = "string"
secret = true
"#;

/// A manifest is read or refused; one that is read survives its own text.
pub fn manifest(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(manifest) = Manifest::parse(text) {
        assert_eq!(Manifest::parse(&manifest.to_toml()).unwrap(), manifest);
        for path in manifest.files.keys() {
            assert!(!path.starts_with('/') && path.split('/').all(|part| part != ".."), "{path}");
        }
    }
}

/// An `app.conf` is read, or its faults are said; formatting it twice changes nothing more.
pub fn app_conf(data: &[u8]) {
    let schema = Schema::parse(SCHEMA).unwrap();
    if let Ok(text) = std::str::from_utf8(data) {
        if let Ok(formatted) = format("app.conf", text, Some(&schema)) {
            assert_eq!(format("app.conf", &formatted, None).unwrap(), formatted);
        }
        let _ = set("app.conf", text, &"a.b".parse().unwrap(), "5", Some(&schema));
        let _ = set("app.conf", "", &"a.b".parse().unwrap(), text, None);
        let _ = text.parse::<Key>();
    }
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("app.conf"), data).unwrap();
    let mut sources =
        Sources::new(Some(schema), home.path().join("app.conf"), home.path().join("app.conf.d"));
    sources.env.clear();
    match effective(&sources) {
        Ok(effective) => assert!(!effective.to_conf_text().is_empty()),
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
    let _ = check(&sources);
}

/// A schema is read, or its faults are said; one that is read survives its own text.
pub fn schema(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Schema::parse(text) {
        Ok(schema) => {
            let _ = documented(&schema);
            let written = schema.to_toml();
            assert_eq!(Schema::parse(&written).unwrap().to_toml(), written);
        }
        Err(faults) => assert!(!faults.to_string().is_empty()),
    }
}

pub(crate) fn manifest_seeds() -> Vec<Vec<u8>> {
    let small = scene::manifest("1.0.1", &scene::target_files());
    let mut full = small.clone();
    let digest = Digest { size: 7, sha256: "0a".repeat(32) };
    full.package = Some(digest.clone());
    full.deltas.insert("1.0.0".parse().unwrap(), digest);
    full.upgrade_from = Some(">=1.0.0".parse().unwrap());
    full.probes = vec![Probe { path: "/health".into(), status: 204 }];
    full.needs =
        Needs { glibc: Some(GlibcVersion { major: 2, minor: 34 }), libraries: vec!["libc.so.6".into()] };
    [small, full].map(|manifest| manifest.to_toml().into_bytes()).into()
}

pub(crate) fn app_conf_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "a.b = 5 # a comment\na.c = [k = 1s], [k = 2h30m]\n",
        "q.mail.x = \"quoted \\u{e9}\"\nq.x.x = '''\nraw\n'''\r\n",
        "\u{feff}a.b = ${X:-7}\ninclude app.conf.d/*\nq.y.x = file:/run/secrets/x\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).into()
}

pub(crate) fn schema_seeds() -> Vec<Vec<u8>> {
    let typed = "[keys.\"l.e\"]\ntype = \"enum\"\nvalues = [\"a\", \"b\"]\ndefault = \"a\"\n\
                 [keys.n]\ntype = \"float\"\nmin = 0.5\nmax = 2.5\nrequired = true\nenv = \"N\"\n";
    vec![SCHEMA.into(), typed.into()]
}
