//! Writes a schema as `conf/schema.toml`, so that reading it gives the same schema again.

use crate::schema::{FORMAT, KeySpec, Schema, pattern};
use crate::types::{Bounds, Type};
use crate::units::{print_bytes, print_duration};

pub(crate) fn write(schema: &Schema) -> String {
    let mut out = format!("format = {FORMAT}\n");
    for (key, spec) in &schema.keys {
        out.push_str(&format!("\n[keys.{}]\n", quoted(&pattern(key))));
        for (name, value) in type_fields(&spec.ty).into_iter().chain(spec_fields(spec)) {
            out.push_str(&format!("{name} = {value}\n"));
        }
    }
    if !schema.removed.is_empty() {
        out.push_str("\n[removed]\n");
        for (key, message) in &schema.removed {
            out.push_str(&format!("{} = {}\n", quoted(&key.to_string()), quoted(message)));
        }
    }
    out
}

fn quoted(text: &str) -> toml::Value {
    toml::Value::String(text.to_owned())
}

fn spec_fields(spec: &KeySpec) -> Vec<(String, toml::Value)> {
    let mut fields = Vec::new();
    let mut add = |name: &str, value: Option<toml::Value>| {
        fields.extend(value.map(|value| (name.to_owned(), value)));
    };
    let flag = |on: bool| on.then_some(toml::Value::Boolean(true));
    add("default", spec.default.as_ref().map(|value| value.to_toml()));
    add("example", spec.example.as_ref().map(|value| value.to_toml()));
    add("doc", (!spec.doc.is_empty()).then(|| quoted(&spec.doc)));
    add("env", spec.env.as_deref().map(quoted));
    add("required", flag(spec.required));
    add("secret", flag(spec.secret));
    add("restart", flag(spec.restart));
    let was = spec.was.iter().map(|key| quoted(&pattern(key))).collect();
    add("was", (!spec.was.is_empty()).then_some(toml::Value::Array(was)));
    add("deprecated", spec.deprecated.as_deref().map(quoted));
    fields
}

/// `type` and what belongs to it.
fn type_fields(ty: &Type) -> Vec<(String, toml::Value)> {
    let mut fields = vec![("type".to_owned(), quoted(ty.name()))];
    let count = |n: &u64| toml::Value::Integer(i64::try_from(*n).unwrap_or(i64::MAX));
    let texts = |texts: &[String]| toml::Value::Array(texts.iter().map(|text| quoted(text)).collect());
    match ty {
        Type::String { length, pattern } => {
            bounds(&mut fields, length, count);
            fields.extend(pattern.as_ref().map(|pattern| ("pattern".to_owned(), quoted(pattern.as_str()))));
        }
        Type::Integer(range) => bounds(&mut fields, range, |n| toml::Value::Integer(*n)),
        Type::Float(range) => bounds(&mut fields, range, |n| toml::Value::Float(*n)),
        Type::Duration(range) => bounds(&mut fields, range, |time| quoted(&print_duration(*time))),
        Type::Bytes(range) => bounds(&mut fields, range, |bytes| quoted(&print_bytes(*bytes))),
        Type::Address { ip_only: true } => fields.push(("ip_only".to_owned(), toml::Value::Boolean(true))),
        Type::Url { schemes } if !schemes.is_empty() => fields.push(("schemes".to_owned(), texts(schemes))),
        Type::Enum(words) => fields.push(("values".to_owned(), texts(words))),
        Type::List { items, length } => {
            fields.push(("items".to_owned(), toml::Value::Table(type_fields(items).into_iter().collect())));
            bounds(&mut fields, length, count);
        }
        Type::Record(inner) => {
            let mut table = toml::Table::new();
            for (name, field) in inner {
                let mut entry: toml::Table = type_fields(&field.ty).into_iter().collect();
                if let Some(default) = &field.default {
                    entry.insert("default".to_owned(), default.to_toml());
                }
                if field.required {
                    entry.insert("required".to_owned(), toml::Value::Boolean(true));
                }
                table.insert(name.clone(), toml::Value::Table(entry));
            }
            fields.push(("fields".to_owned(), toml::Value::Table(table)));
        }
        Type::Boolean | Type::Ip | Type::Address { .. } | Type::Url { .. } => {}
    }
    fields
}

fn bounds<T>(fields: &mut Vec<(String, toml::Value)>, bounds: &Bounds<T>, value: impl Fn(&T) -> toml::Value) {
    fields.extend(bounds.min.as_ref().map(|min| ("min".to_owned(), value(min))));
    fields.extend(bounds.max.as_ref().map(|max| ("max".to_owned(), value(max))));
}
