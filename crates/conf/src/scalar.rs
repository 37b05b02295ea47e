//! Texts in `app.conf`, in four ways of writing.
//!
//! ```text
//! double  = '"', { character | "\" escape | variable }, '"'      escapes: \" \\ \n \r \t \$ \u{hex}
//! single  = "'", { character }, "'"                               nothing in it means anything
//! triple  = "'''", { character | newline }, "'''"                 nor here; the outermost newlines are not part
//! bare    = character, { character | variable }                   ends at "," and at blanks before "#"
//! variable = "${", NAME, [ ":-", text ], "}"
//! ```
//!
//! Bare and double-quoted texts that begin with `file:/path` stand for that file's content. What Conform and
//! cuttlefish read in surprising ways is an error here, with advice: `a#b`, `x\, y`, `$(key)`, `{x, y}`.

use winnow::combinator::opt;
use winnow::prelude::*;
use winnow::stream::{Location, Stream};
use winnow::token::{any, take_till, take_while};
use zeroize::Zeroizing;

use crate::ast::{Part, Scalar};
use crate::parse::{Input, Mistake, Parsed};

/// Escapes in double quotes, for the error's advice.
const ESCAPES: &str =
    "escapes are \\\" \\\\ \\n \\r \\t \\$ \\u{2026}; in single quotes a backslash is a backslash";

/// Collects the parts of a text.
#[derive(Default)]
struct Parts {
    done: Vec<Part>,
    text: Zeroizing<String>,
}

impl Parts {
    fn variable(&mut self, variable: Part) {
        if !self.text.is_empty() {
            self.done.push(Part::Text(std::mem::take(&mut self.text)));
        }
        self.done.push(variable);
    }

    fn finish(mut self) -> Vec<Part> {
        if !self.text.is_empty() {
            self.done.push(Part::Text(self.text));
        }
        self.done
    }
}

/// One text; `inside` brackets a bare one also ends at `]`.
pub(crate) fn scalar<'i>(inside: bool) -> impl FnMut(&mut Input<'i>) -> Parsed<Scalar> {
    move |input| {
        let start = input.current_token_start();
        if input.starts_with('"') {
            let file = is_file(&input[1..]);
            let parts = double(input)?;
            return Ok(Scalar { parts, file, span: start..input.current_token_start() });
        }
        if input.starts_with('\'') {
            let text = if input.starts_with("'''") { triple(input)? } else { single(input)? };
            let parts = Parts { done: Vec::new(), text };
            return Ok(Scalar {
                parts: parts.finish(),
                file: false,
                span: start..input.current_token_start(),
            });
        }
        let file = is_file(input);
        let (parts, end) = bare(input, inside)?;
        Ok(Scalar { parts, file, span: start..end })
    }
}

/// Whether a text refers to a file: `file:/path` or `file:${DIRECTORY}/name`, but not the URL `file:///path`.
fn is_file(text: &str) -> bool {
    match text.strip_prefix("file:") {
        Some(path) => path.starts_with("${") || (path.starts_with('/') && !path.starts_with("//")),
        None => false,
    }
}

/// The text of a quoted segment of a key: as a double-quoted text, without variables.
pub(crate) fn double_text(input: &mut Input<'_>) -> Parsed<String> {
    let start = input.current_token_start();
    let parts = double(input)?;
    let mut text = String::new();
    for part in parts {
        match part {
            Part::Text(piece) => text.push_str(&piece),
            Part::Variable { span, .. } => {
                return Mistake::new(span, "a variable cannot stand in a key")
                    .hint("\\$ is a dollar sign")
                    .cut();
            }
        }
    }
    if text.is_empty() {
        return Mistake::new(start..input.current_token_start(), "a segment of the key is empty").cut();
    }
    Ok(text)
}

fn never_closed<T>(at: usize, width: usize) -> Parsed<T> {
    Mistake::new(at..at + width, "this quote is never closed").hint("a text in quotes ends on its line").cut()
}

/// Whether `c` may not stand in a text as itself.
fn is_control(c: char) -> bool {
    c.is_control() && c != '\t'
}

