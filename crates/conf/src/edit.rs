//! `conf set`, `get` and `unset`: one setting of a file changes, everything else stays byte for byte.
//!
//! Pure: text in, text out. Whoever writes the file replaces it whole.

use crate::ast::{Document, Item, Node, Setting};
use crate::decode::{Decoder, Environment};
use crate::fault::{Fault, Faults, Place};
use crate::format::{parsed, written};
use crate::key::Key;
use crate::parse;
use crate::print;
use crate::schema::{Found, Schema};
use crate::secret::MASK;
use crate::source::Source;
use crate::types::Type;

/// The text of the file `name` with `key` set to `value`.
///
/// `value` is what would stand behind the `=`; what would mean something else there, such as a text with a comma
/// or a `#` for a key that is no list, is put in quotes. With a `schema` the key must be known and the value of
/// its type.
///
/// A new setting goes below its own commented-out line if there is one, else below the last key of its group,
/// else to the end.
///
/// # Errors
/// Every mistake of the file's grammar, an unknown key, a value of the wrong type.
pub fn set(
    name: &str,
    text: &str,
    key: &Key,
    value: &str,
    schema: Option<&Schema>,
) -> Result<String, Faults> {
    let (source, document) = parsed(name, text, schema)?;
    let ty = schema.map(|schema| known(schema, key, name)).transpose()?;
    let value = value_text(key, value, ty)?;
    if let Some(setting) = find(&document, key) {
        let span = setting.value.span();
        return Ok(format!("{}{value}{}", &text[..span.start], &text[span.end..]));
    }
    let at = place_for(&source, &document, key);
    let newline = if at == 0 || text[..at].ends_with('\n') { "" } else { "\n" };
    Ok(format!("{}{newline}{key} = {value}\n{}", &text[..at], &text[at..]))
}

/// The text of the file `name` without `key`'s line; `None` where it is not set there. Comments above it stay.
///
/// # Errors
/// Every mistake of the file's grammar.
pub fn unset(name: &str, text: &str, key: &Key, schema: Option<&Schema>) -> Result<Option<String>, Faults> {
    let (_, document) = parsed(name, text, schema)?;
    Ok(find(&document, key).map(|setting| {
        let line = &setting.line;
        format!("{}{}", &text[..line.start], &text[line.end..])
    }))
}

/// What the file `name` sets `key` to, as it is written there; a secret as `***`.
///
/// # Errors
/// Every mistake of the file's grammar.
pub fn get(name: &str, text: &str, key: &Key, schema: Option<&Schema>) -> Result<Option<String>, Faults> {
    let (source, document) = parsed(name, text, schema)?;
    let hidden = schema.is_some_and(|schema| !schema.may_show(key));
    Ok(find(&document, key).map(|setting| match hidden {
        true => MASK.to_owned(),
        false => written(source.text(), &setting.value),
    }))
}

fn find<'a>(document: &'a Document, key: &Key) -> Option<&'a Setting> {
    document.items.iter().find_map(|item| match item {
        Item::Setting(setting) if setting.key == *key => Some(setting),
        _ => None,
    })
}

/// The type of a key that exists.
fn known<'a>(schema: &'a Schema, key: &Key, name: &str) -> Result<(&'a Type, bool), Faults> {
    match schema.find(key) {
        Found::Key(index) => {
            let spec = &schema.keys[index].1;
            Ok((&spec.ty, spec.secret))
        }
        Found::Renamed(_, today) => {
            let fault = Fault::new(Place::whole(name), format!("is called {today} now")).about(key);
            Err(fault.hint(format!("set {today}")).into())
        }
        _ => {
            let mut fault = Fault::new(Place::whole(name), "is not a key of this release").about(key);
            fault.hint = schema.nearest(key).map(|near| format!("did you mean {near}?"));
            Err(fault.into())
        }
    }
}

/// `value` as it has to be written.
fn value_text(key: &Key, value: &str, ty: Option<(&Type, bool)>) -> Result<String, Faults> {
    let list = ty.is_some_and(|(ty, _)| matches!(ty, Type::List { .. } | Type::Record(_)));
    let text = match parse::value(value) {
        Ok(Node::Scalar(_)) => value.trim_matches([' ', '\t', '\n', '\r']).to_owned(),
        Ok(_) if list || ty.is_none() => value.trim_matches([' ', '\t', '\n', '\r']).to_owned(),
        Err(mistake) if list => {
            let mut fault = Fault::new(Place::whole("the value"), mistake.message).about(key);
            fault.hint = mistake.hint.map(|hint| hint.to_string());
            return Err(fault.into());
        }
        _ => {
            let mut quoted = String::new();
            // Writing to a String cannot fail.
            let _ = print::quoted(&mut quoted, value);
            quoted
        }
    };
    let (Some((ty, secret)), Ok(node)) = (ty, parse::value(&text)) else { return Ok(text) };
    // What a reference gives is known on the node, when it is loaded.
    if !node.has_references() {
        let env = Environment::new();
        let mut decoder = Decoder::new(&env, secret);
        decoder.value(ty, &node);
        let mut faults = Faults::default();
        for problem in decoder.problems {
            let mut fault = Fault::new(Place::whole("the value"), problem.message).about(key);
            fault.hint = problem.hint;
            faults.push(fault);
        }
        return faults.or(text);
    }
    Ok(text)
}

