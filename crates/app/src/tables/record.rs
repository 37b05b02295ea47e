//! What a record is: its type, and what its bytes are ([`relmgr_abi::record`]) to it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use relmgr_abi::future::panic_message;
use relmgr_abi::record::{EXPIRES, OLDER};
pub(crate) use relmgr_abi::record::{Parts, millis, now_ms};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Error;

/// What a table holds.
///
/// Its form is postcard's: fields by their order, without names. So every change of the type (a field more, another
/// order, another type) is a new [`SCHEMA`](Record::SCHEMA), with [`up`](Record::up) for the records that are there
/// and [`down`](Record::down) for the release before, which is asked again after a rollback.
pub trait Record: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// What it is called: recorded with the table, and compared when it is opened. It stays when the type's name in
    /// the code changes.
    const NAME: &'static str;

    /// Number of this form of it; it only grows.
    const SCHEMA: u32 = 1;

    /// Makes one of a record of an older schema version.
    ///
    /// # Errors
    /// Why that cannot be: the record is kept aside then, as one that does not decode.
    fn up(older: Older<'_>) -> Result<Self, Error> {
        Err(older.unknown())
    }

    /// Its form of an older schema version, for a release that may be asked again.
    ///
    /// # Errors
    /// Why there is none: that release does not see the record then.
    fn down(&self, schema: u32) -> Result<Form, Error> {
        Err(format!("{} has no form of schema {schema}", Self::NAME).into())
    }
}

/// A record of an older schema version.
#[derive(Debug, Clone, Copy)]
pub struct Older<'a> {
    schema: u32,
    form: &'a [u8],
    name: &'static str,
}

impl Older<'_> {
    /// Its schema version.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// The record as what it was then.
    ///
    /// # Errors
    /// It is no `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, Error> {
        decode(self.form)
    }

    /// There is no way from this schema version.
    pub fn unknown(&self) -> Error {
        format!("{} cannot be made of schema {}", self.name, self.schema).into()
    }
}

/// The form of a record in an older schema version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form(Vec<u8>);

impl Form {
    /// What `older`, the type of that time, looks like.
    ///
    /// # Errors
    /// It cannot be encoded.
    pub fn of<T: Serialize>(older: &T) -> Result<Self, Error> {
        Ok(Self(postcard::to_stdvec(older)?))
    }
}