fn control<T>(at: usize, c: char) -> Parsed<T> {
    let message = format!("a control character (U+{:04X})", u32::from(c));
    Mistake::new(at..at + c.len_utf8(), message).hint(ESCAPES).cut()
}

fn double(input: &mut Input<'_>) -> Parsed<Vec<Part>> {
    let start = input.current_token_start();
    '"'.parse_next(input)?;
    let mut parts = Parts::default();
    loop {
        let piece = take_till(0.., |c| matches!(c, '"' | '\\' | '$') || is_control(c)).parse_next(input)?;
        parts.text.push_str(piece);
        let at = input.current_token_start();
        match input.chars().next() {
            Some('"') => {
                any.parse_next(input)?;
                return Ok(parts.finish());
            }
            Some('\\') => {
                let c = escape(input)?;
                parts.text.push(c);
            }
            Some('$') if input.starts_with("${") => parts.variable(variable(input)?),
            Some('$') => {
                any.parse_next(input)?;
                parts.text.push('$');
            }
            None | Some('\n' | '\r') => return never_closed(start, 1),
            Some(c) => return control(at, c),
        }
    }
}

fn escape(input: &mut Input<'_>) -> Parsed<char> {
    let start = input.current_token_start();
    '\\'.parse_next(input)?;
    let known = match input.chars().next() {
        Some('n') => Some('\n'),
        Some('r') => Some('\r'),
        Some('t') => Some('\t'),
        Some(c @ ('"' | '\\' | '$')) => Some(c),
        _ => None,
    };
    if let Some(c) = known {
        any.parse_next(input)?;
        return Ok(c);
    }
    if let Some(hex) =
        opt(("u{", take_while(1..=6, |c: char| c.is_ascii_hexdigit()), '}')).parse_next(input)?
    {
        let code = u32::from_str_radix(hex.1, 16).ok().and_then(char::from_u32);
        return match code {
            Some(c) => Ok(c),
            None => Mistake::new(start..input.current_token_start(), "no such character").cut(),
        };
    }
    Mistake::new(start..start + 1, "an unknown escape").hint(ESCAPES).cut()
}

fn single(input: &mut Input<'_>) -> Parsed<Zeroizing<String>> {
    let start = input.current_token_start();
    '\''.parse_next(input)?;
    let text = take_till(0.., |c| c == '\'' || is_control(c)).parse_next(input)?;
    let at = input.current_token_start();
    match input.chars().next() {
        Some('\'') => {
            any.parse_next(input)?;
            Ok(Zeroizing::new(text.to_owned()))
        }
        None | Some('\n' | '\r') => never_closed(start, 1),
        Some(c) => control(at, c),
    }
}

fn triple(input: &mut Input<'_>) -> Parsed<Zeroizing<String>> {
    let start = input.current_token_start();
    "'''".parse_next(input)?;
    let Some(length) = input.find("'''") else {
        return Mistake::new(start..start + 3, "this ''' is never closed").until_end().cut();
    };
    let begin = input.current_token_start();
    let text = winnow::token::take(length).parse_next(input)?;
    "'''".parse_next(input)?;
    let refused = |(_, c): &(usize, char)| is_control(*c) && *c != '\n';
    let text = Zeroizing::new(text.replace("\r\n", "\n"));
    if let Some((at, c)) = text.char_indices().find(refused) {
        return control(begin + at, c);
    }
    let text_trimmed = text.strip_prefix('\n').unwrap_or(&text);
    Ok(Zeroizing::new(text_trimmed.strip_suffix('\n').unwrap_or(text_trimmed).to_owned()))
}

