//! What a value may be: the types of a schema, and texts read as one of them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fluent_uri::Uri;

use crate::suggest;
use crate::units::{parse_bytes, parse_duration, print_bytes, print_duration};
use crate::value::Value;

/// The type of a key, or of a list's items.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Text, its length in characters within bounds, and the whole of it matching the pattern.
    String {
        /// Characters.
        length: Bounds<u64>,
        /// A regular expression for the whole text.
        pattern: Option<Pattern>,
    },
    /// A whole number; `_` may stand between digits.
    Integer(Bounds<i64>),
    /// A finite number.
    Float(Bounds<f64>),
    /// `true`, `false`, `on`, `off`, `yes`, `no`.
    Boolean,
    /// `1h30m`.
    Duration(Bounds<Duration>),
    /// `16MB`.
    Bytes(Bounds<u64>),
    /// `host:port`.
    Address {
        /// Only an IP address will do, no host name.
        ip_only: bool,
    },
    /// An IP address.
    Ip,
    /// An absolute URL.
    Url {
        /// Allowed schemes; empty: all.
        schemes: Vec<String>,
    },
    /// One of these words.
    Enum(Vec<String>),
    /// Several values of one type.
    List {
        /// Their type.
        items: Box<Type>,
        /// How many.
        length: Bounds<u64>,
    },
    /// `[key = value, key = value]`.
    Record(BTreeMap<String, Field>),
}

/// A field of a record.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// What it may be: no list and no record.
    pub ty: Type,
    /// Where it is left out.
    pub default: Option<Value>,
    /// Whether it may not be left out.
    pub required: bool,
}

/// The least and the most, both allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds<T> {
    /// The least.
    pub min: Option<T>,
    /// The most.
    pub max: Option<T>,
}

impl<T> Default for Bounds<T> {
    fn default() -> Self {
        Self { min: None, max: None }
    }
}

impl<T: PartialOrd> Bounds<T> {
    /// Whether `value` is within.
    pub fn contain(&self, value: &T) -> bool {
        self.min.as_ref().is_none_or(|min| value >= min) && self.max.as_ref().is_none_or(|max| value <= max)
    }

    fn describe(&self, print: impl Fn(&T) -> String) -> String {
        match (&self.min, &self.max) {
            (Some(min), Some(max)) => format!(" from {} to {}", print(min), print(max)),
            (Some(min), None) => format!(" of at least {}", print(min)),
            (None, Some(max)) => format!(" of at most {}", print(max)),
            (None, None) => String::new(),
        }
    }
}

/// A regular expression that the whole of a text matches.
#[derive(Clone)]
pub struct Pattern {
    text: String,
    regex: regex_lite::Regex,
}

impl Pattern {
    /// Compiles `text`; it is anchored at both ends.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let regex = regex_lite::Regex::new(&format!("^(?:{text})$")).map_err(|error| error.to_string())?;
        Ok(Self { text: text.to_owned(), regex })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Why a text is no value of a type. The words never repeat the text: it may be secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) reason: Option<String>,
    pub(crate) hint: Option<String>,
}

impl Refusal {
    fn reason(reason: impl Into<String>) -> Self {
        Self { reason: Some(reason.into()), hint: None }
    }

    fn hint(hint: impl Into<String>) -> Self {
        Self { reason: None, hint: Some(hint.into()) }
    }
}

