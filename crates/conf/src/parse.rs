//! The grammar of `app.conf`.
//!
//! ```text
//! file     = { line }
//! line     = blanks, [ comment | include | setting ], ( newline | end )
//! include  = "include", blank, scalar, [ blank, comment ]
//! setting  = key, "=", value, [ blank, comment ]          blanks anywhere between
//! comment  = "#", anything up to the line's end
//! key      = segment, { ".", segment }
//! segment  = { letter | digit | "_" | "-" | "\." } | double
//! value    = item, { ",", item }, [ "," ]                 in list.rs
//! scalar   = double | single | triple | bare              in scalar.rs
//! ```
//!
//! A line that is wrong is reported and left out; the next line is read as if nothing had happened, so that all
//! mistakes of a file are found at once.

use std::borrow::Cow;

use winnow::combinator::{alt, opt, peek, separated};
use winnow::error::{ErrMode, ModalResult, ParserError};
use winnow::prelude::*;
use winnow::stream::{LocatingSlice, Location};
use winnow::token::{any, rest, take_till, take_while};

use crate::ast::{Document, Include, Item, Node, Setting};
use crate::key::{Key, is_plain};
use crate::list::list_or_item;
use crate::scalar::{double_text, scalar};
use crate::source::Span;

pub(crate) type Input<'i> = LocatingSlice<&'i str>;
pub(crate) type Parsed<T> = ModalResult<T, Box<Mistake>>;

/// A place where the text is not what the grammar allows. The words never repeat the text: it may be secret.
#[derive(Debug, Clone)]
pub(crate) struct Mistake {
    pub(crate) span: Span,
    pub(crate) message: Cow<'static, str>,
    pub(crate) hint: Option<Cow<'static, str>>,
    /// The key whose value it is in, and where that value begins.
    pub(crate) within: Option<(Key, usize)>,
    /// Nothing after it can be read: a text that is never closed.
    until_end: bool,
}

impl Mistake {
    pub(crate) fn new(span: Span, message: impl Into<Cow<'static, str>>) -> Self {
        Self { span, message: message.into(), hint: None, within: None, until_end: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn until_end(mut self) -> Self {
        self.until_end = true;
        self
    }

    /// As an error that no alternative can repair.
    pub(crate) fn cut<T>(self) -> Parsed<T> {
        Err(ErrMode::Cut(Box::new(self)))
    }
}

impl ParserError<Input<'_>> for Box<Mistake> {
    type Inner = Self;

    fn from_input(input: &Input<'_>) -> Self {
        let at = input.current_token_start();
        Self::new(Mistake::new(at..at, "something else was expected here"))
    }

    fn into_inner(self) -> Result<Self::Inner, Self> {
        Ok(self)
    }
}

/// Reads a whole file: what could be read, and every mistake.
pub(crate) fn document(text: &str) -> (Document, Vec<Mistake>) {
    let mut input = LocatingSlice::new(text);
    let mut document = Document::default();
    let mut mistakes = Vec::new();
    // Editors on other systems begin a file with a byte order mark.
    let _: Parsed<_> = opt('\u{feff}').parse_next(&mut input);
    while !input.is_empty() {
        match line(&mut input) {
            Ok(item) => document.items.push(item),
            Err(error) => {
                let at = input.current_token_start();
                let mistake = error
                    .into_inner()
                    .map_or_else(|_| Mistake::new(at..at, "the line cannot be read"), |mistake| *mistake);
                skip_line(&mut input, mistake.until_end);
                mistakes.push(mistake);
            }
        }
    }
    (document, mistakes)
}

/// Reads a text that is a key and nothing else; the error is the reason.
pub(crate) fn key(text: &str) -> Result<Key, String> {
    key_segments
        .parse(LocatingSlice::new(text))
        .map(Key::new)
        .map_err(|error| error.inner().message.to_string())
}

/// Reads a schema's key: `*` and `$name` stand for any one segment.
pub(crate) fn pattern(text: &str) -> Result<Key, String> {
    let wildcard = alt((wildcard_name, "*")).map(Box::from);
    let one = alt((wildcard, segment));
    let mut segments = separated(1.., one, '.');
    let read: Result<Vec<_>, _> = segments.parse(LocatingSlice::new(text));
    read.map(Key::new).map_err(|error| error.inner().message.to_string())
}

/// `$name`
fn wildcard_name<'i>(input: &mut Input<'i>) -> Parsed<&'i str> {
    ('$', take_while(1.., is_plain)).take().parse_next(input)
}

/// Reads a text that is a value and nothing else.
pub(crate) fn value(text: &str) -> Result<Node, Mistake> {
    let mut input = LocatingSlice::new(text);
    let read = (blanks, list_or_item, blanks, line_end).parse_next(&mut input);
    match read {
        Ok((_, node, _, _)) if input.is_empty() => Ok(node),
        Ok(_) => {
            let at = input.current_token_start();
            Err(Mistake::new(at..text.len(), "a value is one line"))
        }
        Err(error) => {
            Err(error.into_inner().map_or_else(|_| Mistake::new(0..0, "no value"), |mistake| *mistake))
        }
    }
}

fn skip_line(input: &mut Input<'_>, until_end: bool) {
    let _: Parsed<_> =
        if until_end { rest.parse_next(input) } else { take_till(0.., '\n').parse_next(input) };
    let _: Parsed<_> = opt(any).parse_next(input);
}

pub(crate) fn blanks(input: &mut Input<'_>) -> Parsed<()> {
    take_while(0.., [' ', '\t']).void().parse_next(input)
}

/// A newline or the end of the text; anything else backtracks.
fn line_end(input: &mut Input<'_>) -> Parsed<()> {
    alt(("\n".void(), "\r\n".void(), winnow::combinator::eof.void())).parse_next(input)
}

