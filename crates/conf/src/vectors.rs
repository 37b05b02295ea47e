//! What Conform and cuttlefish accept, as vectors: what keeps working here, and what is an error with advice.

use crate::ast::{Item, Node, Part, Scalar};
use crate::parse;

/// A value in a form to compare: texts in quotes, variables as they are written.
fn shape(node: &Node) -> String {
    match node {
        Node::Scalar(scalar) => scalar_shape(scalar),
        Node::List(list) => format!("[{}]", list.items.iter().map(shape).collect::<Vec<_>>().join(" ")),
        Node::Record(record) => {
            let field = |field: &crate::ast::Field| format!("{}={}", field.name, scalar_shape(&field.value));
            format!("{{{}}}", record.fields.iter().map(field).collect::<Vec<_>>().join(" "))
        }
    }
}

fn scalar_shape(scalar: &Scalar) -> String {
    let part = |part: &Part| match part {
        Part::Text(text) => format!("{:?}", text.as_str()),
        Part::Variable { name, default: Some(default), .. } => format!("${{{name}:-{}}}", default.as_str()),
        Part::Variable { name, default: None, .. } => format!("${{{name}}}"),
    };
    let parts: String = scalar.parts.iter().map(part).collect();
    match (scalar.file, parts.is_empty()) {
        (true, _) => format!("file({parts})"),
        (false, true) => "\"\"".to_owned(),
        (false, false) => parts,
    }
}

/// The settings of `text` as `key: shape`, or its mistakes as `line:column message`.
fn read(text: &str) -> Result<Vec<String>, Vec<String>> {
    let (document, mistakes) = parse::document(text);
    let source = crate::source::Source::new("t", text.to_owned().into());
    let mistake = |mistake: &parse::Mistake| {
        let (line, column) = source.position(mistake.span.start);
        format!("{line}:{column} {}", mistake.message)
    };
    if !mistakes.is_empty() {
        return Err(mistakes.iter().map(mistake).collect());
    }
    let setting = |item: &Item| match item {
        Item::Setting(setting) => Some(format!("{}: {}", setting.key, shape(&setting.value))),
        Item::Include(include) => Some(format!("include {}", scalar_shape(&include.pattern))),
        Item::Blank | Item::Comment(_) => None,
    };
    Ok(document.items.iter().filter_map(setting).collect())
}

#[track_caller]
fn value(text: &str, expected: &str) {
    assert_eq!(read(&format!("a = {text}")), Ok(vec![format!("a: {expected}")]), "{text}");
    // The same in the middle of a file with other line ends, and before a comment.
    let middle = format!("x = 1\r\na={text}   # c, d = \"e\r\n\r\nz = 2");
    let expected = ["x: \"1\"".to_owned(), format!("a: {expected}"), "z: \"2\"".to_owned()];
    assert_eq!(read(&middle), Ok(expected.to_vec()), "{text}");
}

/// `text` is refused at `column` of the value, in words that contain `words`; the lines around it are read.
#[track_caller]
fn refused(text: &str, column: usize, words: &str) {
    let mistakes = read(&format!("x = 1\na = {text}\nz = 2\n")).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{text}: {mistakes:?}");
    assert!(mistakes[0].starts_with(&format!("2:{} ", column + 4)), "{text}: {mistakes:?}");
    assert!(mistakes[0].contains(words), "{text}: {mistakes:?}");
}

#[test]
fn lines() {
    assert_eq!(read(""), Ok(vec![]));
    assert_eq!(read("\n \t\n\r\n# c\n  # d\n#"), Ok(vec![]));
    assert_eq!(read("\u{feff}a = 1"), Ok(vec!["a: \"1\"".to_owned()]));
    for text in ["a=1", "a = 1", "a\t=\t1\t", "  a = 1 \n", "a = 1\r\n", "a = 1 # c", "a = 1\t#c"] {
        assert_eq!(read(text), Ok(vec!["a: \"1\"".to_owned()]), "{text}");
    }
    assert_eq!(read("include conf.d/*.conf # c"), Ok(vec!["include \"conf.d/*.conf\"".to_owned()]));
    assert_eq!(read("include = 1\ninclude.x = 2\nincludes = 3").map(|found| found.len()), Ok(3));
}