impl Type {
    /// The type's word in a schema.
    pub fn name(&self) -> &'static str {
        match self {
            Self::String { .. } => "string",
            Self::Integer(_) => "integer",
            Self::Float(_) => "float",
            Self::Boolean => "boolean",
            Self::Duration(_) => "duration",
            Self::Bytes(_) => "bytes",
            Self::Address { .. } => "address",
            Self::Ip => "ip",
            Self::Url { .. } => "url",
            Self::Enum(_) => "enum",
            Self::List { .. } => "list",
            Self::Record(_) => "record",
        }
    }

    /// What is expected, for people: `an integer from 2 to 100`.
    pub fn describe(&self) -> String {
        match self {
            Self::String { length, pattern } => {
                let unit = if length == &Bounds::default() { "" } else { " characters" };
                let length = length.describe(u64::to_string);
                let pattern = pattern.as_ref().map(|pattern| format!(" that matches {}", pattern.as_str()));
                format!("a text{length}{unit}{}", pattern.unwrap_or_default())
            }
            Self::Integer(bounds) => format!("an integer{}", bounds.describe(i64::to_string)),
            Self::Float(bounds) => format!("a number{}", bounds.describe(|number| format!("{number}"))),
            Self::Boolean => "true or false (or on, off, yes, no)".to_owned(),
            Self::Duration(bounds) => match bounds.describe(|duration| print_duration(*duration)) {
                range if range.is_empty() => "a duration such as 30s or 1h30m".to_owned(),
                range => format!("a duration{range}"),
            },
            Self::Bytes(bounds) => match bounds.describe(|bytes| print_bytes(*bytes)) {
                range if range.is_empty() => "a size such as 512KB or 16MB".to_owned(),
                range => format!("a size{range}"),
            },
            Self::Address { ip_only: true } => "an IP address and port such as 127.0.0.1:8080".to_owned(),
            Self::Address { ip_only: false } => "a host and port such as example.com:8080".to_owned(),
            Self::Ip => "an IP address such as 127.0.0.1".to_owned(),
            Self::Url { schemes } => match schemes.as_slice() {
                [] => "a URL such as https://example.com/".to_owned(),
                schemes => format!("a URL that begins with {}:", schemes.join(": or ")),
            },
            Self::Enum(words) => format!("one of {}", words.join(", ")),
            Self::List { items, length } => {
                let unit = if length == &Bounds::default() { "" } else { " items" };
                let length = length.describe(u64::to_string);
                format!("a list{length}{unit}, each {}", items.describe())
            }
            Self::Record(fields) => {
                let names: Vec<_> = fields.keys().map(String::as_str).collect();
                format!("pairs [key = value, …] with the keys {}", names.join(", "))
            }
        }
    }

    /// Reads one text. A list or a record is never one text.
    pub(crate) fn read(&self, text: &str) -> Result<Value, Refusal> {
        let out_of_range = || Err(Refusal::default());
        match self {
            Self::String { length, pattern } => {
                let characters = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
                let matches = pattern.as_ref().is_none_or(|pattern| pattern.regex.is_match(text));
                if !length.contain(&characters) {
                    return Err(Refusal::reason(format!("it has {characters}")));
                }
                if matches { Ok(Value::String(text.to_owned())) } else { out_of_range() }
            }
            Self::Integer(bounds) => match read_integer(text)? {
                number if bounds.contain(&number) => Ok(Value::Integer(number)),
                _ => out_of_range(),
            },
            Self::Float(bounds) => match read_float(text)? {
                number if bounds.contain(&number) => Ok(Value::Float(number)),
                _ => out_of_range(),
            },
            Self::Boolean => match text {
                "true" | "on" | "yes" => Ok(Value::Boolean(true)),
                "false" | "off" | "no" => Ok(Value::Boolean(false)),
                _ => Err(nearest(text, &["true", "false", "on", "off", "yes", "no"])),
            },
            Self::Duration(bounds) => match parse_duration(text).map_err(Refusal::reason)? {
                duration if bounds.contain(&duration) => Ok(Value::Duration(duration)),
                _ => out_of_range(),
            },
            Self::Bytes(bounds) => match parse_bytes(text).map_err(Refusal::reason)? {
                bytes if bounds.contain(&bytes) => Ok(Value::Bytes(bytes)),
                _ => out_of_range(),
            },
            Self::Address { ip_only } => read_address(text, *ip_only),
            Self::Ip => match text.parse::<IpAddr>() {
                Ok(ip) => Ok(Value::String(ip.to_string())),
                Err(_) => out_of_range(),
            },
            Self::Url { schemes } => read_url(text, schemes),
            Self::Enum(words) if words.iter().any(|word| word == text) => Ok(Value::String(text.to_owned())),
            Self::Enum(words) => Err(nearest(text, words)),
            Self::List { .. } | Self::Record(_) => out_of_range(),
        }
    }
}