pub(crate) fn at_line_end(input: &mut Input<'_>) -> bool {
    peek(line_end).parse_next(input).is_ok()
}

/// From `#` to the line's end, which is left.
fn comment(input: &mut Input<'_>) -> Parsed<Span> {
    let span = ('#', take_till(0.., '\n')).span().parse_next(input)?;
    Ok(span)
}

fn line(input: &mut Input<'_>) -> Parsed<Item> {
    let start = input.current_token_start();
    blanks(input)?;
    if let Some(comment) = opt(comment).parse_next(input)? {
        line_end(input)?;
        return Ok(Item::Comment(comment));
    }
    if opt(line_end).parse_next(input)?.is_some() {
        return Ok(Item::Blank);
    }
    if opt(include_word).parse_next(input)?.is_some() {
        let pattern = scalar(false).parse_next(input)?;
        let comment = end_of_statement(input)?;
        return Ok(Item::Include(Include { pattern, comment }));
    }
    setting(input, start).map(Item::Setting)
}

/// `include` before a pattern; `include = x` and `include.x = y` are settings.
fn include_word(input: &mut Input<'_>) -> Parsed<()> {
    ("include", take_while(1.., [' ', '\t'])).parse_next(input)?;
    if peek(opt('=')).parse_next(input)?.is_some() {
        return Err(ErrMode::Backtrack(ParserError::from_input(input)));
    }
    Ok(())
}

fn setting(input: &mut Input<'_>, start: usize) -> Parsed<Setting> {
    let (segments, key_span) = key_segments.with_span().parse_next(input)?;
    let key = Key::new(segments);
    blanks(input)?;
    equals(input, &key_span)?;
    let value_start = input.current_token_start();
    let read = |input: &mut Input<'_>| {
        blanks(input)?;
        let value = list_or_item(input)?;
        let comment = end_of_statement(input)?;
        Ok((value, comment))
    };
    let (value, comment) = read(input).map_err(|error: ErrMode<Box<Mistake>>| {
        error.map(|mut mistake| {
            mistake.within = Some((key.clone(), value_start));
            mistake
        })
    })?;
    let line = start..input.current_token_start();
    Ok(Setting { key, key_span, value, comment, line })
}

fn equals(input: &mut Input<'_>, key: &Span) -> Parsed<()> {
    if opt('=').parse_next(input)?.is_some() {
        return Ok(());
    }
    let at = input.current_token_start();
    let next = input.chars().next();
    let span = at..at + next.map_or(0, char::len_utf8);
    let mistake = Mistake::new(span, "`=` was expected after the key");
    match next {
        Some(':') => mistake.hint("`key = value`: a colon does not separate"),
        Some('*' | '$') => mistake.hint("wildcards stand in the schema only; write the name itself"),
        None | Some('\n' | '\r') => {
            Mistake::new(key.clone(), "a key without a value").hint("a setting is `key = value`")
        }
        Some(_) => mistake.hint("a setting is `key = value`; a key with other characters needs quotes"),
    }
    .cut()
}

pub(crate) fn key_segments(input: &mut Input<'_>) -> Parsed<Vec<Box<str>>> {
    let mut segments = vec![segment(input)?];
    while opt('.').parse_next(input)?.is_some() {
        segments.push(segment(input)?);
    }
    Ok(segments)
}

/// One segment of a key: quoted, or plain with `\.` for a dot.
pub(crate) fn segment(input: &mut Input<'_>) -> Parsed<Box<str>> {
    let start = input.current_token_start();
    let mut segment = String::new();
    if input.starts_with('"') {
        segment = double_text(input)?;
    } else {
        let plain: &str = take_while(0.., is_plain).parse_next(input)?;
        if !plain.is_empty() && !input.starts_with('\\') {
            return Ok(plain.into());
        }
        segment.push_str(plain);
        while let Some(piece) = opt(alt((take_while(1.., is_plain), "\\."))).parse_next(input)? {
            segment.push_str(if piece == "\\." { "." } else { piece });
        }
    }
    if !segment.is_empty() {
        return Ok(segment.into());
    }
    let at = input.current_token_start();
    let next = input.chars().next();
    let span = start..at + if at == start { next.map_or(0, char::len_utf8) } else { 0 };
    let mistake = Mistake::new(span, "a key was expected here");
    match next {
        Some('[') => {
            mistake.hint("there are no sections; write the whole key on each line: group.key = value")
        }
        Some(';') => mistake.hint("a comment starts with `#`"),
        Some('*' | '$') => mistake.hint("wildcards stand in the schema only; write the name itself"),
        Some('.') | None => mistake.hint("a segment of the key is empty"),
        Some('=') => mistake.hint("a setting is `key = value`"),
        Some(_) => mistake
            .hint("a key is segments of letters, digits, `_` and `-`, joined by dots; others need quotes"),
    }
    .cut()
}

/// Blanks, a comment after at least one blank, and the line's end.
fn end_of_statement(input: &mut Input<'_>) -> Parsed<Option<Span>> {
    let before = input.current_token_start();
    blanks(input)?;
    let at = input.current_token_start();
    let found = opt(comment).parse_next(input)?;
    if found.is_some() && before == at {
        return Mistake::new(at..at + 1, "a comment needs a blank before its `#`")
            .hint("if the `#` belongs to the value, put the whole value in quotes")
            .cut();
    }
    if opt(line_end).parse_next(input)?.is_some() {
        return Ok(found);
    }
    let junk: &str = take_till(0.., ['\n', '\r']).parse_next(input)?;
    Mistake::new(at..at + junk.len().max(1), "nothing more was expected after the value")
        .hint("a comma separates items; a text with quotes or brackets in it needs quotes around all of it")
        .cut()
}
