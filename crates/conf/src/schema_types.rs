//! Types and values in `conf/schema.toml`.

use std::collections::BTreeMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::schema_read::{Fields, Reader};
use crate::suggest;
use crate::types::{Bounds, Field, Pattern, Type};
use crate::value::Value;

/// The type that `type` and its fields say; `None` where there is none that could be used.
pub(crate) fn read_type(
    reader: &mut Reader,
    fields: &mut Fields<'_, '_>,
    place: &Range<usize>,
) -> Option<Type> {
    const WORDS: [&str; 12] = [
        "string", "integer", "float", "boolean", "duration", "bytes", "address", "ip", "url", "enum", "list",
        "record",
    ];
    let about = fields.about;
    let Some(value) = fields.take("type") else {
        reader.fault(place, about, format!("it has no type; types are {}", WORDS.join(", ")));
        return None;
    };
    let word = value.get_ref().as_str().unwrap_or("");
    let integer = |value: &DeValue<'_>| whole(value);
    let count = |value: &DeValue<'_>| whole(value).and_then(|n| u64::try_from(n).ok());
    let ty = match word {
        "string" => {
            let length = fields.bounds(reader, count, "a number of characters");
            let pattern = fields.text(reader, "pattern").and_then(|text| {
                let pattern = Pattern::new(&text);
                if let (Err(reason), Some(value)) = (&pattern, fields.table.get("pattern")) {
                    reader.fault(&value.span(), about, format!("pattern: {reason}"));
                }
                pattern.ok()
            });
            Type::String { length, pattern }
        }
        "integer" => Type::Integer(fields.bounds(reader, integer, "an integer")),
        "float" => {
            let float = |value: &DeValue<'_>| match from_toml(&Type::Float(Bounds::default()), value) {
                Ok(Value::Float(number)) => Some(number),
                _ => None,
            };
            Type::Float(fields.bounds(reader, float, "a number"))
        }
        "boolean" => Type::Boolean,
        "duration" => {
            let duration = |value: &DeValue<'_>| crate::units::parse_duration(value.as_str()?).ok();
            Type::Duration(fields.bounds(reader, duration, "a duration such as \"30s\""))
        }
        "bytes" => {
            let bytes = |value: &DeValue<'_>| match from_toml(&Type::Bytes(Bounds::default()), value) {
                Ok(Value::Bytes(bytes)) => Some(bytes),
                _ => None,
            };
            Type::Bytes(fields.bounds(reader, bytes, "a size such as \"16MB\""))
        }
        "address" => Type::Address { ip_only: fields.flag(reader, "ip_only") },
        "ip" => Type::Ip,
        "url" => {
            let schemes = fields.texts(reader, "schemes").unwrap_or_default();
            Type::Url { schemes: schemes.into_iter().map(|(text, _)| text).collect() }
        }
        "enum" => {
            let words: Vec<_> = fields
                .texts(reader, "values")
                .unwrap_or_default()
                .into_iter()
                .map(|(text, _)| text)
                .collect();
            if words.is_empty() {
                reader.fault(&value.span(), about, "an enum needs values = [\"…\"]");
            }
            Type::Enum(words)
        }
        "list" => {
            let length = fields.bounds(reader, count, "a number of items");
            Type::List { items: Box::new(read_items(reader, fields, &value.span())?), length }
        }
        "record" => Type::Record(read_fields(reader, fields, &value.span())),
        _ => {
            let near = suggest::word(word, WORDS).map(|near| format!("did you mean `{near}`?"));
            let message = format!("types are {}", WORDS.join(", "));
            reader.fault(&value.span(), about, message).hint = near;
            return None;
        }
    };
    Some(ty)
}

