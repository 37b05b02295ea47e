//! `conf new`: a file that explains every key of a schema, with the defaults commented out.

use crate::key::Key;
use crate::schema::{KeySpec, Schema, is_wildcard};
use crate::types::{Bounds, Type};

/// An `app.conf` that explains every key, in the schema's order. It sets nothing: each line is a comment, and
/// each key's line is its default or an example of it.
pub fn documented(schema: &Schema) -> String {
    let mut text = String::from(
        "# app.conf: what this node sets for the application.\n\
         # Each line below shows a default; remove the leading `# ` to change it. Values in files of app.conf.d\n\
         # and in environment variables win over this file.\n",
    );
    for (key, spec) in &schema.keys {
        text.push('\n');
        for line in spec.doc.lines() {
            text.push_str(format!("# {line}").trim_end());
            text.push('\n');
        }
        text.push_str(&format!("# {}\n", facts(spec)));
        // A name that says what to put there, and is a key as it stands.
        let mut segments = key.segments().to_vec();
        for segment in segments.iter_mut().filter(|segment| is_wildcard(segment)) {
            *segment = segment.strip_prefix('$').unwrap_or("name").to_uppercase().into();
        }
        let shown = Key::new(segments);
        text.push_str(&format!("# {shown} = {}\n", sample(spec)));
    }
    text
}

/// One line: type, default, variable, and what is special about it.
fn facts(spec: &KeySpec) -> String {
    let mut facts = Vec::new();
    if spec.required {
        facts.push("REQUIRED".to_owned());
    }
    facts.push(capital(&spec.ty.describe()));
    if spec.default.is_none() && !spec.required {
        facts.push("No default".to_owned());
    }
    facts.extend(spec.env.as_ref().map(|name| format!("Environment: {name}")));
    if spec.secret {
        facts.push("Secret: better file:/path or ${NAME} than the text itself".to_owned());
    }
    if spec.restart {
        facts.push("A change waits for a restart".to_owned());
    }
    facts.extend(spec.deprecated.as_ref().map(|message| format!("Deprecated: {message}")));
    facts.join(". ").replace(['\n', '\r'], " ") + "."
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// What stands behind the `=`: the default, an example, or something of the kind.
fn sample(spec: &KeySpec) -> String {
    match spec.default.as_ref().or(spec.example.as_ref()) {
        Some(value) => value.to_conf(),
        None if spec.secret => "file:/run/secrets/NAME".to_owned(),
        None => sample_of(&spec.ty),
    }
}

fn sample_of(ty: &Type) -> String {
    let whole = |bounds: &Bounds<i64>| bounds.min.or(bounds.max).unwrap_or(1).to_string();
    match ty {
        Type::String { .. } => "\"…\"".to_owned(),
        Type::Integer(bounds) => whole(bounds),
        Type::Float(bounds) => format!("{:?}", bounds.min.or(bounds.max).unwrap_or(1.0)),
        Type::Boolean => "true".to_owned(),
        Type::Duration(bounds) => {
            bounds.min.or(bounds.max).map_or_else(|| "30s".to_owned(), crate::units::print_duration)
        }
        Type::Bytes(bounds) => {
            bounds.min.or(bounds.max).map_or_else(|| "16MB".to_owned(), crate::units::print_bytes)
        }
        Type::Address { .. } => "127.0.0.1:8080".to_owned(),
        Type::Ip => "127.0.0.1".to_owned(),
        Type::Url { schemes } => {
            format!("{}://example.com/", schemes.first().map_or("https", String::as_str))
        }
        Type::Enum(words) => crate::print::text(words.first().map_or("", String::as_str)),
        Type::List { items, .. } => match items.as_ref() {
            Type::List { .. } => "[]".to_owned(),
            items => format!("{},", sample_of(items)),
        },
        Type::Record(fields) => {
            let field = |(name, field): (&String, &crate::types::Field)| {
                format!("{} = {}", crate::print::segment(name), sample_of(&field.ty))
            };
            format!("[{}]", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}
