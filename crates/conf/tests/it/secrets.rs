//! A secret reaches the application and nothing else: every output is searched for it.

use crate::Home;

const SECRET: &str = "hunter2-hunter2";

const SCHEMA: &str = r#"
[keys."Repo.password"]
type = "string"
secret = true
env = "DB_PASSWORD"
min = 4
was = ["Repo.pass"]
[keys."Repo.url"]
type = "url"
secret = true
[keys."Repo.pool_size"]
type = "integer"
"#;

#[track_caller]
fn without_secret(text: &str) {
    assert!(!text.contains("hunter2"), "{text}");
}

#[test]
fn no_output_of_a_good_file_holds_it() {
    let home =
        Home::new(SCHEMA, &format!("Repo.pass = \"{SECRET}\"\nRepo.url = \"postgres://u:{SECRET}@h/d\"\n"));
    let effective = home.effective().unwrap();
    assert_eq!(effective.to_json()["Repo"]["password"], SECRET);
    without_secret(&effective.to_conf_text());
    without_secret(&format!("{effective:?}"));
    let mut sources = home.sources.clone();
    sources.env.insert("DB_PASSWORD".into(), SECRET.into());
    without_secret(&format!("{sources:?}"));
    let warnings: String = effective.warnings().iter().map(ToString::to_string).collect();
    assert!(warnings.contains("is called Repo.password now"));
    without_secret(&warnings);
    let applied = effective.to_conf_text();
    assert!(applied.contains("# Repo.password = ***  # "), "{applied}");
}

#[test]
fn words_of_others_are_rid_of_it() {
    let home =
        Home::new(SCHEMA, "Repo.password = 'hunter2\\t\"x'\nRepo.url = \"a://b\"\nRepo.pool_size = 5\n");
    let effective = home.effective().unwrap();
    let words = effective.redact("cannot log in with hunter2\\t\"x or \"hunter2\\\\t\\\"x\"; pool 5");
    assert_eq!(words, "cannot log in with *** or \"***\"; pool 5");
}

#[test]
fn the_public_hash_does_not_depend_on_it() {
    let hash = |text: &str| Home::new(SCHEMA, text).effective().unwrap().hash();
    assert_eq!(hash("Repo.password = aaaa"), hash("Repo.password = bbbb"));
    assert_ne!(hash("Repo.password = aaaa"), hash(""));
    assert_eq!(hash("").len(), 64);
}

#[test]
fn no_fault_shows_it() {
    for line in [
        format!("Repo.password = {SECRET}#x"),
        format!("Repo.password = \"{SECRET}"),
        format!("Repo.password = '''{SECRET}\n{SECRET}"),
        format!("Repo.password = \"{SECRET}\" {SECRET}"),
        format!("Repo.password = {SECRET}, {SECRET}"),
        format!("Repo.password = [{SECRET} = {SECRET}]"),
        format!("Repo.password = [k = {SECRET}]"),
        format!("Repo.password {SECRET}"),
        format!("Repo.password: {SECRET}"),
        format!("Repo.pasword = {SECRET}"),
        format!("Repo.pasword = \"{SECRET}"),
        format!("Repo.url = {SECRET}"),
        format!("Repo.password = x{SECRET}\nRepo.password = {SECRET}"),
        format!("Repo.pass = x{SECRET}\nRepo.password = {SECRET}"),
        // A key file pasted as it is.
        format!("Repo.password = 'x\n{SECRET}/+x\n{SECRET} x"),
        format!("Repo.password = ${{X:-{SECRET}\nRepo.url = ${{X:-{SECRET}}}"),
    ] {
        for schema in [SCHEMA, ""] {
            let home = Home::new(schema, &line);
            let faults = home.effective().unwrap_err();
            without_secret(&faults.to_string());
            without_secret(&format!("{faults:?}"));
            without_secret(&serde_json::to_string(&faults).unwrap());
        }
    }
}

#[test]
fn no_fault_of_the_environment_or_a_file_shows_it() {
    let mut home = Home::new(SCHEMA, "Repo.url = file:${DIR}/url\nRepo.pool_size = 1\n");
    home.env("DB_PASSWORD", "hun");
    home.env("DIR", home.dir.path().to_str().unwrap().to_owned().as_str());
    home.write("url", format!("{SECRET}\n"));
    let faults = home.faults();
    assert!(
        faults.contains("$DB_PASSWORD: Repo.password: expected a text of at least 4 characters"),
        "{faults}"
    );
    assert!(faults.contains("Repo.url: expected a URL"), "{faults}");
    assert!(!faults.contains("`hun`"), "{faults}");
    without_secret(&faults);
}

#[test]
fn a_secret_file_s_last_newline_is_no_part_of_it() {
    let home = Home::empty(SCHEMA);
    home.write("app.conf", format!("Repo.password = file:{}\n", home.path("pw").display()));
    for content in [format!("{SECRET}\n"), format!("{SECRET}\r\n"), SECRET.to_owned()] {
        home.write("pw", content);
        assert_eq!(home.json()["Repo"]["password"], SECRET);
    }
}

/// The file of the classic Phoenix deployment, as people have it.
#[test]
fn a_phoenix_deployment_s_file_works_as_it_is() {
    let schema = r#"
[keys."logger.level"]
type = "enum"
values = ["debug", "info", "warn", "error"]
[keys."Endpoint.url.host"]
type = "string"
[keys."Endpoint.url.port"]
type = "integer"
min = 1
max = 65535
[keys."Endpoint.secret_key_base"]
type = "string"
secret = true
[keys."Repo.username"]
type = "string"
[keys."Repo.password"]
type = "string"
secret = true
[keys."Repo.database"]
type = "string"
[keys."Repo.hostname"]
type = "string"
[keys."Repo.pool_size"]
type = "integer"
"#;
    let app_conf = format!(
        "logger.level = info\nEndpoint.url.host = \"example.com\"\nEndpoint.url.port = 443\n\
         Endpoint.secret_key_base = \"{SECRET}\"\nRepo.username = \"dbuser\"\nRepo.password = \"{SECRET}\"\n\
         Repo.database = \"exampledb\"\nRepo.hostname = \"database-host.com\"\nRepo.pool_size = 20\n"
    );
    let home = Home::new(schema, &app_conf);
    let effective = home.effective().unwrap();
    let expected = serde_json::json!({
        "logger": {"level": "info"},
        "Endpoint": {"url": {"host": "example.com", "port": 443}, "secret_key_base": SECRET},
        "Repo": {
            "username": "dbuser", "password": SECRET, "database": "exampledb", "hostname": "database-host.com",
            "pool_size": 20,
        },
    });
    assert_eq!(effective.to_json(), expected);
    without_secret(&effective.to_conf_text());
}
