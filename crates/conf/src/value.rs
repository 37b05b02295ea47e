//! A value of a known type.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::print;
use crate::secret::{MASK, Secret};
use crate::units::{print_bytes, print_duration};

/// A value of a known type. Addresses, URLs and the words of an enum are strings.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Text.
    String(String),
    /// Text that must not be seen.
    Secret(Secret),
    /// A whole number.
    Integer(i64),
    /// A finite number.
    Float(f64),
    /// True or false.
    Boolean(bool),
    /// A time span.
    Duration(Duration),
    /// A size in bytes.
    Bytes(u64),
    /// Several values of one type.
    List(Vec<Value>),
    /// Named values.
    Record(BTreeMap<String, Value>),
}

impl Value {
    /// As JSON for the application, **secrets included**. A duration is a string that humantime reads
    /// (`"1h30m"`), a size is a whole number of bytes, an address or URL a string.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match self {
            Self::String(text) => Json::from(text.as_str()),
            Self::Secret(secret) => Json::from(secret.expose()),
            Self::Integer(number) => Json::from(*number),
            Self::Float(number) => Json::from(*number),
            Self::Boolean(on) => Json::from(*on),
            Self::Duration(duration) => Json::from(print_duration(*duration)),
            Self::Bytes(bytes) => Json::from(*bytes),
            Self::List(items) => items.iter().map(Self::to_json).collect(),
            Self::Record(fields) => {
                let fields = fields.iter().map(|(name, value)| (name.clone(), value.to_json()));
                Json::Object(fields.collect())
            }
        }
    }

    /// As it stands in `app.conf`; a secret as `***`.
    pub fn to_conf(&self) -> String {
        match self {
            // A list of one item keeps its comma, a list of lists the commas between its brackets.
            Self::List(items) if !items.is_empty() => {
                let items: Vec<_> = items.iter().map(Self::to_conf_item).collect();
                let comma = if items.len() == 1 { "," } else { "" };
                items.join(", ") + comma
            }
            other => other.to_conf_item(),
        }
    }

    /// As an item of a list.
    fn to_conf_item(&self) -> String {
        match self {
            Self::String(text) => print::text(text),
            Self::Secret(_) => MASK.to_owned(),
            Self::Integer(number) => number.to_string(),
            Self::Float(number) => format!("{number:?}"),
            Self::Boolean(on) => on.to_string(),
            Self::Duration(duration) => print_duration(*duration),
            Self::Bytes(bytes) => print_bytes(*bytes),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::to_conf_item).collect();
                format!("[{}]", items.join(", "))
            }
            Self::Record(fields) => {
                let field = |(name, value): (&String, &Self)| {
                    format!("{} = {}", print::segment(name), value.to_conf_item())
                };
                format!("[{}]", fields.iter().map(field).collect::<Vec<_>>().join(", "))
            }
        }
    }

    /// As TOML, for a schema's defaults; a secret has none.
    pub(crate) fn to_toml(&self) -> toml::Value {
        match self {
            Self::Integer(number) => toml::Value::Integer(*number),
            Self::Float(number) => toml::Value::Float(*number),
            Self::Boolean(on) => toml::Value::Boolean(*on),
            Self::List(items) => toml::Value::Array(items.iter().map(Self::to_toml).collect()),
            Self::Record(fields) => toml::Value::Table(
                fields.iter().map(|(name, value)| (name.clone(), value.to_toml())).collect(),
            ),
            Self::String(text) => toml::Value::String(text.clone()),
            Self::Secret(_) | Self::Duration(_) | Self::Bytes(_) => toml::Value::String(self.to_conf_item()),
        }
    }
}
