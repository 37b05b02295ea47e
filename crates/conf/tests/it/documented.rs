//! The file that `conf new` writes, and what `conf fmt` makes of a file.

use relmgr_conf::{Schema, documented, format};

use crate::Home;

const SCHEMA: &str = r#"
[keys."poll.max_options"]
type = "integer"
min = 2
max = 100
default = 20
doc = "How many options a poll may have.\n\nMore take longer to draw."
env = "POLL_MAX_OPTIONS"
restart = true

[keys."poll.title"]
type = "string"
default = "Live poll, #1"

[keys."db.password"]
type = "string"
required = true
secret = true

[keys."db.hosts"]
type = "list"
items = "address"

[keys."queues.$name.size"]
type = "bytes"
default = "1MB"
"#;

#[test]
fn a_new_file_explains_every_key() {
    let text = documented(&Schema::parse(SCHEMA).unwrap());
    let expected = r#"# app.conf: what this node sets for the application.
# Each line below shows a default; remove the leading `# ` to change it. Values in files of app.conf.d
# and in environment variables win over this file.

# How many options a poll may have.
#
# More take longer to draw.
# An integer from 2 to 100. Environment: POLL_MAX_OPTIONS. A change waits for a restart.
# poll.max_options = 20

# A text.
# poll.title = "Live poll, #1"

# REQUIRED. A text. Secret: better file:/path or ${NAME} than the text itself.
# db.password = file:/run/secrets/NAME

# A list, each a host and port such as example.com:8080. No default.
# db.hosts = 127.0.0.1:8080,

# A size such as 512KB or 16MB.
# queues.NAME.size = 1MB
"#;
    assert_eq!(text, expected);
    assert_eq!(format("app.conf", &text, None).unwrap(), text);
}

#[test]
fn every_line_of_it_may_be_uncommented() {
    let text = documented(&Schema::parse(SCHEMA).unwrap());
    let settings: String = text
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| line.contains(" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let settings = settings.replace("file:/run/secrets/NAME", "x");
    let json = Home::new(SCHEMA, &settings).json();
    assert_eq!(json["poll"]["title"], "Live poll, #1");
    assert_eq!(json["queues"]["NAME"]["size"], 1 << 20);
}

#[test]
fn formatting_keeps_every_comment() {
    let text = "\u{feff}\n\n   # top   \n#no blank\na=1
b.c   =  x  y   ,z   # first  \r\nlong.key = [ 1,2 ] # second\nd = [k=v , k2 = \"v#v\"]\n\n\n\n  include  x/*.conf   # more
e = '''\n a \n'''   # block\nf = only,\n\n# end\n\n";
    let formatted = format("app.conf", text, None).unwrap();
    assert!(formatted.starts_with("# top\n#no blank\na = 1\nb.c = x  y, z"), "{formatted}");
    let lines: Vec<_> = formatted.lines().collect();
    let column = |words: &str| lines.iter().find(|line| line.contains(words)).unwrap().find('#').unwrap();
    assert_eq!(column("# first"), column("# second"));
    for kept in
        ["d = [k = v, k2 = \"v#v\"]\n\ninclude x/*.conf", "'''\n a \n'''", "f = only,\n\n# end\n", "# block"]
    {
        assert!(formatted.contains(kept), "{kept}: {formatted}");
    }
    assert_eq!(format("app.conf", &formatted, None).unwrap(), formatted);
    let faults = format("app.conf", "a = b#c", None).unwrap_err().to_string();
    assert!(faults.contains("app.conf:1:6"), "{faults}");
}