/// Where a new setting belongs.
fn place_for(source: &Source, document: &Document, key: &Key) -> usize {
    let text = source.text();
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let commented = document.items.iter().find_map(|item| match item {
        Item::Comment(span) => {
            let inside = text[span.clone()].trim_start_matches('#');
            let (document, _) = parse::document(inside);
            find(&document, key).map(|_| line_end(span.start))
        }
        _ => None,
    });
    let shared =
        |other: &Key| key.segments().iter().zip(other.segments()).take_while(|(a, b)| a == b).count();
    let group = document.items.iter().filter_map(|item| match item {
        Item::Setting(setting) => Some((shared(&setting.key), setting.line.end)),
        _ => None,
    });
    let group = group.filter(|(shared, _)| *shared > 0).max().map(|(_, end)| end);
    commented.or(group).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        text.parse().unwrap()
    }

    fn schema() -> Schema {
        let text = "[keys.\"poll.max\"]\ntype = \"integer\"\nmax = 100\n\
                    [keys.\"poll.title\"]\ntype = \"string\"\n\
                    [keys.\"poll.tags\"]\ntype = \"list\"\nitems = \"string\"\n\
                    [keys.\"db.password\"]\ntype = \"string\"\nsecret = true\n";
        Schema::parse(text).unwrap()
    }

    const FILE: &str = "# top\npoll.max   =  5   # five\n\n# log.level = info\n\n# end\n";

    #[test]
    fn a_value_changes_in_its_place_and_nothing_else_does() {
        let text = set("app.conf", FILE, &key("poll.max"), "7", Some(&schema())).unwrap();
        assert_eq!(text, FILE.replace('5', "7"));
    }

    #[test]
    fn a_new_key_goes_where_one_would_look_for_it() {
        let set = |name, value| set("app.conf", FILE, &key(name), value, None).unwrap();
        assert!(set("poll.title", "x").contains("# five\npoll.title = x\n"));
        assert!(set("log.level", "debug").contains("# log.level = info\nlog.level = debug\n"));
        assert!(set("other", "1").ends_with("# end\nother = 1\n"));
        assert_eq!(super::set("app.conf", "a = 1", &key("b"), "2", None).unwrap(), "a = 1\nb = 2\n");
        assert_eq!(super::set("app.conf", "a = 1", &key("a"), "2", None).unwrap(), "a = 2");
    }

    #[test]
    fn a_value_is_quoted_where_it_would_mean_something_else() {
        let schema = schema();
        let cases = [
            ("poll.title", "Live poll", "Live poll"),
            ("poll.title", "a, b", "\"a, b\""),
            ("poll.title", "a#b", "\"a#b\""),
            ("poll.title", "", "\"\""),
            ("poll.title", "two\nlines", "\"two\\nlines\""),
            ("poll.title", "${TITLE:-x}", "${TITLE:-x}"),
            ("poll.title", "'a#b'", "'a#b'"),
            ("poll.tags", "a, b", "a, b"),
            ("poll.max", " 7 ", "7"),
        ];
        for (name, value, written) in cases {
            let text = set("app.conf", "", &key(name), value, Some(&schema)).unwrap();
            assert_eq!(text, format!("{name} = {written}\n"));
            let (_, document) = parsed("app.conf", &text, None).unwrap();
            assert_eq!(document.items.len(), 1);
        }
    }

    #[test]
    fn what_the_schema_refuses_is_not_set() {
        let schema = schema();
        for (name, value, words) in [
            ("poll.max", "500", "at most 100"),
            ("poll.maxx", "5", "did you mean poll.max?"),
            ("poll.tags", "[a", "never closed"),
        ] {
            let faults = set("app.conf", "", &key(name), value, Some(&schema)).unwrap_err().to_string();
            assert!(faults.contains(words), "{faults}");
        }
    }

    #[test]
    fn unset_takes_the_line_and_keeps_the_comments() {
        let text = unset("app.conf", FILE, &key("poll.max"), None).unwrap().unwrap();
        assert_eq!(text, FILE.replace("poll.max   =  5   # five\n", ""));
        assert_eq!(unset("app.conf", FILE, &key("poll.title"), None).unwrap(), None);
    }

    #[test]
    fn get_shows_what_is_written_but_no_secret() {
        let text = "poll.tags = a,b\ndb.password = s3cret\n";
        let get = |name: &str| get("app.conf", text, &key(name), Some(&schema())).unwrap();
        assert_eq!(get("poll.tags").as_deref(), Some("a, b"));
        assert_eq!(get("db.password").as_deref(), Some("***"));
        assert_eq!(get("poll.max"), None);
    }
}
