//! `include`, in order, within bounds, and without loops.

use serde_json::json;

use crate::Home;

const SCHEMA: &str =
    "[keys.a]\ntype = \"string\"\n[keys.b]\ntype = \"string\"\n[keys.c]\ntype = \"string\"\n";

#[test]
fn included_files_belong_to_the_file_that_includes_them() {
    let home = Home::new(SCHEMA, "include conf.d/*.conf  # more\na = 1\n");
    home.write("conf.d/10.conf", "b = 2\ninclude deeper/c.txt\n");
    home.write("conf.d/20.other", "b = 3\n");
    home.write("conf.d/.20.conf", "b = 4\n");
    home.write("conf.d/deeper/c.txt", "c = 5\n");
    home.write("app.conf.d/1.conf", "c = 6\n");
    assert_eq!(home.json(), json!({"a": "1", "b": "2", "c": "6"}));

    home.write("conf.d/30.conf", "\na = 7\n");
    let faults = home.faults();
    assert!(faults.contains("app.conf:2:1: a: is set twice"), "{faults}");
    assert!(faults.contains("conf.d/30.conf:2:1: it is set here first"), "{faults}");
}

#[test]
fn a_pattern_may_match_nothing_and_a_name_may_not() {
    assert_eq!(Home::new(SCHEMA, "include conf.d/*.conf\n").json(), json!({}));
    let faults = Home::new(SCHEMA, "include conf.d/x.conf\n").faults();
    assert!(
        faults.contains("conf.d/x.conf: does not exist\n  app.conf:1:9: it is included here"),
        "{faults}"
    );
    let faults = Home::new(SCHEMA, "include ${X}/x.conf\ninclude a***\n").faults();
    assert!(faults.contains("without variables") && faults.contains("the pattern is wrong"), "{faults}");
}

#[test]
fn a_loop_is_found() {
    let home = Home::new(SCHEMA, "include b.conf\n");
    home.write("b.conf", "a = 1\ninclude ./app.conf\n");
    let faults = home.faults();
    assert!(faults.contains("b.conf:2:9: ") && faults.contains("app.conf includes itself"), "{faults}");
    let home = Home::new(SCHEMA, "include *.conf\n");
    assert!(home.faults().contains("app.conf includes itself"));
}

#[test]
fn a_directory_with_a_pattern_s_characters_is_taken_as_it_is() {
    let home = Home::empty(SCHEMA);
    home.write("[x]*/app.conf", "include d/*.conf\n");
    home.write("[x]*/d/1.conf", "a = 1\n");
    let mut sources = home.sources.clone();
    sources.app_conf = home.path("[x]*/app.conf");
    assert_eq!(relmgr_conf::effective(&sources).unwrap().to_json(), json!({"a": "1"}));
}
