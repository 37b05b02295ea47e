//! What a field of the settings may be.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64,
    NonZeroUsize,
};
use std::path::PathBuf;
use std::time::Duration;

use super::shape::{Shape, Type, Value};
use super::units::{ByteSize, print_bytes, print_duration};
use super::{Secret, shape};

/// What a field of the settings may be. Implemented for the types in [the module's table](super), and derived by
/// [`macro@crate::Settings`] for structs and enums.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a setting",
    note = "a struct or an enum of your own: #[derive(serde::Deserialize, relmgr_app::Settings)]",
    note = "a type that is read from a text: #[conf(type = \"string\")] on the field, or \"url\", \"address\", \"ip\""
)]
pub trait Setting: Sized {
    /// What it is, for checks while the application is compiled.
    #[doc(hidden)]
    const KIND: Kind;

    /// What it is, for the schema.
    #[doc(hidden)]
    fn shape() -> Shape;

    /// Its value, as a default in the schema.
    #[doc(hidden)]
    fn to_value(&self) -> Value;
}

/// What a type is, as far as it decides on where it may stand.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Without the option around it.
    pub what: What,
    /// An `Option`.
    pub optional: bool,
}

/// See [`Kind`].
#[derive(Debug, Clone, Copy)]
pub enum What {
    /// One text.
    Text,
    /// One other value.
    Plain,
    /// Several values.
    List,
    /// Keys, all of them of one value.
    Record,
    /// Keys.
    Group,
    /// Keys of any names, each of one value.
    Values,
    /// Keys of any names, each a group of keys.
    Map,
}

impl Kind {
    /// One value.
    pub const PLAIN: Self = Self { what: What::Plain, optional: false };
    /// One text.
    pub const TEXT: Self = Self { what: What::Text, optional: false };

    /// A struct with fields of these kinds.
    pub const fn of_struct(fields: &[Self]) -> Self {
        let mut what = What::Record;
        let mut at = 0;
        while at < fields.len() {
            if !matches!(fields[at].what, What::Text | What::Plain) {
                what = What::Group;
            }
            at += 1;
        }
        if fields.is_empty() {
            what = What::Group;
        }
        Self { what, optional: false }
    }

    /// `#[serde(flatten)]`.
    pub const fn flat(self) -> Self {
        assert!(
            matches!(self.what, What::Record | What::Group) && !self.optional,
            "only a struct that derives Settings can be flattened: a schema names every key"
        );
        // Its keys are its parent's: as one field it would be a group.
        Self { what: What::Group, optional: false }
    }

    /// `#[conf(secret)]`.
    pub const fn secret(self) -> Self {
        assert!(matches!(self.what, What::Text), "only a text can be secret");
        self
    }

    /// Attributes of one key.
    pub const fn one_key(self) -> Self {
        assert!(
            !matches!(self.what, What::Record | What::Group | What::Map),
            "of #[conf(…)] a group of keys has only `restart`, `deprecated`, `renamed_from` and `name`"
        );
        self
    }

    /// `Vec` of it.
    pub const fn item(self) -> Self {
        assert!(!self.optional, "a list has no items that may be left out: use Vec<T>");
        assert!(
            matches!(self.what, What::Text | What::Plain | What::List | What::Record),
            "a struct in a list is a record, whose fields are plain values: no lists, maps or structs"
        );
        Self { what: What::List, optional: false }
    }

    /// `Option` of it.
    pub const fn option(self) -> Self {
        assert!(!self.optional, "an option of an option: a key is set or it is not");
        assert!(
            !matches!(self.what, What::Values | What::Map),
            "a map may always be empty: use it without the Option"
        );
        Self { what: self.what, optional: true }
    }

    /// `A map` of it.
    pub const fn map(self) -> Self {
        assert!(!self.optional, "a name of a map is there or not: use the value without the Option");
        let what = match self.what {
            What::Text | What::Plain | What::List => What::Values,
            What::Record | What::Group | What::Values | What::Map => What::Map,
        };
        Self { what, optional: false }
    }
}

fn key(ty: Type) -> Shape {
    Shape::Key(ty)
}

macro_rules! integers {
    ($($type:ty: $min:expr, $max:expr;)*) => {$(
        impl Setting for $type {
            const KIND: Kind = Kind::PLAIN;

            fn shape() -> Shape {
                // What 64 bits with a sign hold is the schema's own bound.
                let (min, max): (Option<i128>, Option<i128>) = ($min, $max);
                key(Type { min: min.map(Value::Integer), max: max.map(Value::Integer), ..Type::new("integer") })
            }

            fn to_value(&self) -> Value {
                // No integer of these types is beyond 128 bits with a sign.
                self.to_string().parse().map_or(Value::Absent, Value::Integer)
            }
        }
    )*};
}