/// A text without quotes, and where it ends without the blanks after it.
fn bare(input: &mut Input<'_>, inside: bool) -> Parsed<(Vec<Part>, usize)> {
    let whole: &str = input;
    let start = input.current_token_start();
    // What was read since `from` and up to `end` is text as it stands; the blanks after `end` may yet belong to it.
    let (mut parts, mut from, mut end) = (Parts::default(), start, start);
    loop {
        let before = input.checkpoint();
        let gap: &str = take_while(0.., [' ', '\t']).parse_next(input)?;
        let next = input.chars().next();
        let ends = match next {
            None | Some('\n' | ',') => true,
            Some('\r') => input.starts_with("\r\n"),
            Some(']') => inside,
            Some('#') => !gap.is_empty() || end == start,
            Some(_) => false,
        };
        let Some(c) = next.filter(|_| !ends) else {
            // The blanks belong to what follows: a comment needs one before it.
            input.reset(&before);
            break;
        };
        refuse(input, c, end == start)?;
        if input.starts_with("${") {
            let at = input.current_token_start();
            parts.text.push_str(&whole[from - start..at - start]);
            parts.variable(variable(input)?);
            from = input.current_token_start();
        } else {
            any.parse_next(input)?;
            take_while(0.., is_ordinary).void().parse_next(input)?;
        }
        end = input.current_token_start();
    }
    if end == start {
        return no_value(input);
    }
    parts.text.push_str(&whole[from - start..end - start]);
    Ok((parts.finish(), end))
}

/// Whether `c` has no meaning in any bare text.
fn is_ordinary(c: char) -> bool {
    !matches!(c, ' ' | '\t' | ',' | ']' | '#' | '"' | '\\' | '$') && !c.is_control()
}

fn no_value<T>(input: &Input<'_>) -> Parsed<T> {
    let start = input.current_token_start();
    match input.chars().next() {
        Some(',') => Mistake::new(start..start + 1, "an item is missing before this comma").cut(),
        Some('#') => Mistake::new(start..start + 1, "a value was expected, and a comment follows")
            .hint("if the `#` belongs to the value, put the whole value in quotes; an empty text is \"\"")
            .cut(),
        _ => Mistake::new(start..start, "a value was expected here").hint("an empty text is \"\"").cut(),
    }
}

/// What a bare text may not hold, because it would not mean what it seems to mean.
fn refuse(input: &Input<'_>, c: char, first: bool) -> Parsed<()> {
    let at = input.current_token_start();
    let mistake = match c {
        '{' if first => Mistake::new(at..at + 1, "a value cannot begin with a brace")
            .hint("a text needs quotes; pairs are [key = value, key = value]"),
        '#' => Mistake::new(at..at + 1, "a `#` within a text without quotes")
            .hint("put the whole value in quotes, or a blank before the `#` if a comment begins there"),
        '"' => Mistake::new(at..at + 1, "a quote within a text without quotes")
            .hint("put the whole value in quotes, with \\\" for a quote in it"),
        '\\' if input.starts_with("\\,") => {
            Mistake::new(at..at + 2, "an escaped comma").hint("put a text with a comma in quotes")
        }
        '$' if input.starts_with("$(") => Mistake::new(at..at + 2, "`$(key)` is not known")
            .hint("${NAME} takes an environment variable; a text with `$(` needs quotes"),
        c if is_control(c) => return control(at, c),
        _ => return Ok(()),
    };
    mistake.cut()
}

/// `${NAME}` or `${NAME:-default}`.
fn variable(input: &mut Input<'_>) -> Parsed<Part> {
    let start = input.current_token_start();
    "${".parse_next(input)?;
    let name: &str = take_while(0.., |c: char| c.is_ascii_alphanumeric() || c == '_').parse_next(input)?;
    let default = match opt(":-").parse_next(input)? {
        Some(_) => {
            let text: &str = take_till(0.., |c| matches!(c, '}' | '"') || is_control(c)).parse_next(input)?;
            Some(Zeroizing::new(text.to_owned()))
        }
        None => None,
    };
    let closed = opt('}').parse_next(input)?.is_some();
    let span = start..input.current_token_start();
    let nested = default.as_ref().is_some_and(|text| text.contains("${"));
    if !closed || nested || name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Mistake::new(span, "a variable is ${NAME} or ${NAME:-default}")
            .hint("a text with `${` in it needs single quotes, or \\$ in double quotes")
            .cut();
    }
    Ok(Part::Variable { name: name.to_owned(), default, span })
}
