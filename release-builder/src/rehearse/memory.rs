//! Whether two states in memory, of one schema version, are the same. They are compared without their types, as the
//! MessagePack that they are; in a map only what is in it counts, since hash maps have another order each time.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use relmgr_abi::chunks::ChunkReader;
use rmpv::Value;

/// So much is read at once.
const PIECE: usize = 256 * 1024;

/// What two states have to do with each other.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Same,
    /// A list has the same elements in another order, as a hash set has.
    Reordered,
    /// In these words.
    Different(String),
}

/// Compares the states in two files.
///
/// # Errors
/// One of them is none.
pub(super) fn compare(before: &Path, after: &Path) -> std::io::Result<Compared> {
    let (before, after) = (bytes(before)?, bytes(after)?);
    if before == after {
        return Ok(Compared::Same);
    }
    let sizes = format!("{} bytes before, {} after", before.len(), after.len());
    let (before, after) = (value(&before)?, value(&after)?);
    Ok(match difference(&before, &after, Order::Kept, "the state") {
        None => Compared::Same,
        Some(_) if difference(&before, &after, Order::Any, "the state").is_none() => Compared::Reordered,
        Some(words) => Compared::Different(format!("{words} ({sizes})")),
    })
}

/// What is in the chunks of a state, which are checked.
fn bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = std::fs::File::open(path)?;
    let next = move || {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece)?;
        piece.truncate(read);
        Ok((read > 0).then(|| piece.into()))
    };
    let (mut reader, _, _) = ChunkReader::open(next)?;
    let mut bytes = vec![];
    reader.read_to_end(&mut bytes)?;
    reader.finish()?;
    Ok(bytes)
}

fn value(mut bytes: &[u8]) -> std::io::Result<Value> {
    let value = rmpv::decode::read_value(&mut bytes).map_err(std::io::Error::other)?;
    match bytes {
        [] => Ok(value),
        _ => Err(std::io::Error::other("the state goes on after its end")),
    }
}

/// What the order of a list's elements means.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Kept,
    Any,
}

/// Bytes by which values that are the same are the same.
fn key(value: &Value, order: Order) -> Vec<u8> {
    let mut bytes = vec![];
    // Memory takes everything.
    let _ = rmpv::encode::write_value(&mut bytes, &sorted(value, order));
    bytes
}

fn sorted(value: &Value, order: Order) -> Value {
    match value {
        Value::Map(pairs) => {
            let mut pairs: Vec<_> =
                pairs.iter().map(|(key, value)| (sorted(key, order), sorted(value, order))).collect();
            pairs.sort_by_cached_key(|(of, _)| key(of, Order::Kept));
            Value::Map(pairs)
        }
        Value::Array(elements) => {
            let mut elements: Vec<_> = elements.iter().map(|element| sorted(element, order)).collect();
            if order == Order::Any {
                elements.sort_by_cached_key(|element| key(element, Order::Kept));
            }
            Value::Array(elements)
        }
        other => other.clone(),
    }
}

/// The first difference in words; `None`: there is none. Fields have no names here, they are counted from 0.
fn difference(before: &Value, after: &Value, order: Order, place: &str) -> Option<String> {
    match (before, after) {
        (Value::Map(before), Value::Map(after)) => {
            let of = |pairs: &[(Value, Value)]| -> BTreeMap<Vec<u8>, usize> {
                pairs.iter().enumerate().map(|(at, (of, _))| (key(of, order), at)).collect()
            };
            let (places, found) = (of(before), of(after));
            for (key, at) in &places {
                let (name, value) = &before[*at];
                let Some(there) = found.get(key) else {
                    let gone = places.keys().filter(|key| !found.contains_key(*key)).count();
                    return Some(format!("in {place} {name} is missing, {gone} of {} are", places.len()));
                };
                let words = difference(value, &after[*there].1, order, &format!("{name} of {place}"));
                if words.is_some() {
                    return words;
                }
            }
            let more = found.keys().find(|key| !places.contains_key(*key));
            more.map(|key| format!("in {place} {} was not there before", after[found[key]].0))
        }
        (Value::Array(before), Value::Array(after)) if before.len() != after.len() => {
            Some(format!("{place} had {} elements and has {}", before.len(), after.len()))
        }
        (Value::Array(before), Value::Array(after)) if order == Order::Kept => {
            let mut pairs = before.iter().zip(after).enumerate();
            pairs.find_map(|(at, (before, after))| {
                difference(before, after, order, &format!("element {at} of {place}"))
            })
        }
        (before, after) if key(before, order) == key(after, order) => None,
        (before, after) => Some(format!("{place} was {} and is {}", short(before), short(after))),
    }
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, Value)]) -> Value {
        Value::Map(pairs.iter().map(|(key, value)| (Value::from(*key), value.clone())).collect())
    }

    fn list(elements: &[Value]) -> Value {
        Value::Array(elements.to_vec())
    }

    fn told(before: &Value, after: &Value, order: Order) -> Option<String> {
        difference(before, after, order, "the state")
    }

    #[test]
    fn the_order_of_a_map_says_nothing_and_that_of_a_list_does() {
        let [a, b] = [("a", Value::from(1)), ("b", list(&[2.into(), 3.into()]))];
        let (one, other) = (map(&[a.clone(), b.clone()]), map(&[b, a.clone()]));
        assert_eq!(told(&one, &other, Order::Kept), None);
        let nested = (list(&[one.clone(), 1.into()]), list(&[other, 1.into()]));
        assert_eq!(told(&nested.0, &nested.1, Order::Kept), None);
        let turned = map(&[("b", list(&[3.into(), 2.into()])), a]);
        assert_eq!(told(&one, &turned, Order::Any), None);
        let words = told(&one, &turned, Order::Kept).unwrap();
        assert_eq!(words, "element 0 of \"b\" of the state was 2 and is 3");
    }

    #[test]
    fn what_is_lost_is_named() {
        let whole = map(&[("a", 1.into()), ("b", 2.into()), ("c", 3.into())]);
        let words = told(&whole, &map(&[("b", 2.into())]), Order::Kept).unwrap();
        assert_eq!(words, "in the state \"a\" is missing, 2 of 3 are");
        let words = told(&map(&[("b", 2.into())]), &whole, Order::Any).unwrap();
        assert_eq!(words, "in the state \"a\" was not there before");
        let words = told(&list(&[1.into(), 2.into()]), &list(&[1.into()]), Order::Any).unwrap();
        assert_eq!(words, "the state had 2 elements and has 1");
        assert!(told(&list(&[1.into()]), &list(&[2.into()]), Order::Any).is_some());
    }
}