integers! {
    u8: Some(0), Some(u8::MAX.into());
    u16: Some(0), Some(u16::MAX.into());
    u32: Some(0), Some(u32::MAX.into());
    u64: Some(0), None;
    usize: Some(0), None;
    i8: Some(i8::MIN.into()), Some(i8::MAX.into());
    i16: Some(i16::MIN.into()), Some(i16::MAX.into());
    i32: Some(i32::MIN.into()), Some(i32::MAX.into());
    i64: None, None;
    isize: None, None;
    NonZeroU8: Some(1), Some(u8::MAX.into());
    NonZeroU16: Some(1), Some(u16::MAX.into());
    NonZeroU32: Some(1), Some(u32::MAX.into());
    NonZeroU64: Some(1), None;
    NonZeroUsize: Some(1), None;
    NonZeroI8: Some(i8::MIN.into()), Some(i8::MAX.into());
    NonZeroI16: Some(i16::MIN.into()), Some(i16::MAX.into());
    NonZeroI32: Some(i32::MIN.into()), Some(i32::MAX.into());
    NonZeroI64: None, None;
}

macro_rules! settings {
    ($($type:ty: $kind:expr, $shape:expr, |$it:ident| $value:expr;)*) => {$(
        impl Setting for $type {
            const KIND: Kind = $kind;

            fn shape() -> Shape {
                key($shape)
            }

            fn to_value(&self) -> Value {
                let $it = self;
                $value
            }
        }
    )*};
}

settings! {
    String: Kind::TEXT, Type::new("string"), |it| Value::String(it.clone());
    PathBuf: Kind::TEXT, Type::new("string"), |it| Value::String(it.display().to_string());
    bool: Kind::PLAIN, Type::new("boolean"), |it| Value::Boolean(*it);
    f64: Kind::PLAIN, Type::new("float"), |it| Value::Float(*it);
    // By way of its shortest text: 0.1 is to be 0.1 in the schema, too.
    f32: Kind::PLAIN, Type::new("float"), |it| it.to_string().parse().map_or(Value::Absent, Value::Float);
    Duration: Kind::PLAIN, Type::new("duration"), |it| Value::String(print_duration(*it));
    ByteSize: Kind::PLAIN, Type::new("bytes"), |it| Value::String(print_bytes(it.0));
    SocketAddr: Kind::PLAIN, Type { fields: vec![("ip_only", Value::Boolean(true))], ..Type::new("address") },
        |it| Value::String(it.to_string());
    IpAddr: Kind::PLAIN, Type::new("ip"), |it| Value::String(it.to_string());
    Secret: Kind::TEXT, Type { secret: true, ..Type::new("string") }, |_it| Value::Absent;
}

impl<T: Setting> Setting for Option<T> {
    const KIND: Kind = T::KIND.option();

    fn shape() -> Shape {
        Shape::Optional(Box::new(T::shape()))
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::Absent, T::to_value)
    }
}

impl<T: Setting> Setting for Vec<T> {
    const KIND: Kind = T::KIND.item();

    fn shape() -> Shape {
        key(Type::list(&item(T::shape())))
    }

    fn to_value(&self) -> Value {
        Value::List(self.iter().map(T::to_value).collect())
    }
}

/// A shape as the type of a list's items: a struct is a record.
fn item(shape: Shape) -> Type {
    match shape {
        Shape::Key(ty) => ty,
        Shape::Group(group) => record(group),
        // `Kind::item` refused these while the application was compiled.
        Shape::Each(inner) | Shape::Optional(inner) => item(*inner),
    }
}

fn record(group: shape::Group) -> Type {
    let mut record = Type::new("record");
    let mut fields = Vec::new();
    for member in group.members {
        let (ty, optional) = match member.shape {
            Shape::Optional(inner) => (item(*inner), true),
            other => (item(other), false),
        };
        let ty = ty.with_notes(&member.notes);
        let mut field = ty.to_fields();
        match member.default {
            Some(default) if default != Value::Absent => field.push(("default".to_owned(), default)),
            None if !optional => field.push(("required".to_owned(), Value::Boolean(true))),
            _ => {}
        }
        let notes = &member.notes;
        if notes.env.is_some() || notes.restart || notes.deprecated.is_some() || !notes.was.is_empty() {
            record.faults.push(format!(
                "{}: in a list, a field has no `env`, `restart`, `deprecated` or former name of its own",
                member.name
            ));
        }
        record.secret |= ty.secret;
        record.faults.extend(ty.faults);
        fields.push((member.name.to_owned(), Value::Record(field)));
    }
    record.fields.push(("fields", Value::Record(fields)));
    record
}

macro_rules! maps {
    ($([$($more:ident)?] $type:ty;)*) => {$(
        impl<T: Setting $(, $more)?> Setting for $type {
            const KIND: Kind = T::KIND.map();

            fn shape() -> Shape {
                Shape::Each(Box::new(T::shape()))
            }

            fn to_value(&self) -> Value {
                Value::Record(self.iter().map(|(name, value)| (name.clone(), value.to_value())).collect())
            }
        }
    )*};
}

maps! {
    [] BTreeMap<String, T>;
    [S] HashMap<String, T, S>;
}