fn read_items(reader: &mut Reader, fields: &mut Fields<'_, '_>, place: &Range<usize>) -> Option<Type> {
    let about = fields.about;
    let Some(items) = fields.take("items") else {
        reader.fault(place, about, "a list needs items = \"…\", the type of its items");
        return None;
    };
    if let Some(table) = items.get_ref().as_table() {
        let mut inner = Fields::new(table, about);
        let ty = read_type(reader, &mut inner, &items.span());
        inner.refuse_others(reader);
        return ty;
    }
    // The type's word alone: as a table with nothing but `type`.
    let mut table = DeTable::default();
    table.insert(Spanned::new(items.span(), "type".into()), items.clone());
    let ty = read_type(reader, &mut Fields::new(&table, about), &items.span())?;
    Some(ty)
}

fn read_fields(
    reader: &mut Reader,
    fields: &mut Fields<'_, '_>,
    place: &Range<usize>,
) -> BTreeMap<String, Field> {
    let about = fields.about;
    let mut read = BTreeMap::new();
    let table = fields.take("fields").and_then(|value| value.get_ref().as_table());
    for (name, value) in table.into_iter().flatten() {
        let Some(table) = value.get_ref().as_table() else {
            reader.fault(&value.span(), about, "a table with a type was expected");
            continue;
        };
        let mut inner = Fields::new(table, about);
        let Some(ty) = read_type(reader, &mut inner, &name.span()) else { continue };
        if matches!(ty, Type::List { .. } | Type::Record(_)) {
            reader.fault(&name.span(), about, "a record's field is no list and no record");
        }
        let default = inner.value(reader, "default", &ty);
        let required = inner.flag(reader, "required");
        inner.refuse_others(reader);
        read.insert(name.get_ref().to_string(), Field { ty, default, required });
    }
    if read.is_empty() {
        reader.fault(place, about, "a record needs fields: fields.name = { type = \"…\" }");
    }
    read
}

fn whole(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

/// A default or example as a value of `ty`.
pub(crate) fn from_toml(ty: &Type, value: &DeValue<'_>) -> Result<Value, String> {
    let expected = || format!("expected {}", ty.describe());
    let text = match (ty, value) {
        (Type::List { items, length }, DeValue::Array(array)) => {
            let read: Result<Vec<_>, _> = array.iter().map(|item| from_toml(items, item.get_ref())).collect();
            let read = read?;
            let fits = length.contain(&u64::try_from(read.len()).unwrap_or(u64::MAX));
            return if fits { Ok(Value::List(read)) } else { Err(expected()) };
        }
        (Type::Record(fields), DeValue::Table(table)) => return record_from_toml(fields, table),
        (Type::List { .. } | Type::Record(_), _) => return Err(expected()),
        (Type::Boolean, DeValue::Boolean(on)) => return Ok(Value::Boolean(*on)),
        (Type::Integer(_) | Type::Bytes(_) | Type::Float(_), DeValue::Integer(_)) => {
            whole(value).map(|number| number.to_string()).ok_or_else(expected)?
        }
        (Type::Float(_), DeValue::Float(number)) => number.as_str().to_owned(),
        (Type::Boolean | Type::Integer(_) | Type::Float(_), _) => return Err(expected()),
        (_, DeValue::String(text)) => text.to_string(),
        _ => return Err(expected()),
    };
    ty.read(&text).map_err(|refusal| match refusal.reason {
        Some(reason) => format!("{}: {reason}", expected()),
        None => expected(),
    })
}

fn record_from_toml(fields: &BTreeMap<String, Field>, table: &DeTable<'_>) -> Result<Value, String> {
    let mut record = BTreeMap::new();
    for (name, value) in table.iter() {
        let field =
            fields.get(&**name.get_ref()).ok_or_else(|| format!("`{}` is no field", name.get_ref()))?;
        record.insert(name.get_ref().to_string(), from_toml(&field.ty, value.get_ref())?);
    }
    for (name, field) in fields {
        if let (Some(default), false) = (&field.default, record.contains_key(name)) {
            record.insert(name.clone(), default.clone());
        }
        if field.required && !record.contains_key(name) {
            return Err(format!("`{name}` is missing"));
        }
    }
    Ok(Value::Record(record))
}
