//! What a state looks like, as a hash: so that a form that changed without a new schema version is noticed.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Write;

/// A type that can be part of a state. Derived; the standard library's own types have it.
pub trait Shape {
    /// Describes the type.
    fn outline(to: &mut Outline);
}

/// The description of a type, while it is being written.
#[derive(Debug, Default)]
pub struct Outline {
    text: String,
    /// Types that are being described, so that one that contains itself comes to an end.
    open: Vec<&'static str>,
}

impl Outline {
    /// Describes a type at this place.
    pub fn of<T: Shape + ?Sized>(&mut self) {
        let name = std::any::type_name::<T>();
        // By its distance, since names of types may change.
        if let Some(at) = self.open.iter().rposition(|open| *open == name) {
            let up = self.open.len() - at;
            // Writing to a string does not fail.
            let _ = write!(self.text, "^{up}");
            return;
        }
        self.open.push(name);
        T::outline(self);
        self.open.pop();
    }

    /// Writes a word that cannot run into its neighbours.
    pub fn word(&mut self, word: &str) {
        let _ = write!(self.text, "{}:{word};", word.len());
    }

    /// Describes a type of one part.
    fn one<T: Shape + ?Sized>(&mut self, word: &str) {
        self.word(word);
        self.of::<T>();
    }
}

/// The hash of a type's description.
pub fn hash<T: Shape + ?Sized>() -> u64 {
    let mut outline = Outline::default();
    outline.of::<T>();
    // FNV-1a: it tells forms apart by mistake, not by malice.
    let add = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    outline.text.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, add)
}

macro_rules! plain {
    ($($type:ty),* $(,)?) => {$(
        impl Shape for $type {
            fn outline(to: &mut Outline) {
                to.word(stringify!($type));
            }
        }
    )*};
}

plain!(u8, u16, u32, u64, u128, i8, i16, i32, i64, i128, f32, f64, bool, char, String, str, ());
plain!(std::num::NonZeroU8, std::num::NonZeroU16, std::num::NonZeroU32, std::num::NonZeroU64);
plain!(std::time::Duration, std::time::SystemTime, std::path::PathBuf);
plain!(std::net::IpAddr, std::net::Ipv4Addr, std::net::Ipv6Addr, std::net::SocketAddr);

// They are written as these.
impl Shape for usize {
    fn outline(to: &mut Outline) {
        to.word("u64");
    }
}

impl Shape for isize {
    fn outline(to: &mut Outline) {
        to.word("i64");
    }
}

macro_rules! of_one {
    ($($word:literal $type:ident<T $(, $other:ident)?>),* $(,)?) => {$(
        impl<T: Shape $(, $other)?> Shape for $type<T $(, $other)?> {
            fn outline(to: &mut Outline) {
                to.one::<T>($word);
            }
        }
    )*};
}

// Words are what is written: a list is one whichever type holds it.
of_one!("option" Option<T>, "list" Vec<T>, "list" VecDeque<T>, "list" BTreeSet<T>, "list" HashSet<T, S>);

impl<T: Shape> Shape for [T] {
    fn outline(to: &mut Outline) {
        to.one::<T>("list");
    }
}

impl<T: Shape + ?Sized> Shape for Box<T> {
    fn outline(to: &mut Outline) {
        T::outline(to);
    }
}

impl<T: Shape, const N: usize> Shape for [T; N] {
    fn outline(to: &mut Outline) {
        to.word(&N.to_string());
        to.one::<T>("array");
    }
}

impl<K: Shape, V: Shape> Shape for BTreeMap<K, V> {
    fn outline(to: &mut Outline) {
        to.one::<K>("map");
        to.of::<V>();
    }
}

impl<K: Shape, V: Shape, S> Shape for HashMap<K, V, S> {
    fn outline(to: &mut Outline) {
        to.one::<K>("map");
        to.of::<V>();
    }
}

macro_rules! tuples {
    ($(($($part:ident),*))*) => {$(
        impl<$($part: Shape),*> Shape for ($($part,)*) {
            fn outline(to: &mut Outline) {
                to.word("tuple(");
                $(to.of::<$part>();)*
                to.word(")");
            }
        }
    )*};
}

tuples!((A)(A, B)(A, B, C)(A, B, C, D)(A, B, C, D, E)(A, B, C, D, E, F));