#[test]
fn keys() {
    for (text, key) in [
        ("a.b.c", "a.b.c"),
        (r"a\.b.c", "\"a.b\".c"),
        ("a.\"b c\".d", "a.\"b c\".d"),
        ("\"x.y\".z", "\"x.y\".z"),
        ("myapp.Some.Module.val", "myapp.Some.Module.val"),
        ("A-1_b", "A-1_b"),
        ("1", "1"),
    ] {
        assert_eq!(read(&format!("{text} = 1")), Ok(vec![format!("{key}: \"1\"")]));
    }
    for (text, at, words) in [
        ("a..b = 1", "1:3", "a key was expected"),
        (".a = 1", "1:1", "a key was expected"),
        ("a. = 1", "1:3", "a key was expected"),
        ("= 1", "1:1", "a key was expected"),
        ("[section]", "1:1", "a key was expected"),
        ("; comment", "1:1", "a key was expected"),
        ("a.*.b = 1", "1:3", "a key was expected"),
        ("a.$x = 1", "1:3", "a key was expected"),
        ("a: 1", "1:2", "`=` was expected"),
        ("a b = 1", "1:3", "`=` was expected"),
        ("ä = 1", "1:1", "a key was expected"),
        ("a", "1:1", "a key without a value"),
        ("\"\" = 1", "1:1", "a segment of the key is empty"),
        ("\"a = 1", "1:1", "never closed"),
        ("\"${X}\" = 1", "1:2", "a variable cannot stand in a key"),
    ] {
        let mistakes = read(text).unwrap_err();
        assert!(mistakes[0].starts_with(at) && mistakes[0].contains(words), "{text}: {mistakes:?}");
    }
}

