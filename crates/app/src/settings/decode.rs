//! From what the node hands over to the application's type.

use serde_json::{Map, Value};
use zeroize::Zeroize;

use super::Settings;
use super::secret::MASK;
use super::shape::{Group, Shape};

/// Decodes the effective configuration, a JSON object.
///
/// # Errors
/// What does not fit. It shows no secret.
pub(crate) fn decode<S: Settings>(json: &[u8]) -> Result<S, String> {
    decode_value(parse(json)?)
}

/// Reads JSON.
///
/// # Errors
/// Where it is none. No text of it: a secret may be in it.
pub(crate) fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    serde_json::from_slice(json)
        .map_err(|error| failed(&format_args!("no JSON at line {}, column {}", error.line(), error.column())))
}

fn failed(error: &dyn std::fmt::Display) -> String {
    format!("the settings do not decode into the application's: {error}")
}

/// As [`decode`], of JSON that was read.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_value<S: Settings>(mut value: Value) -> Result<S, String> {
    let mut secrets = Secrets(Vec::new());
    if let (Some(Shape::Group(group)), Value::Object(object)) = (S::keys(), &mut value) {
        complete(&group, object);
        secrets.collect(&group, object);
    }
    serde_json::from_value(value).map_err(|error| failed(&secrets.mask(error.to_string())))
}

/// Makes the groups that nobody has set a key of: serde would miss them, though none of their keys need be set.
fn complete(group: &Group, object: &mut Map<String, Value>) {
    for member in &group.members {
        let Shape::Group(inner) = &member.shape else {
            if let Some(value) = object.get_mut(member.name) {
                complete_below(&member.shape, value);
            }
            continue;
        };
        if member.flat {
            complete(inner, object);
        } else if let Value::Object(below) = object.entry(member.name).or_insert_with(|| Map::new().into()) {
            complete(inner, below);
        }
    }
}

fn complete_below(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Group(group), Value::Object(object)) => complete(group, object),
        (Shape::Optional(inner), value) => complete_below(inner, value),
        (Shape::Each(inner), Value::Object(names)) => {
            names.values_mut().for_each(|value| complete_below(inner, value));
        }
        _ => {}
    }
}

/// The texts that an error must not show.
struct Secrets(Vec<String>);

impl Secrets {
    fn collect(&mut self, group: &Group, object: &Map<String, Value>) {
        for member in &group.members {
            if let (true, Shape::Group(inner)) = (member.flat, &member.shape) {
                self.collect(inner, object);
            } else if let Some(value) = object.get(member.name) {
                self.below(&member.shape, member.notes.secret, value);
            }
        }
    }

    fn below(&mut self, shape: &Shape, secret: bool, value: &Value) {
        match (shape, value) {
            (Shape::Key(ty), Value::String(text)) if (secret || ty.secret) && !text.is_empty() => {
                self.0.push(text.clone());
            }
            (Shape::Group(group), Value::Object(object)) => self.collect(group, object),
            (Shape::Optional(inner), value) => self.below(inner, secret, value),
            (Shape::Each(inner), Value::Object(names)) => {
                names.values().for_each(|value| self.below(inner, secret, value));
            }
            _ => {}
        }
    }

    fn mask(&self, text: String) -> String {
        // As serde quotes it, too: with escapes.
        self.0.iter().fold(text, |text, secret| {
            text.replace(secret, MASK).replace(&secret.escape_debug().to_string(), MASK)
        })
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}