fn nearest(text: &str, words: &[impl AsRef<str>]) -> Refusal {
    match suggest::word(text, words.iter().map(AsRef::as_ref)) {
        Some(word) => Refusal::hint(format!("did you mean `{word}`?")),
        None => Refusal::default(),
    }
}

/// `_` only between two digits.
fn without_underscores(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let misplaced = bytes
        .iter()
        .enumerate()
        .any(|(at, c)| *c == b'_' && !(digit(at.checked_sub(1)) && digit(Some(at + 1))));
    (!misplaced).then(|| text.replace('_', ""))
}

fn read_integer(text: &str) -> Result<i64, Refusal> {
    let plain = without_underscores(text).ok_or_else(Refusal::default)?;
    let digits = plain.strip_prefix(['-', '+']).unwrap_or(&plain);
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|c| c.is_ascii_digit()) {
        // 0644 is 420 to some and 644 to others.
        return Err(Refusal::reason("a leading zero has more than one reading"));
    }
    match plain.parse() {
        Ok(number) => Ok(number),
        Err(_) if !digits.is_empty() && digits.bytes().all(|c| c.is_ascii_digit()) => {
            Err(Refusal::reason("it is more than 64 bits hold"))
        }
        Err(_) => Err(Refusal::default()),
    }
}

fn read_float(text: &str) -> Result<f64, Refusal> {
    let plain = without_underscores(text).ok_or_else(Refusal::default)?;
    // Rust also reads `inf`, `nan` and `infinity`; nothing that an operator means.
    if plain.bytes().any(|c| c.is_ascii_alphabetic() && !matches!(c, b'e' | b'E')) {
        return Err(Refusal::default());
    }
    match plain.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) => Err(Refusal::reason("it is too large")),
        Err(_) => Err(Refusal::default()),
    }
}

fn read_address(text: &str, ip_only: bool) -> Result<Value, Refusal> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Value::String(address.to_string()));
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Refusal::reason("it has no port"));
    };
    if host.is_empty() || host == "*" {
        return Err(Refusal::hint(
            "0.0.0.0 stands for every IPv4 address of the machine, [::] for every address",
        ));
    }
    if host.contains(':') && !host.starts_with('[') {
        return Err(Refusal::hint(
            "an IPv6 address stands in brackets, and all of it in quotes: \"[::1]:8080\"",
        ));
    }
    if port.parse::<u16>().is_err() {
        return Err(Refusal::reason("its port is no number up to 65535"));
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let numbers_only = host.chars().all(|c| c.is_ascii_digit() || c == '.');
    if ip_only {
        return Err(Refusal::reason("the host is not an IP address"));
    }
    if host.chars().all(name) && !host.starts_with(['-', '.']) && !numbers_only {
        return Ok(Value::String(text.to_owned()));
    }
    Err(Refusal::reason("its host is neither a name nor an IP address"))
}

fn read_url(text: &str, schemes: &[String]) -> Result<Value, Refusal> {
    let Ok(uri) = Uri::parse(text) else {
        return Err(Refusal::default());
    };
    let scheme = uri.scheme().as_str();
    if !schemes.is_empty() && !schemes.iter().any(|allowed| allowed.eq_ignore_ascii_case(scheme)) {
        return Err(Refusal::default());
    }
    // `localhost:8080` parses as a URI of the scheme `localhost`.
    if uri.authority().is_none() {
        return Err(Refusal::reason("`//` does not follow its scheme"));
    }
    Ok(Value::String(text.to_owned()))
}