#[test]
fn values_that_operators_of_either_know() {
    value("foo bar baz", r#""foo bar baz""#);
    value("foo\t bar", r#""foo\t bar""#);
    value("1, 2, 3", r#"["1" "2" "3"]"#);
    value("1,2,3", r#"["1" "2" "3"]"#);
    value("1 , 2", r#"["1" "2"]"#);
    value("a,", r#"["a"]"#);
    value("\"127.0.0.1\",", r#"["127.0.0.1"]"#);
    value("\"x, y\", z", r#"["x, y" "z"]"#);
    value("\"foo#bar\"", r#""foo#bar""#);
    value(r#""say \"hi\"""#, r#""say \"hi\"""#);
    value(r#""a\\b\n\tc\r\u{e9}\$""#, r#""a\\b\n\tc\ré$""#);
    value("'single'", r#""single""#);
    value(r"'a#b, \n ${X} $(y)'", r#""a#b, \\n ${X} $(y)""#);
    value("'''one'''", r#""one""#);
    value("[1, 2], [3, 4]", r#"[["1" "2"] ["3" "4"]]"#);
    value("[k = v, k2 = \"v v\"]", r#"{k="v" k2="v v"}"#);
    value(
        "[type = \"email\", to = \"a@b.c\"], [type = \"console\"]",
        r#"[{type="email" to="a@b.c"} {type="console"}]"#,
    );
    value("http://x/?a=1&b=2", r#""http://x/?a=1&b=2""#);
    value("[http://x/?a=1, k]", r#"["http://x/?a=1" "k"]"#);
    value("[url = http://x/?a=1]", r#"{url="http://x/?a=1"}"#);
    value("[\"odd key\" = 1]", r#"{odd key="1"}"#);
    value("[]", "[]");
    value("[ ]", "[]");
    value("[a b]", r#"["a b"]"#);
    value("[\"a b\"]", r#"["a b"]"#);
    value("[a, b,]", r#"["a" "b"]"#);
    value("\"\"", "\"\"");
    value("''", "\"\"");
    value(":atom", r#"":atom""#);
    value("k=v", r#""k=v""#);
    value("it's", r#""it's""#);
    value(r"C:\dir\x", r#""C:\\dir\\x""#);
    value("a$b$", r#""a$b$""#);
    value("x]", r#""x]""#);
    value("::1", r#""::1""#);
    value("\"[::1]:8080\"", r#""[::1]:8080""#);
}

#[test]
fn several_lines_in_triple_quotes() {
    let text = "a = '''\none\n  'two' # no comment\r\nthree\n'''  # c\nb = 1\n";
    let expected = ["a: \"one\\n  'two' # no comment\\nthree\"".to_owned(), "b: \"1\"".to_owned()];
    assert_eq!(read(text), Ok(expected.to_vec()));
    let mistakes = read("x = 1\na = '''one\nb = 1\nc = [\n").unwrap_err();
    assert_eq!(mistakes, ["2:5 this ''' is never closed"]);
}

#[test]
fn references() {
    value("${HOME}", "${HOME}");
    value("${A}/x ${B:-y, z#}", "${A}\"/x \"${B:-y, z#}");
    value("\"a ${B:-} c\"", "\"a \"${B:-}\" c\"");
    value(r#""\${B}""#, r#""${B}""#);
    value("file:/run/secrets/x", "file(\"file:/run/secrets/x\")");
    value("\"file:/run/my secrets/x\"", "file(\"file:/run/my secrets/x\")");
    value("file:${DIR}/x", "file(\"file:\"${DIR}\"/x\")");
    value("'file:/x'", r#""file:/x""#);
    value(r#""\u{66}ile:/x""#, r#""file:/x""#);
    value("file:///srv/packages", r#""file:///srv/packages""#);
    for text in ["${", "${}", "${1A}", "${A-b}", "${A:-${B}}", "\"${A\"", "${A B}"] {
        refused(text, if text.starts_with('"') { 2 } else { 1 }, "a variable is ${NAME}");
    }
}

#[test]
fn traps_are_errors() {
    refused("", 1, "a value was expected");
    refused("   # c", 4, "a comment follows");
    refused("foo#bar", 4, "a `#` within a text");
    refused("\"a\"#c", 4, "needs a blank before its `#`");
    refused(r"x\, y", 2, "an escaped comma");
    refused("{x, y}", 1, "cannot begin with a brace");
    refused("[[1,2],[3]]", 2, "a list within a list");
    refused("\"x\" , \"y\" z", 11, "nothing more was expected");
    refused("\"x\" y", 5, "nothing more was expected");
    refused("y \"x\"", 3, "a quote within a text");
    refused("'it''s'", 5, "nothing more was expected");
    refused(r#""\""#, 1, "never closed");
    refused("\"unterminated", 1, "never closed");
    refused("'unterminated", 1, "never closed");
    refused(r#""C:\dir""#, 4, "an unknown escape");
    refused(r#""\u{110000}""#, 2, "no such character");
    refused("$(b.c)", 1, "`$(key)` is not known");
    refused("[::1]:8080", 6, "a list ends here");
    refused("[a, b", 1, "never closed");
    refused("[a, b # c", 1, "never closed");
    refused("[a, k = v]", 5, "do not mix");
    refused("[k = ]", 6, "a value was expected");
    refused("[,]", 2, "an item is missing");
    refused("a, , b", 4, "an item is missing");
    refused(", a", 1, "an item is missing");
    refused("a,,", 3, "an item is missing");
    refused("a\u{7}b", 2, "a control character (U+0007)");
    refused("\"a\u{0}b\"", 3, "a control character (U+0000)");
    refused("'a\u{1b}b'", 3, "a control character (U+001B)");
    refused("a\rb", 2, "a control character (U+000D)");
}

#[test]
fn every_mistake_of_a_file_is_found() {
    let mistakes = read("a = 1\nb\nc = \"x\nd = 2\ne = f#g\n[h]\n").unwrap_err();
    let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.split(' ').next().unwrap()).collect();
    assert_eq!(lines, ["2:1", "3:5", "5:6", "6:1"]);
}
