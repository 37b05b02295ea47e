//! The operator's examples in `conf/`: they say what the code does.

use relmgr_model::settings::Settings;

fn example(name: &str) -> String {
    let path = format!("{}/../../conf/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The keys of a table with their paths.
fn paths(table: &toml::Table, above: &str, found: &mut Vec<String>) {
    for (name, value) in table {
        match value {
            toml::Value::Table(inner) => paths(inner, &format!("{above}{name}."), found),
            _ => found.push(format!("{above}{name}")),
        }
    }
}

#[test]
fn relmgr_toml_shows_every_key_at_its_default() {
    let text = example("relmgr.toml");
    let shown = Settings::parse(&text).unwrap();
    let url = &shown.repository.url;
    let least = format!("app = \"{}\"\n[repository]\nurl = \"{url}\"\n", shown.app);
    let defaults = Settings::parse(&least).unwrap();
    assert_eq!(shown, defaults);

    let (mut known, mut written) = (Vec::new(), Vec::new());
    paths(&toml::Table::try_from(&defaults).unwrap(), "", &mut known);
    paths(&text.parse().unwrap(), "", &mut written);
    assert_eq!(written, known, "every key of the settings stands in conf/relmgr.toml, and no other");
}

#[test]
fn every_key_of_relmgr_toml_is_explained() {
    let text = example("relmgr.toml");
    let mut explained = false;
    for line in text.lines() {
        if line.contains(" = ") && !line.starts_with('#') {
            assert!(explained, "`{line}` has no comment right above it");
        }
        explained = line.starts_with('#');
    }
}

#[test]
fn app_conf_is_written_as_the_formatter_writes_it() {
    let text = example("app.conf");
    assert_eq!(relmgr_conf::format("app.conf", &text, None).unwrap(), text);
}
