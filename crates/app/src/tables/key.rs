//! Keys as bytes that sort as the values do.

use crate::tables::TableError;

/// What a table can be looked up by. Its bytes sort as its values do, none is the beginning of another's, and none is
/// empty.
pub trait Key: Sized + Send + Sync + 'static {
    /// What it is, such as `u64` or `(string, u32)`: recorded with the table, and compared when it is opened.
    fn kind() -> String;

    /// Appends its bytes.
    fn write(&self, bytes: &mut Vec<u8>);

    /// Takes its bytes off the front; `None`: they are none of its.
    fn read(bytes: &mut &[u8]) -> Option<Self>;
}

pub(crate) fn to_bytes(key: &impl Key) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(16);
    key.write(&mut bytes);
    bytes
}

pub(crate) fn from_bytes<K: Key>(mut bytes: &[u8]) -> Result<K, TableError> {
    let key = K::read(&mut bytes).filter(|_| bytes.is_empty());
    key.ok_or_else(|| TableError::Key(format!("a key in the table is no {}", K::kind())))
}

macro_rules! unsigned {
    ($($type:ty)*) => {$(
        impl Key for $type {
            fn kind() -> String {
                stringify!($type).into()
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&self.to_be_bytes());
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let (found, rest) = bytes.split_first_chunk()?;
                *bytes = rest;
                Some(Self::from_be_bytes(*found))
            }
        }
    )*};
}

unsigned!(u8 u16 u32 u64 u128);

macro_rules! signed {
    ($($type:ty as $unsigned:ty)*) => {$(
        impl Key for $type {
            fn kind() -> String {
                stringify!($type).into()
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                // The sign's bit turned over: negative ones come first.
                (self.cast_unsigned() ^ (1 << (<$type>::BITS - 1))).write(bytes);
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                let found = <$unsigned>::read(bytes)?;
                Some((found ^ (1 << (<$type>::BITS - 1))).cast_signed())
            }
        }
    )*};
}

signed!(i8 as u8 i16 as u16 i32 as u32 i64 as u64 i128 as u128);

impl Key for bool {
    fn kind() -> String {
        "bool".into()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        bytes.push(u8::from(*self));
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        match u8::read(bytes)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// Bytes of any length: a zero byte becomes `00 FF`, and `00 01` ends them. So a shorter text comes before its
/// continuations, also within a tuple.
pub(crate) fn write_open(text: &[u8], bytes: &mut Vec<u8>) {
    for byte in text {
        bytes.push(*byte);
        if *byte == 0 {
            bytes.push(0xff);
        }
    }
}

fn read_escaped(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut found = Vec::new();
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if *byte == 0 {
            let (second, rest) = rest.split_first()?;
            *bytes = rest;
            match second {
                0xff => {}
                1 => return Some(found),
                _ => return None,
            }
        }
        found.push(*byte);
    }
}

impl Key for String {
    fn kind() -> String {
        "string".into()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_open(self.as_bytes(), bytes);
        bytes.extend_from_slice(&[0, 1]);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        Self::from_utf8(read_escaped(bytes)?).ok()
    }
}

impl Key for Vec<u8> {
    fn kind() -> String {
        "bytes".into()
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        write_open(self, bytes);
        bytes.extend_from_slice(&[0, 1]);
    }

    fn read(bytes: &mut &[u8]) -> Option<Self> {
        read_escaped(bytes)
    }
}

macro_rules! tuple {
    ($($name:ident $at:tt),*) => {
        impl<$($name: Key),*> Key for ($($name,)*) {
            fn kind() -> String {
                format!("({})", [$($name::kind()),*].join(", "))
            }

            fn write(&self, bytes: &mut Vec<u8>) {
                $(self.$at.write(bytes);)*
            }

            fn read(bytes: &mut &[u8]) -> Option<Self> {
                Some(($($name::read(bytes)?,)*))
            }
        }
    };
}

tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorts_and_returns<K: Key + Ord + Clone + std::fmt::Debug>(a: &K, b: &K) {
        let (left, right) = (to_bytes(a), to_bytes(b));
        assert_eq!(left.cmp(&right), a.cmp(b), "{a:?} {b:?}");
        assert_eq!(from_bytes::<K>(&left).unwrap(), *a);
        if a != b {
            assert!(!left.starts_with(&right), "{a:?} begins with {b:?}");
        }
        for cut in 0..left.len() {
            assert!(from_bytes::<K>(&left[..cut]).is_err());
        }
    }

    proptest! {
        #[test]
        fn bytes_sort_as_values_do(
            a in any::<(u64, i64, i16)>(), b in any::<(u64, i64, i16)>(),
            text in "[\\x00a-c]{0,4}", other in "[\\x00a-c]{0,4}",
            raw in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5),
            other_raw in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..5),
        ) {
            sorts_and_returns(&a.0, &b.0);
            sorts_and_returns(&a.1, &b.1);
            sorts_and_returns(&a, &b);
            sorts_and_returns(&text, &other);
            sorts_and_returns(&raw, &other_raw);
            sorts_and_returns(&(text.clone(), a.2, raw.clone()), &(other.clone(), b.2, other_raw.clone()));
            sorts_and_returns(&(text, true), &(other, false));
        }
    }

    #[test]
    fn kinds_are_words() {
        assert_eq!(<(String, u32, (i64, bool))>::kind(), "(string, u32, (i64, bool))");
    }
}