fn decode<T: DeserializeOwned>(form: &[u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(form)? {
        (value, []) => Ok(value),
        (_, rest) => Err(format!("{} bytes are left over", rest.len()).into()),
    }
}

/// The value of a record.
///
/// # Errors
/// Why it cannot be read.
pub(crate) fn value<V: Record>(parts: &Parts<'_>) -> Result<V, Error> {
    match parts.for_schema(V::SCHEMA) {
        Some((schema, form)) if schema == V::SCHEMA => decode(form),
        // A panic of the author's is a record that cannot be read: it is to harm no other.
        Some((schema, form)) => {
            catch_unwind(AssertUnwindSafe(|| V::up(Older { schema, form, name: V::NAME }))).unwrap_or_else(
                |payload| Err(format!("migrating it panicked: {}", panic_message(payload)).into()),
            )
        }
        None => {
            let (schema, own) = (parts.schema, V::SCHEMA);
            Err(format!("it has schema {schema}, and this release knows {own} at most").into())
        }
    }
}

/// What becomes of a record.
pub(crate) enum Found<V> {
    Value(V, Option<u64>),
    Expired,
    Unreadable(String),
}

/// Reads a record.
pub(crate) fn read<V: Record>(bytes: &[u8]) -> Found<V> {
    let Some(parts) = Parts::of(bytes) else {
        return Found::Unreadable("its first bytes are no record's".into());
    };
    if parts.is_expired() {
        return Found::Expired;
    }
    match value(&parts) {
        Ok(value) => Found::Value(value, parts.expires),
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

/// A record as it is written, and whether a release of schema `lowest` can read it.
pub(crate) struct Written {
    pub(crate) bytes: Vec<u8>,
    pub(crate) readable: bool,
}

/// Writes a record so that a release of schema `lowest` can read it too.
///
/// # Errors
/// The value cannot be encoded.
pub(crate) fn write<V: Record>(value: &V, expires: Option<u64>, lowest: u32) -> Result<Written, Error> {
    // A panic of the author's is a form that there is not.
    let down = || {
        catch_unwind(AssertUnwindSafe(|| value.down(lowest))).unwrap_or_else(|_| Err("down panicked".into()))
    };
    let older = (lowest < V::SCHEMA).then(down);
    let readable = older.as_ref().is_none_or(Result::is_ok);
    let older = older.and_then(Result::ok);
    let mut bytes = Vec::with_capacity(64);
    bytes.push(if expires.is_some() { EXPIRES } else { 0 } | if older.is_some() { OLDER } else { 0 });
    bytes.extend_from_slice(&V::SCHEMA.to_le_bytes());
    if let Some(expires) = expires {
        bytes.extend_from_slice(&expires.to_le_bytes());
    }
    if let Some(Form(form)) = older {
        let len = u32::try_from(form.len()).map_err(|_| "the older form has 4 GiB or more")?;
        bytes.extend_from_slice(&lowest.to_le_bytes());
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&form);
    }
    Ok(Written { bytes: postcard::to_extend(value, bytes)?, readable })
}

macro_rules! plain {
    ($($type:ty: $name:literal),*) => {$(
        impl Record for $type {
            const NAME: &'static str = $name;
        }
    )*};
}

plain!(
    (): "nothing", bool: "bool", u8: "u8", u16: "u16", u32: "u32", u64: "u64", i8: "i8", i16: "i16", i32: "i32",
    i64: "i64", f32: "f32", f64: "f64", String: "string", Vec<u8>: "bytes"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct Second {
        text: String,
        number: u32,
    }

    impl Record for Second {
        const NAME: &'static str = "thing";
        const SCHEMA: u32 = 2;

        fn up(older: Older<'_>) -> Result<Self, Error> {
            match older.schema() {
                1 => Ok(Self { text: older.decode()?, number: 7 }),
                _ => Err(older.unknown()),
            }
        }

        fn down(&self, schema: u32) -> Result<Form, Error> {
            if schema == 1 && self.number < 100 { Form::of(&self.text) } else { Err("too new".into()) }
        }
    }

    /// The release before.
    #[derive(Debug, PartialEq, Serialize, serde::Deserialize)]
    struct First(String);

    impl Record for First {
        const NAME: &'static str = "thing";
    }

    fn value<V: Record>(bytes: &[u8]) -> Result<V, String> {
        match read(bytes) {
            Found::Value(value, _) => Ok(value),
            Found::Expired => Err("expired".into()),
            Found::Unreadable(why) => Err(why),
        }
    }

    fn second(number: u32) -> Second {
        Second { text: "a".into(), number }
    }

    #[test]
    fn each_release_reads_what_the_other_wrote() {
        let old = write(&First("a".into()), None, 1).unwrap().bytes;
        assert_eq!(value::<Second>(&old), Ok(second(7)));
        let both = write(&second(9), None, 1).unwrap();
        assert!(both.readable);
        assert_eq!(value::<Second>(&both.bytes), Ok(second(9)), "nothing is lost for the newer one");
        assert_eq!(value::<First>(&both.bytes), Ok(First("a".into())));
        let alone = write(&second(9), None, 2).unwrap();
        assert!(alone.bytes.len() < both.bytes.len());
        assert!(value::<First>(&alone.bytes).unwrap_err().contains("schema 2"));
        let cannot = write(&second(100), None, 1).unwrap();
        assert!(!cannot.readable && value::<First>(&cannot.bytes).is_err());
        assert_eq!(value::<Second>(&cannot.bytes), Ok(second(100)));
    }

    #[test]
    fn records_expire() {
        let bytes = |expires| write(&5_u64, Some(expires), 1).unwrap().bytes;
        assert_eq!(value::<u64>(&bytes(now_ms() + 60_000)), Ok(5));
        assert_eq!(value::<u64>(&bytes(now_ms())), Err("expired".into()));
    }

    #[test]
    fn what_is_no_record_is_not_read_as_one() {
        let whole = write(&second(9), Some(u64::MAX), 1).unwrap().bytes;
        for cut in 0..whole.len() {
            assert!(value::<Second>(&whole[..cut]).is_err(), "{cut}");
        }
        let longer = [&whole[..], b"x"].concat();
        assert!(value::<Second>(&longer).unwrap_err().contains("left over"));
        assert!(value::<Second>(&[0xf0; 40]).is_err());
    }
}
